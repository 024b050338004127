"""What the search for strings needs of a text encoder, of a pipeline or a matcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextSide(Protocol):
    """The tokenizer of a text encoder, and how much it reads."""

    @property
    def context_length(self) -> int: ...

    @property
    def vocabulary(self) -> dict[str, int]: ...

    def tokenize(self, text: str) -> list[int]: ...

    def text_of(self, ids: Sequence[int]) -> str: ...
