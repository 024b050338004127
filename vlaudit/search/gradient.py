"""Worst-case L_inf attack on the pixels of a classifier, with batches that hold survivors only.

Stages, each on the pictures that all earlier ones left unbeaten:

1. *descent*: signed gradient steps with momentum and a decaying step on the margin ``z_label - max z_other``;
2. *targeted descent*: the same against each of the runner-up classes at once, halving the field of runners-up as the
   steps go by (a class that is far behind after a quarter of the steps does not win);
3. *random search*: Square Attack (arXiv:1912.00049), which needs no gradient and so sees through masked ones.

It stands where AutoAttack (arXiv:2003.01690) stands, with three differences. The loss is a margin of raw logits, because
CLIP's logit scale of about 100 drives the gradient of cross-entropy to zero. A picture leaves the batch in the very
step that beats it. And every random number comes from the picture's own seed, so that the outcome does not depend on
which other pictures are in the batch.

Outputs that are probabilities are turned into log-probabilities, whose margin is the margin of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]
"""Images float32 (B,3,H,W) in [0,1] to logits (B,C), differentiable in the pixels."""


@dataclass(frozen=True)
class Budget:
    """The most that is spent on one picture at one epsilon."""

    steps: int = 40  # of the untargeted descent
    targets: int = 8  # runner-up classes at the start of the targeted descent
    target_steps: int = 40
    queries: int = 2000  # of random search


BUDGETS = {
    "quick": Budget(steps=15, targets=4, target_steps=16, queries=200),
    "standard": Budget(),
    "thorough": Budget(steps=100, targets=16, target_steps=100, queries=5000),
}


@dataclass
class Outcome:
    """What :func:`worst_case` found, one entry a picture."""

    correct: Tensor  # (B,) bool: the clean picture gets its label
    beaten: Tensor  # (B,) bool: correct when clean, and not after the attack
    adversarial: Tensor  # (B,3,H,W): the beating picture, else the nearest miss
    stage: list[str]  # which stage beat it: descent, targeted, search; "" where none did
    queries: Tensor  # (B,) int64: forward passes spent
    gradient_steps: Tensor  # (B,) int64: backward passes spent
    zero_gradient: Tensor  # (B,) bool: the gradient at the clean picture is exactly zero


@dataclass
class _Rows:
    """Attacks under way: a picture has one row in an untargeted descent and one per rival class in a targeted one."""

    owner: Tensor  # (R,) index of the picture
    rival: Tensor | None  # (R,) class to push towards; None: whichever is ahead
    point: Tensor  # (R,3,H,W) where the row stands
    previous: Tensor  # (R,3,H,W) where it stood a step ago
    best: Tensor  # (R,3,H,W) its lowest margin's point
    margin: Tensor  # (R,) its lowest margin

    def select(self, index: Tensor) -> _Rows:
        rival = None if self.rival is None else self.rival[index]
        tensors = (self.point, self.previous, self.best, self.margin)
        return _Rows(self.owner[index], rival, *(t[index] for t in tensors))


class _Attack:
    """One run on one batch: the pictures, who is beaten, and the bill."""

    def __init__(self, classifier: Classifier, images: Tensor, labels: Tensor, epsilon: float, chunk: int) -> None:
        self.classifier, self.labels, self.epsilon, self.chunk = classifier, labels, epsilon, chunk
        self.images = images.contiguous()
        self.low, self.high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
        count = len(images)
        self.queries = torch.zeros(count, dtype=torch.int64, device=images.device)
        self.gradient_steps = torch.zeros_like(self.queries)
        self.adversarial = images.clone()
        self.margin = torch.full((count,), math.inf, device=images.device)
        self.alive = torch.ones(count, dtype=torch.bool, device=images.device)
        self.stage = [""] * count
        self.probabilities = False

    # --- the classifier and its bill ---

    def logits(self, points: Tensor) -> Tensor:
        out = self.classifier(points).float()
        return out.clamp(min=torch.finfo(out.dtype).tiny).log() if self.probabilities else out

    def evaluate(self, points: Tensor, owner: Tensor) -> Tensor:
        """Margins (R,) without gradients."""
        self.queries.index_add_(0, owner, torch.ones_like(owner))
        with torch.no_grad():
            parts = points.split(self.chunk)
            logits = torch.cat([self.logits(part) for part in parts])
        return margins(logits, self.labels[owner])

    def gradients(self, points: Tensor, owner: Tensor, rival: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Margins (R,), margins against the rival (R,), and the latter's gradients (R,3,H,W)."""
        ones = torch.ones_like(owner)
        self.queries.index_add_(0, owner, ones)
        self.gradient_steps.index_add_(0, owner, ones)
        result = []
        for rows in torch.arange(len(points), device=points.device).split(self.chunk):
            x = points[rows].detach().requires_grad_()
            with torch.enable_grad():
                logits = self.logits(x)
                label = self.labels[owner[rows]]
                margin = margins(logits, label)
                loss = margin if rival is None else _against(logits, label, rival[rows])
                gradient = torch.autograd.grad(loss.sum(), x)[0] if loss.requires_grad else torch.zeros_like(x)
            result.append((margin.detach(), loss.detach(), gradient))
        margin, loss, gradient = (torch.cat(parts) for parts in zip(*result, strict=True))
        return margin, loss, gradient

    # --- who is beaten ---

    def note(self, points: Tensor, owner: Tensor, margin: Tensor, stage: str) -> Tensor:
        """Keep each picture's lowest margin; mark beaten pictures. True (R,) for rows whose picture is still alive."""
        for row in torch.nonzero(_wrong(margin) | (margin < self.margin[owner])).flatten().tolist():
            picture = int(owner[row])
            if not self.alive[picture] or not (_wrong(margin[row]) or margin[row] < self.margin[picture]):
                continue
            self.margin[picture] = margin[row]
            self.adversarial[picture] = points[row]
            if _wrong(margin[row]):
                self.alive[picture] = False
                self.stage[picture] = stage
        return self.alive[owner]


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the highest other logit, (B,); negative where the label loses."""
    label = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf)
    return label - others.amax(dim=1)


def _against(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, rivals[:, None])[:, 0]


def _wrong(margin: Tensor) -> Tensor:
    return ~(margin >= 0)  # NaN loses too: a model that cannot answer is not robust
