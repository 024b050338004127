"""Prompts that show examples from a pool of the user's: in-context learning and retrieval (survey section 3.2.1).

A pool is a data set in the ImageFolder convention, or a bundled one. A row with an ``answer`` (or a label) is a
demonstration: picture, question, answer. A row with a ``text`` alone is a document, which stands before the question.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from vlaudit.data.dataset import Dataset, is_remote, load_dataset
from vlaudit.data.example import Example
from vlaudit.errors import UsageError
from vlaudit.families.generation import GenerationPrompt
from vlaudit.files import user_path
from vlaudit.prompts.instruction import check_instruction

if TYPE_CHECKING:
    from vlaudit.families.generation import Demonstration, GenerationModel


def load_pool(source: str) -> Dataset:
    """The pool that a folder (also ``hf:PATH``, ``wds:SHARDS``) or ``zoo:NAME`` holds: its train split, where it has one. Raises UsageError."""
    if is_remote(source):
        raise UsageError(f"The pool '{source}' is not on this disk.", "Save it with save_to_disk, and give hf:PATH.")
    data = load_dataset(source if source.startswith(("zoo:", "hf:", "wds:")) else user_path(source))
    train = [example for example in data.examples if example.split == "train"]
    usable = [e for e in train or data.examples if e.answer or e.texts.get("text")]
    if not usable:
        raise UsageError(
            f"The pool '{source}' shows nothing: no row has an answer, a label or a text.",
            "Add a metadata.csv with file_name, question and answer, or put the pictures into folders named by label.",
        )
    return Dataset(source, usable)


def whole_number(options: dict[str, str], key: str, default: int, least: int = 0) -> int:
    """An option that counts. Raises UsageError."""
    text = options.get(key, str(default))
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise UsageError(f"'{key}={text[:40]}' is no whole number from {least} to a billion.", f"Write for example {key}={default}.")
    return int(text)


class PoolPrompt(GenerationPrompt):
    """A prompt with a pool. ``with_pool`` gives the same prompt with other examples, which is how a probe plants some."""

    has_context = True

    def __init__(self, pool: Dataset, k: int, template: str) -> None:
        self.pool = pool
        self.k = min(k, len(pool.examples))
        self.template = check_instruction(template)
        self._given: tuple[Demonstration, ...] | None = None
        self._shown: dict[tuple[int, str], Demonstration] = {}

    def sha256(self) -> str:
        return self.pool.sha256

    def with_pool(self, demonstrations: Sequence[Demonstration]) -> Self:
        """The same prompt with these in place of the pool's."""
        other = copy.copy(self)
        other._given, other._shown = tuple(demonstrations), {}
        return other

    def pool_of(self, model: GenerationModel) -> tuple[Demonstration, ...]:
        """All that there is to show, its pictures as the model takes them."""
        if self._given is not None:
            return self._given
        return tuple(self._show(model, example) for example in self.pool.examples)

    def _show(self, model: GenerationModel, example: Example) -> Demonstration:
        from vlaudit.families.generation import Demonstration

        key = (id(model), example.id)
        if key not in self._shown:
            text = example.texts.get("text", "")
            self._shown[key] = Demonstration(
                id=example.id,
                question=example.question if example.answer else text,
                answer=example.answer,
                picture=model.preprocess(example.open()),
                label=example.label,
                attributes=dict(example.attributes),
            )
        return self._shown[key]
