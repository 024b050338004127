"""What targets of all families share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vlaudit.probe import Needs
from vlaudit.records import Cost, Family

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.audit.context import Context
    from vlaudit.prompts.base import Prompt


@dataclass
class Meter:
    """Counts what an audit spends: examples passed forward (``queries``) and backward (``gradient_steps``)."""

    queries: int = 0
    gradient_steps: int = 0

    def snapshot(self) -> tuple[int, int]:
        return self.queries, self.gradient_steps


@dataclass(frozen=True)
class Speed:
    """Measured seconds a query, forward only and forward with backward, and of a text read by the text encoder alone."""

    forward: float
    backward: float
    text: float = 0.0

    def seconds(self, cost: Cost) -> float:
        """Estimated seconds of a cost: a gradient step is a forward and a backward pass."""
        plain = max(cost.queries - cost.gradient_steps - cost.texts, 0)
        return plain * self.forward + cost.gradient_steps * self.backward + cost.texts * self.text


class Model(ABC):
    """Weights and their processor, of one family, loaded by a backend. Knows no prompt."""

    family: ClassVar[Family]
    spec: str  # how the user named it
    sha256: str  # fingerprint of the weight files, see `vlaudit.files.fingerprint`
    files: list[Path]  # what was read from disk
    device: torch.device

    @abstractmethod
    def preprocess(self, picture: Image) -> Tensor:
        """The checkpoint's own resize and crop, without normalisation: an RGB picture to (3, H, W) in [0, 1].

        Raises CapabilityError where the model takes no pictures.
        """


class Target(ABC):
    """A model under a prompt: what is audited."""

    family: ClassVar[Family]
    capabilities: frozenset[Needs]

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self.model = model
        self.prompt = prompt
        self.meter = Meter()
        self.remarks: list[str] = []  # sentences of ``check`` on labels or captions that are not read as they are written

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abstractmethod
    def check(self, ctx: Context) -> None:
        """Raise ModelError when nothing this target says would mean anything (NaN, one answer to everything), and UsageError
        for labels that cannot be measured. Fills ``remarks``."""

    @abstractmethod
    def calibrate(self, ctx: Context) -> Speed:
        """Seconds a query from a few timed passes, for ``--dry-run`` and the time left."""


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The fastest of a few runs, in seconds; waits for the device."""
    import torch

    best = float("inf")
    for _ in range(repeats):
        then = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - then)
    return best


def listed(texts: Sequence[str], most: int = 5) -> str:
    """The first of some texts, as a sentence quotes them."""
    return ", ".join(f"'{text[:60]}{'…' * (len(text) > 60)}'" for text in texts[:most]) + " …" * (len(texts) > most)
