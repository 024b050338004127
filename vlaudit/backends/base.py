"""The backend contract, and what backends share: padding, soft tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.families.base import Model
    from vlaudit.families.matching import SoftTokens, TokenSequence


class Backend(ABC):
    """Turns ``NAME:ARGUMENT`` into a model. ``is_remote`` tells whether that needs the network."""

    @abstractmethod
    def is_remote(self, argument: str) -> bool:
        """True unless everything lies on this disk."""

    @abstractmethod
    def family(self, argument: str) -> Family:
        """The family of the model that this names; reads at most its configuration. Raises ModelError or UsageError."""

    @abstractmethod
    def files(self, argument: str) -> list[Path]:
        """The files that loading would read, for checks that run before it; empty for a remote model."""

    @abstractmethod
    def load(self, argument: str, device: torch.device) -> Model:
        """Load the model in float32 for inference. Raises ModelError or UnsafeFileError with the cure."""


def local_folder(argument: str) -> Path | None:
    """The folder an argument names, if it looks like a path or exists; None for a hub name.

    Raises UsageError for what can only be a path and does not exist.
    """
    path = Path(argument).expanduser()
    if path.is_dir():
        return path
    if argument.startswith((".", "/", "~")) or argument.count("/") > 1:
        raise UsageError(f"The model folder '{argument}' does not exist.", "Give a folder, or a hub name ORG/NAME.")
    return None


def pad(
    sequences: Sequence[TokenSequence], limit: int, pad_id: int, to_limit: bool
) -> tuple[list[list[int]], list[int]]:
    """Cut each sequence to ``limit`` tokens (its tail stays) and pad. Returns ids and lengths without padding."""
    rows, lengths = [], []
    for sequence in sequences:
        tail = sequence.ids[len(sequence.ids) - sequence.tail :]
        ids = sequence.ids if len(sequence.ids) <= limit else sequence.ids[: limit - len(tail)] + tail
        rows.append(ids)
        lengths.append(len(ids))
    width = limit if to_limit else max(lengths)
    return [row + [pad_id] * (width - len(row)) for row in rows], lengths


@contextmanager
def soft_tokens(table: torch.nn.Module, soft: SoftTokens | None, once: bool = False) -> Iterator[None]:
    """While open, the token-embedding table returns ``soft.values`` at ``soft.slots``; gradients flow into them.

    ``once``: only at its first use, such as the prompt that an answer is generated from.
    """
    if soft is None:
        yield
        return

    def replace(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        import torch

        if once:
            handle.remove()
        slots = torch.tensor(soft.slots, device=output.device)
        rows = torch.arange(len(slots), device=output.device)[:, None].expand_as(slots)
        values = soft.values if soft.values.dim() == 3 else soft.values.expand(len(slots), -1, -1)
        return output.index_put((rows, slots), values.to(output))

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
