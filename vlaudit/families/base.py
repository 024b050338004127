"""What targets of all families share."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vlaudit.probe import Needs
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch

    from vlaudit.prompts.base import Prompt


@dataclass
class Meter:
    """Counts what an audit spends: examples passed forward (``queries``) and backward (``gradient_steps``)."""

    queries: int = 0
    gradient_steps: int = 0

    def snapshot(self) -> tuple[int, int]:
        return self.queries, self.gradient_steps


class Model(ABC):
    """Weights and their processor, of one family, loaded by a backend. Knows no prompt."""

    family: ClassVar[Family]
    spec: str  # how the user named it
    sha256: str  # fingerprint of the weight files, see `vlaudit.backends.base.fingerprint`
    files: list[Path]  # what was read from disk
    device: torch.device


class Target(ABC):
    """A model under a prompt: what is audited."""

    family: ClassVar[Family]
    capabilities: frozenset[Needs]

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self.model = model
        self.prompt = prompt
        self.meter = Meter()

    @property
    def device(self) -> torch.device:
        return self.model.device
