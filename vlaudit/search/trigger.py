"""Trigger inversion: the smallest universal change of a picture that makes a classifier say one label with confidence.

Two trigger models. A *patch* replaces a few pixels, ``(1 - m) x + m p``; a *blend* adds one faint pattern to the whole
picture, ``x + d``. Both are searched for at a given size that shrinks while the trigger works and grows while it does
not, so that the size settles at the least that works (decoupled direction and norm, Rony et al. 2018,
arXiv:1811.09600, here for one universal change). Against Neural Cleanse (Wang et al. 2019), which adapts a sparsity weight:

* success asks for *confidence*: the label must lead by the margin that genuine pictures have. A planted trigger was
  trained to; an adversarial pattern of a clean model pays many more pixels for it, which parts the two;
* a patch is first looked for in many windows, the weakest dropped along the way, because the pull of the object in the
  middle hides a corner from a descent that starts everywhere at once;
* sizes are measured on pictures held out from the search.

All labels are searched for in one batch, yet what is found for one depends on that label and the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vlaudit.families.matching import Classifier

Kind = Literal["patch", "blend"]
STRENGTHS = (0.2, 0.3, 0.45, 0.65, 0.8, 1.0, 1.25, 1.6, 2.2, 3.2)
_GAIN = 4.0  # steepness of the loss at the confidence asked for
_RATE = 0.93  # share of a batch that must be fooled before the trigger shrinks
_WINDOW = 0.25  # side of a starting window, as a share of the picture's


class Trigger(Protocol):
    """A universal change of pictures; ``strength`` scales its mask or its amplitude, 1 is as found."""

    def apply(self, images: Tensor, strength: float = 1.0) -> Tensor: ...

    def size(self, strength: float = 1.0) -> float: ...


@dataclass(frozen=True)
class Patch:
    """``mask`` (H, W) and ``pattern`` (3, H, W), both in [0, 1]. Its size is the share of the picture it covers."""

    mask: Tensor
    pattern: Tensor

    def apply(self, images: Tensor, strength: float = 1.0) -> Tensor:
        mask = (self.mask * strength).clamp(0, 1)
        return (1 - mask) * images + mask * self.pattern

    def size(self, strength: float = 1.0) -> float:
        return float((self.mask * strength).clamp(0, 1).mean())


@dataclass(frozen=True)
class Blend:
    """``delta`` (3, H, W), added and clipped to [0, 1]. Its size is its root mean square in units of the pixel range."""

    delta: Tensor

    def apply(self, images: Tensor, strength: float = 1.0) -> Tensor:
        return (images + strength * self.delta).clamp(0, 1)

    def size(self, strength: float = 1.0) -> float:
        return strength * float(self.delta.square().mean().sqrt())


@dataclass(frozen=True)
class Effort:
    """What a search may spend on one label."""

    batch: int = 12  # pictures a step
    steps: int = 70
    scan_steps: int = 8  # of a patch search, in each window, with half a batch of pictures
    finalists: int = 2  # windows from which a descent begins, beside the one that begins everywhere
    trial_steps: int = 35  # of each beginning; the smallest is finished


class Pictures:
    """Pictures to search on: ``images`` (N, 3, H, W) and what the classifier says of them without a trigger."""

    def __init__(self, classifier: Classifier, images: Tensor, batch_size: int = 256) -> None:
        self.images = images.contiguous()
        self.logits = logits_of(classifier, self.images, batch_size)
        self.predicted = self.logits.argmax(1)

    def others(self, label: int) -> Tensor:
        """Indices of the pictures that are not taken for the label already."""
        return (self.predicted != label).nonzero()[:, 0]

    def lead(self) -> float:
        """The median lead of the best label over the next: how confident the model is of genuine pictures."""
        first, second = self.logits.topk(2, dim=1).values.unbind(1)
        return float((first - second).median())


@torch.no_grad()
def logits_of(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    """(N, C) logits, without gradients, in batches."""
    return torch.cat([classifier(part) for part in images.split(batch_size)])


def leads(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much each label leads the best other one: logits (K, B, C) and labels (K,) to (K, B)."""
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    return logits.gather(2, index)[..., 0] - logits.scatter(2, index, -math.inf).amax(2)


