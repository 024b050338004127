"""All that a probe may touch: the target on one arm, the data, budgets, seeded randomness, and the artefact store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Case, Cost, Evidence, Reduced, Trial

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from vlaudit.data.dataset import Dataset
    from vlaudit.data.example import Example
    from vlaudit.families.base import Target
    from vlaudit.scorer import Scorer

SQUARE = 224  # the side that most vision towers were first trained for
Effort = Literal["quick", "standard", "thorough"]
T = TypeVar("T")


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a path of names and numbers: independent of order, batch size and executor."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass
class Context:
    """What a probe sees. ``arm`` is ``target`` or ``reference``; the same code runs on both.

    ``files`` are the model's and the prompt's files on disk; they are there even when the model could not be loaded,
    in which case ``target`` must not be touched (only probes that need nothing but files run then).

    ``share``: of what the probe would try, how much fits the audit's budget; a probe asks :meth:`afford`, and need not look at it.
    It is the same on all arms, and in ``cases`` and ``attempt``.

    ``peers``: for a probe that :class:`~vlaudit.records.Compares`, the contexts of all that are compared, each under its ``name``, in the
    order of the audit; this context stands for the first of them. For one that ``tries_elsewhere``, those of the model's prompts. Empty
    where there is one alone.
    """

    probe: str
    arm: str
    data: Dataset
    labels: list[str]
    artifacts: ArtifactStore
    seed: int = 0
    effort: Effort = "quick"
    batch_size: int = 128
    files: list[Path] = field(default_factory=list)
    share: float = 1.0
    name: str = ""  # the id of the target or reference
    peers: list[Context] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)
    reduced: list[Reduced] = field(default_factory=list)  # what ``afford`` has cut
    _target: Target | None = None
    _scorer: Callable[[], Scorer] | None = None
    _pixels: dict[str, Tensor] = field(default_factory=dict)
    _last: tuple[float, Cost] = (0.0, Cost())

    @property
    def target(self) -> Any:
        """The target of this arm; its class is the family's contract (``ImageTextMatcher`` for matching)."""
        if self._target is None:
            raise RuntimeError("this context has no loaded target")
        return self._target

    @property
    def device(self) -> torch.device:
        return self.target.device

    @property
    def examples(self) -> list[Example]:
        """The labelled pictures to measure behaviour on: the test split where there is one, and never the members."""
        return self.data.audit

    @property
    def captions(self) -> tuple[str, ...]:
        """The distinct texts to draw pictures from."""
        return self.data.captions

    @property
    def scorer(self) -> Scorer:
        """The matcher that says what a generated picture shows; loaded when it is first asked for."""
        if self._scorer is None:
            raise RuntimeError("this context has no scorer")
        return self._scorer()

    def by_effort(self, quick: T, standard: T, thorough: T) -> T:
        """The value for the chosen effort."""
        return {"quick": quick, "standard": standard, "thorough": thorough}[self.effort]

    def afford(self, count: int, what: str, least: int = 1, *, searched: bool = False, share: float | None = None) -> int:
        """How many of ``count`` things (a plural, such as "pictures"), which are there and would be tried, the budget allows: all of them
        without one, else about ``share`` (by default that of the context) of them, and never fewer than ``least``, below which nothing
        could be decided. What is cut is named in the finding; where what is left out was not ``searched`` at all, nothing is held."""
        tried = min(count, max(least, int(count * (self.share if share is None else min(share, 1.0)))))
        if tried < count:
            self.reduced.append(Reduced(what=what, tried=tried, of=count, searched=searched))
        return tried

    def require(self, count: int, least: float, what: str, cure: str = "") -> None:
        """Raise NotAssessed where the data hold fewer than ``least`` of what the verdict needs, before anything is computed."""
        if count < least:
            raise NotAssessed(f"needs at least {least:g} {what}, and there are {count}.", cure or "Give more with --data.")

    def batches(self, items: Sequence[T], size: int | None = None) -> Iterator[Sequence[T]]:
        """The items in order, ``batch_size`` (or ``size``) at a time."""
        step = size or self.batch_size
        return (items[start : start + step] for start in range(0, len(items), step))

    def remembering(self) -> AbstractContextManager[None]:
        """While open, pictures that pass through a matcher without gradients are remembered: other prompts and probes of the audit that
        ask about the same pixels do not pass them again. Not for the points of a search."""
        return getattr(self.target.model, "remembering", nullcontext)()

    def rng(self, *parts: object) -> np.random.Generator:
        """Randomness for a case: depends on the audit's seed, the probe and ``parts`` only. Not on the arm, so that
        the arms stay paired."""
        import numpy as np

        return np.random.default_rng(derive_seed(self.seed, self.probe, *_ids(parts)))

    def generator(self, *parts: object) -> torch.Generator:
        """The same as a torch generator on the CPU (draw there, then move: equal on every device)."""
        import torch

        return torch.Generator().manual_seed(derive_seed(self.seed, self.probe, *_ids(parts)))

    def pictures(self, examples: Sequence[Example]) -> list[Tensor]:
        """Model-ready pictures (3, H, W) in [0, 1] on the device, of any size where the model takes any; decoded once an
        audit."""
        for example in examples:
            if example.id not in self._pixels:
                self._pixels[example.id] = self.target.model.preprocess(self.target.prompt.shown(example))
        return [self._pixels[example.id].to(self.device) for example in examples]

    def images(self, examples: Sequence[Example]) -> Tensor:
        """The same as one tensor (N, 3, H, W). Where the model reads any size and theirs differ, the middle square of each, resized
        to ``SQUARE`` pixels."""
        import torch
        from torchvision.transforms import functional

        pictures = self.pictures(examples)
        if len({picture.shape for picture in pictures}) > 1:
            squares = (functional.center_crop(picture, [min(picture.shape[1:])] * 2) for picture in pictures)
            pictures = [functional.resize(square, [SQUARE, SQUARE], antialias=True).clamp(0, 1) for square in squares]
        return torch.stack(pictures)

    def questions(self, examples: Sequence[Example]) -> list[str]:
        """What to ask of each picture: its question, else "What is this?"."""
        return [example.question for example in examples]

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """The right answers: the column ``answer``, else the label; empty where neither is known."""
        return [example.answer or "" for example in examples]

    def choices(self, examples: Sequence[Example]) -> list[list[str]]:
        """The answers to choose from: the column ``choices``, else the labels where the question is the default one or
        answered by a label; empty where there are none."""
        return [example.choices or (list(self.labels) if example.answer in self.labels else []) for example in examples]

    def label_index(self, examples: Sequence[Example]) -> Tensor:
        """(N,) int64: positions of the examples' labels in ``self.labels``, on the device."""
        import torch

        index = {label: i for i, label in enumerate(self.labels)}
        return torch.tensor([index[str(example.label)] for example in examples], device=self.device)

    def seeds(self, count: int, *parts: object) -> list[int]:
        """Seeds of generated pictures, the same on every arm, so that the arms stay paired."""
        return [derive_seed(self.seed, self.probe, *_ids(parts), index) % 2**31 for index in range(count)]

    def start_clock(self) -> None:
        """Called by the worker before ``attempt``: cost of a trial is what was spent since the one before."""
        self._last = time.perf_counter(), self._spent()

    def _spent(self) -> Cost:
        """What all targets of this context have counted."""
        targets = {id(ctx._target): ctx._target for ctx in (self, *self.peers) if ctx._target}
        return sum((target.meter.cost() for target in targets.values()), Cost())

    def trial(self, case: Case | str, values: dict[str, Any] | None = None, *, arm: str | None = None,
              artifacts: dict[str, Evidence] | None = None) -> Trial:  # fmt: skip
        """Record a trial of this arm (or of a ``control:NAME`` or ``null:K`` arm) with its cost."""
        then, before = self._last
        self.start_clock()
        now, after = self._last
        cost = (after - before).model_copy(update={"seconds": round(now - then, 4)})
        return Trial(
            case=case if isinstance(case, str) else case.id,
            arm=arm or self.arm,
            values=values or {},
            artifacts=artifacts or {},
            cost=cost,
        )

    @property
    def on_target(self) -> bool:
        return self.arm == TARGET


def _ids(parts: Sequence[object]) -> list[object]:
    return [part.id if isinstance(part, Case) else part for part in parts]
