"""The loops that the zoo's trainings share: a plain one, and one with checkpoints and a running average of the weights."""

from __future__ import annotations

import ast
import copy
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to zero: a factor of the learning rate."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def descend(
    called: str,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    steps: int,
    warm_up: int = 20,
    clip: bool = True,
) -> None:
    """So many steps of an optimiser, from its own learning rate down. ``clip``: the gradient's norm to 1."""
    rate = optimizer.param_groups[0]["lr"]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps, warm_up)
        now = loss()
        optimizer.zero_grad()
        now.backward()
        if clip:
            nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"{called}: step {step + 1}/{steps}, loss {now.item():.4f}")


class Source(Protocol):
    """What batches are drawn from, with the two random streams that draw them."""

    generator: torch.Generator
    rng: random.Random


Model = TypeVar("Model", bound=nn.Module)


class Training(ABC, Generic[Model]):
    """One optimiser on one model; subclasses say what a step shows (`batch`) and what is asked of it (`loss`).

    An interrupted training, resumed from its checkpoint, goes on as one that was not.
    """

    called: ClassVar[str]
    """What progress lines begin with."""
    warm_up: ClassVar[int] = 100
    """Steps over which the learning rate rises."""
    keep_every: ClassVar[int] = 100
    """Steps between two checkpoints."""
    memory: ClassVar[float] = 0.999
    """Share of the running average that a step leaves as it is."""

    def __init__(self, model: Model, source: Source, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self._source = model, optimizer, source
        self.average: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def batch(self) -> Any:
        """What a step shows: what a twin changes."""

    @abstractmethod
    def loss(self, shown: Any) -> Tensor:
        """What the step makes smaller."""

    def after_step(self) -> None:
        """Once the weights have moved."""

    def before_checkpoint(self) -> None:
        """Drop what would not be in the checkpoint, so that the training goes on from here as a resumed one does."""

    def run(
        self,
        steps: int,
        learning_rate: float,
        checkpoint: Path | None = None,
        warm_up: int | None = None,
        planned: int | None = None,
    ) -> None:
        """Train up to step `steps`; warm-up and a cosine over `planned` steps (by default as many)."""
        began, total = time.monotonic() - self.seconds, 0.0
        rising = self.warm_up if warm_up is None else warm_up
        moving = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train()
        while self.step < steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * schedule(self.step, planned or steps, rising)
            loss = self.loss(self.batch())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(moving, 1.0)
            self.optimizer.step()
            self.step += 1
            self.after_step()
            self._follow()
            total += loss.item()
            self.seconds = time.monotonic() - began
            if self.step % 100 == 0:
                print(f"{self.called}: step {self.step}/{steps}, loss {total / 100:.4f}, {self.seconds:.0f} s")
                total = 0.0
            if checkpoint and self.step % self.keep_every == 0:
                self.before_checkpoint()
                self.save_checkpoint(checkpoint)
        self.model.eval()

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.memory, self.step / (self.step + 10))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        moving = [(mean, now) for mean, now in pairs if now.requires_grad]
        torch._foreach_lerp_([mean for mean, _ in moving], [now for _, now in moving], 1 - keep)

    def save_checkpoint(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self._source.generator.get_state(),
            "rng": repr(self._source.rng.getstate()),
            "step": self.step,
            "seconds": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self, path: Path) -> None:
        """Restore the state of `save_checkpoint`, random streams included, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._source.generator.set_state(state["generator"])
        self._source.rng.setstate(ast.literal_eval(state["rng"]))
        self.step, self.seconds = state["step"], state["seconds"]