class _Problem:
    """K searches side by side: the label of each, and pictures drawn for each from those it may use."""

    def __init__(self, classifier: Classifier, pictures: Pictures, labels: Tensor, confidence: float,
                 generator: torch.Generator) -> None:  # fmt: skip
        self.classifier, self.pictures, self.labels = classifier, pictures, labels
        self.confidence, self.generator = confidence, generator
        self.pools = [pictures.others(label) for label in labels.tolist()]

    def pick(self, index: Tensor) -> _Problem:
        """The problem of some of the searches, repeated or left out as the index says."""
        return _Problem(self.classifier, self.pictures, self.labels[index], self.confidence, self.generator)

    def draw(self, count: int) -> Tensor:
        """(K, count, 3, H, W): the same random numbers for each label, so that none depends on its neighbours."""
        uniform = torch.rand(count, generator=self.generator)
        index = torch.stack([pool[(uniform * len(pool)).long().to(pool.device)] for pool in self.pools])
        return self.pictures.images[index]

    def noise(self, *shape: int) -> Tensor:
        """Uniform noise in [0, 1], drawn once and shared by all searches."""
        return torch.rand(shape, generator=self.generator).to(self.pictures.images.device)

    def loss(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of changed pictures (K, B, 3, H, W), and (K, B) leads in units of the confidence asked for."""
        logits = self.classifier(changed.flatten(0, 1)).view(*changed.shape[:2], -1)
        lead = leads(logits, self.labels) / self.confidence
        return F.softplus(_GAIN * (1 - lead)).mean(1).sum(), lead.detach()


def invert(classifier: Classifier, pictures: Pictures, labels: Sequence[int], kind: Kind, *, confidence: float,
           effort: Effort, seed: int) -> list[Trigger]:  # fmt: skip
    """The smallest trigger of a kind found for each label, on pictures that are not taken for that label.

    ``confidence`` is the lead (in logits, above 0) that a fooled picture must reach. Runs in fp32 on the pictures'
    device; deterministic in ``seed``. Every label needs pictures that are predicted otherwise.
    """
    wanted = torch.tensor(list(labels), device=pictures.images.device)
    problem = _Problem(classifier, pictures, wanted, confidence, torch.Generator().manual_seed(seed))
    return _invert_patch(problem, effort) if kind == "patch" else _invert_blend(problem, effort)


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))


def _decay(step: int, steps: int) -> float:
    """From 1 down to 0 along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


class _Best:
    """The smallest trigger so far that fooled enough of the recent batches, for each of K searches."""

    def __init__(self, *state: Tensor) -> None:
        self.state = [s.clone() for s in state]
        self.size = torch.full((len(state[0]),), math.inf, device=state[0].device)
        self.latest, self.recent = self.size, torch.zeros_like(self.size)

    def update(self, size: Tensor, fooled: Tensor, *state: Tensor) -> None:
        """Keep the state where it is smaller than the best that worked; until something works, the latest."""
        self.recent, self.latest = 0.7 * self.recent + 0.3 * fooled, size
        works = (self.recent > _RATE) & (size < self.size)
        for mine, new in zip(self.state, state, strict=True):
            keep = works | self.size.isinf()
            mine[keep] = new[keep]
        self.size = torch.where(works, size, self.size)


def _resize(size: Tensor, fooled: Tensor, decay: float) -> Tensor:
    step = 0.02 + 0.08 * decay
    return torch.where(fooled > _RATE, size * (1 - step), size * (1 + step))


def _invert_blend(problem: _Problem, effort: Effort) -> list[Trigger]:
    count, shape = len(problem.labels), problem.pictures.images.shape[1:]
    radius = torch.full((count,), 0.04 * math.sqrt(math.prod(shape)), device=problem.labels.device)
    delta = _unit((problem.noise(*shape) - 0.5).expand(count, *shape)) * radius.view(-1, 1, 1, 1)
    momentum, best = torch.zeros_like(delta), _Best(delta)
    for step in range(effort.steps):
        delta.requires_grad_(True)
        loss, lead = problem.loss((problem.draw(effort.batch) + delta[:, None]).clamp(0, 1))
        (gradient,) = torch.autograd.grad(loss, delta)
        delta, fooled, decay = delta.detach(), (lead > 1).float().mean(1), _decay(step, effort.steps)
        best.update(radius, fooled, delta)
        radius = _resize(radius, fooled, decay)
        momentum = 0.8 * momentum + _unit(gradient)
        scale = radius.view(-1, 1, 1, 1)
        delta = _unit(delta - (0.15 * decay + 0.02) * scale * _unit(momentum)) * scale
    return [Blend(d.clone()) for d in best.state[0]]


def windows(side: int) -> list[tuple[int, int, int]]:
    """Starting windows (top, left, side) that tile a square picture, and those between them."""
    edge = max(2, round(side * _WINDOW))
    grid = range(0, side - edge + 1, edge)
    shifted = range(edge // 2, side - edge + 1, edge)
    return [(top, left, edge) for g in (grid, shifted) for top in g for left in g]


def _scan(problem: _Problem, effort: Effort) -> tuple[Tensor, Tensor]:
    """Fill each window with its best pattern by signed steps, dropping the weaker half on the way.

    Returns masks (K, finalists, 1, H, W) and patterns (K, finalists, 3, H, W).
    """
    count, side = len(problem.labels), problem.pictures.images.shape[-1]
    boxes = torch.zeros(len(windows(side)), 1, side, side, device=problem.labels.device)
    for box, (top, left, edge) in zip(boxes, windows(side), strict=True):
        box[:, top : top + edge, left : left + edge] = 1
    mask = boxes.repeat(count, 1, 1, 1)
    pattern = problem.noise(3, side, side).expand(len(mask), -1, -1, -1)
    problem = problem.pick(torch.arange(count).repeat_interleave(len(boxes)))
    halves = effort.scan_steps // 2, effort.scan_steps - effort.scan_steps // 2
    for steps, keep in zip(halves, (max(effort.finalists, len(boxes) // 2), effort.finalists), strict=True):
        score = torch.zeros(len(mask), device=mask.device)
        for step in range(steps):
            pattern = pattern.detach().requires_grad_(True)
            drawn = problem.draw(max(1, effort.batch // 2))
            loss, lead = problem.loss((1 - mask)[:, None] * drawn + (mask * pattern)[:, None])
            (gradient,) = torch.autograd.grad(loss, pattern)
            pattern = (pattern.detach() - (0.1 + 0.3 * _decay(step, steps)) * gradient.sign()).clamp(0, 1)
            score = 0.5 * score + lead.mean(1)
        chosen = _leaders(score, count, keep)
        mask, pattern, problem = mask[chosen], pattern[chosen], problem.pick(chosen)
    return mask.unflatten(0, (count, -1)), pattern.unflatten(0, (count, -1))


def _leaders(score: Tensor, groups: int, keep: int) -> Tensor:
    """Indices of the highest scores in each of equal consecutive groups."""
    table = score.view(groups, -1)
    top = table.topk(keep, dim=1).indices.sort(1).values
    return (top + torch.arange(groups, device=score.device)[:, None] * table.shape[1]).flatten()


def _invert_patch(problem: _Problem, effort: Effort) -> list[Trigger]:
    """Begin in the best windows of each label and everywhere at once; finish the smallest."""
    count, shape = len(problem.labels), problem.pictures.images.shape[-2:]
    window, pattern = _scan(problem, effort)
    area = float(window[0, 0].sum())
    everywhere = torch.full((count, 1, 1, *shape), area / math.prod(shape), device=window.device)
    mask = torch.cat([0.02 + 0.9 * window, everywhere], 1).flatten(2).flatten(0, 1)
    pattern = torch.cat([pattern, problem.noise(3, *shape).expand(count, 1, -1, -1, -1)], 1).flatten(0, 1)
    start = problem.pick(torch.arange(count).repeat_interleave(effort.finalists + 1))
    areas = torch.full((len(mask),), area, device=window.device)
    begun = _descend_patch(start, (areas, mask, pattern), effort.batch, effort.trial_steps, (1.0, 0.5))
    chosen = _leaders(-begun.latest, count, 1)
    state = begun.latest[chosen], *(s[chosen] for s in begun.state)
    best = _descend_patch(problem, state, effort.batch, effort.steps, (0.7, 0.0))
    return [Patch(m.view(shape).clone(), p.clone()) for m, p in zip(*best.state, strict=True)]


def _descend_patch(problem: _Problem, state: tuple[Tensor, ...], batch: int, steps: int,
                   decays: tuple[float, float]) -> _Best:  # fmt: skip
    """Descend on masks (K, H*W) and patterns (K, 3, H, W) from a state of areas, masks and patterns.

    The mask moves along its normalised slope and is cut back to its area, which makes it sparse; the pattern's logits
    move by Adam.
    """
    area, mask, pattern = state
    theta = pattern.clamp(0.05, 0.95).logit()
    slope, first, second = torch.zeros_like(mask), torch.zeros_like(theta), torch.zeros_like(theta)
    best = _Best(mask, pattern)
    for step in range(steps):
        mask, theta = mask.requires_grad_(True), theta.requires_grad_(True)
        m = mask.view(len(mask), 1, 1, *theta.shape[-2:])
        loss, lead = problem.loss((1 - m) * problem.draw(batch) + m * theta.sigmoid()[:, None])
        by_mask, by_theta = torch.autograd.grad(loss, (mask, theta))
        mask, theta, fooled = mask.detach(), theta.detach(), (lead > 1).float().mean(1)
        best.update(area, fooled, mask, theta.sigmoid())
        decay = decays[1] + (decays[0] - decays[1]) * _decay(step, steps)
        area = _resize(area, fooled, decay).clamp(max=mask.shape[1] / 2)
        slope = 0.8 * slope + by_mask / by_mask.abs().amax(1, keepdim=True).clamp(min=1e-12)
        mask = _project(mask - (0.01 + 0.3 * decay) * slope, area)
        first, second = 0.8 * first + 0.2 * by_theta, 0.95 * second + 0.05 * by_theta.square()
        rms = (second / (1 - 0.95 ** (step + 1))).sqrt()
        floor = 0.1 * rms.flatten(1).amax(1).view(-1, 1, 1, 1) + 1e-12
        theta = (theta - 0.5 * first / (1 - 0.8 ** (step + 1)) / (rms + floor)).clamp(-6, 6)
    return best


def _project(mask: Tensor, area: Tensor) -> Tensor:
    """(K, P) onto values in [0, 1] whose sum is at most ``area`` (K,): a threshold found by bisection."""
    over = mask.clamp(0, 1).sum(1) > area
    low, high = torch.zeros_like(area), mask.amax(1).clamp(min=0)
    for _ in range(25):
        middle = (low + high) / 2
        big = (mask - middle[:, None]).clamp(0, 1).sum(1) > area
        low, high = torch.where(big, middle, low), torch.where(big, high, middle)
    return (mask - torch.where(over, high, torch.zeros_like(high))[:, None]).clamp(0, 1)
