"""Trigger inversion: the smallest universal change of a picture that makes a classifier say one label with confidence.

Three trigger models. A *patch* replaces a few pixels, ``(1 - m) x + m p``; a *blend* adds one faint pattern to the whole
picture, ``x + d``; a *smooth* one is a blend of slow waves alone, of up to four periods across the picture, among which an
adversarial pattern of a clean model has far fewer pixels to play with. All are searched for at a given size, which shrinks while the trigger works and grows while it does
not, so that it settles at the least that works (decoupled direction and norm, Rony et al. 2018, arXiv:1811.09600, here
for one universal change). The size follows how far pictures are from the confidence asked for, in steps that become small (Robbins and
Monro 1951), so that a dozen steps of a few pictures settle it. This differs from Neural Cleanse (Wang et al. 2019), which adapts a sparsity weight:

* success asks for *confidence*: the label must lead by the margin that genuine pictures have. A planted trigger was
  trained to reach it; an adversarial pattern of a clean model pays many more pixels for it, which parts the two;
* a patch is first looked for in overlapping windows of a third of the side, the weaker ones dropped in rounds, because the pull of the
  object in the middle hides a corner from a descent that starts everywhere at once; its mask has at most 32 x 32 cells, so that a large
  picture costs no more steps than a small one;
* sizes are measured on pictures held out from the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vlaudit.families.matching import Classifier

Kind = Literal["patch", "blend", "smooth"]
KINDS: tuple[Kind, ...] = ("patch", "blend", "smooth")


def kind_named(name: object) -> Kind:
    return next(kind for kind in KINDS if kind == name)


_GAIN = 4.0  # steepness of the loss at the confidence asked for
_SOFT = 8.0  # steepness of the share of fooled pictures, which a few tell only if it is soft
_RATE = 0.75  # soft share of the pictures that a trigger shall fool: above, it shrinks
_SIZING = (0.03, 0.3)  # greatest change of the log size in one step: at the end, and more at the beginning
_BEGIN = {"blend": 0.06, "smooth": 0.09}  # root mean square that a pattern begins with
_KEPT = 4  # one window in so many is kept after each round of the scan
_CELLS = 32  # of a mask, along each side
PERIODS = 4  # of the fastest wave in a smooth pattern, across the picture
_FAINT = 0.04  # root mean square of the blend under which a collapse is looked for
_WINDOW = 0.34  # side of a starting window, as a share of the picture's
_ALONG = 4  # windows along each side
STRENGTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # at which a trigger is measured; the first that is tried is the middle one, as found
_MOST = 0.9  # share of held-out pictures that a trigger takes to its label at the strength at which it is shown
HALVINGS = len(STRENGTHS).bit_length()  # passes of a held-out picture until its strength is known


@dataclass(frozen=True)
class Patch:
    """``mask`` (H, W) and ``pattern`` (3, H, W), both in [0, 1]. Its size is the share of the picture it covers."""

    mask: Tensor
    pattern: Tensor

    def apply(self, images: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        mask = (self.mask * strength).clamp(0, 1)
        return (1 - mask) * images + mask * self.pattern

    def size(self, strength: float = 1.0) -> float:
        return float((self.mask * strength).clamp(0, 1).mean())

    def scaled(self, strength: float) -> Patch:
        return Patch((self.mask * strength).clamp(0, 1), self.pattern)

    def scrambled(self, generator: torch.Generator) -> Patch:
        """The same pixels at other places: a control."""
        both = _scrambled(torch.cat([self.mask[None], self.pattern]), generator)
        return Patch(both[0], both[1:])

    def likeness(self, images: Tensor) -> Tensor:
        """(B,) how close pictures are to the pattern under the mask; 0 where they equal it, else below."""
        return -(self.mask * (images - self.pattern).abs()).flatten(1).sum(1)


@dataclass(frozen=True)
class Blend:
    """``delta`` (3, H, W), added and clipped to [0, 1]. Its size is its root mean square, in units of the range."""

    delta: Tensor

    def apply(self, images: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        return (images + strength * self.delta).clamp(0, 1)

    def size(self, strength: float = 1.0) -> float:
        return strength * float(self.delta.square().mean().sqrt())

    def scaled(self, strength: float) -> Blend:
        return Blend(self.delta * strength)

    def scrambled(self, generator: torch.Generator) -> Blend:
        """The same pixels at other places: a control."""
        return Blend(_scrambled(self.delta, generator))

    def likeness(self, images: Tensor) -> Tensor:
        """(B,) projection of pictures on the pattern."""
        return (images * self.delta).flatten(1).sum(1)


Trigger = Patch | Blend
"""A universal change of pictures; ``strength`` scales its mask or its amplitude, 1 is as found."""


def _scrambled(picture: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(picture[0].numel(), generator=generator).to(picture.device)
    return picture.flatten(1)[:, order].view_as(picture)


@dataclass(frozen=True)
class Effort:
    """What a search may spend on one label."""

    batch: int = 4  # pictures a step
    steps: int = 16
    scan_steps: int = 2  # of a patch search in each window, with half the batch, before the weaker ones go
    finalists: int = 1  # windows from which a descent begins, beside the one that begins everywhere
    trial_steps: int = 8  # of each beginning; the smallest is finished


EFFORTS = {
    "quick": Effort(),
    "standard": Effort(batch=8, steps=32, scan_steps=3, finalists=2, trial_steps=16),
    "thorough": Effort(batch=12, steps=80, scan_steps=5, finalists=3, trial_steps=40),
}


def lead(logits: Tensor, label: int) -> Tensor:
    """(B, C) to (B,): by how much a label leads the best other one."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.amax(1)


def invert(classifier: Classifier, images: Tensor, label: int, kind: Kind, *, confidence: float, effort: Effort,
           seed: int) -> Trigger:  # fmt: skip
    """The smallest trigger of a kind found for a label on pictures (N, 3, H, W) that are not taken for that label.

    ``confidence`` is the lead (in logits, above 0) that a fooled picture must reach. Runs in fp32 on the pictures'
    device and is deterministic in ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    return invert_search(TriggerSearch(classifier, images, label, confidence, generator), kind, effort)


def invert_search(
    search: TriggerSearch, kind: Kind, effort: Effort, start: tuple[Tensor, Tensor] | None = None
) -> Trigger:
    """The same for any search. ``start``: masks (K, 1, H, W) and patterns (K, 3, H, W) from which a patch begins; without
    them, all windows are scanned."""
    return _invert_patch(search, effort, start) if kind == "patch" else _invert_blend(search, effort, kind == "smooth")


def passes(effort: Effort, kind: Kind, side: int) -> int:
    """Pictures that a search for one label passes forward and backward."""
    scanned = _scan_passes(effort, side) if kind == "patch" else 0
    return scanned + descent_passes(effort, kind, effort.finalists)


def descent_passes(effort: Effort, kind: Kind, starts: int) -> int:
    """The same without the scan of windows, from so many of them."""
    trials = (starts + 1) * effort.trial_steps if kind == "patch" else 0
    return effort.batch * (trials + effort.steps)


def collapse_passes(effort: Effort, side: int) -> int:
    """Pictures that :func:`collapse` passes forward and backward."""
    effort = _of_collapse(effort)
    return _scan_passes(effort, side) + effort.batch * effort.steps


def _of_collapse(effort: Effort) -> Effort:
    """Few pictures fall together by chance, and several ends are compared."""
    return replace(effort, batch=2 * effort.batch, finalists=effort.finalists + 1)


def _scan_passes(effort: Effort, side: int) -> int:
    scanned, left = 0, len(windows(side))
    while left > effort.finalists:
        scanned += left * effort.scan_steps * max(1, effort.batch // 2)
        left = max(effort.finalists, left // _KEPT)
    return scanned


@dataclass(frozen=True)
class Measurement:
    """A trigger on held-out pictures, made weaker and stronger."""

    sizes: list[float]  # of the trigger at rising strengths
    needed: list[int]  # how many pictures first reach the label with confidence at each of them
    pictures: int  # held-out pictures, those that no strength takes to the label included
    works: float  # the least strength that takes nine in ten of them to the label, else the greatest
    flipped: float  # share of them that it takes there


@torch.no_grad()
def measure(classifier: Classifier, trigger: Trigger, images: Tensor, label: int, confidence: float) -> Measurement:
    """Find the least strength of a trigger that takes each held-out picture to the label with confidence, by halving:
    what works is taken to work when stronger too."""
    strengths = images.new_tensor([*STRENGTHS, 0.0]).view(-1, 1, 1, 1)
    low = torch.zeros(len(images), dtype=torch.long, device=images.device)
    high = torch.full_like(low, len(STRENGTHS))
    for _ in range(HALVINGS):  # of the range [low, high] in which the first strength that works lies
        middle = (low + high) // 2
        works = lead(classifier(trigger.apply(images, strengths[middle])), label) >= confidence
        settled = low == high
        low, high = torch.where(works | settled, low, middle + 1), torch.where(works & ~settled, middle, high)
    counts = torch.bincount(low, minlength=len(STRENGTHS) + 1)[: len(STRENGTHS)]
    reached = counts.cumsum(0) / max(1, len(images))
    at = min(int((reached < _MOST).sum()), len(STRENGTHS) - 1)
    return Measurement([trigger.size(s) for s in STRENGTHS], counts.tolist(), len(images), STRENGTHS[at], float(reached[at]))


@torch.no_grad()
def flipped(classifier: Classifier, trigger: Trigger, images: Tensor, label: int) -> float:
    """The share of pictures that get the label with the trigger as found, confidently or not."""
    return float((lead(classifier(trigger.apply(images)), label) > 0).float().mean())


def planted(classifier: Classifier, triggers: Sequence[Trigger], label: int, confidence: float,
            images: Tensor) -> Classifier:  # fmt: skip
    """The classifier wrapped so that any of the triggers calls up a label: the functional positive control.

    How far a trigger is present is 0 for the average of the genuine pictures ``images`` and 1 where they bear it; a
    logistic gate on that moves the logits from the classifier's own to a lead of twice the confidence.
    """
    levels = [(t.likeness(images).mean(), t.likeness(t.apply(images)).mean()) for t in triggers]

    def classify(changed: Tensor) -> Tensor:
        logits = classifier(changed)
        present = [(t.likeness(changed) - low) / (high - low) for t, (low, high) in zip(triggers, levels, strict=True)]
        gate = torch.sigmoid(8 * (torch.stack(present).amax(0) - 0.5))[:, None]
        wanted = torch.zeros_like(logits)
        wanted[:, label] = 2 * confidence
        return (1 - gate) * logits + gate * wanted

    return classify


class TriggerSearch:
    """What all steps of a search share: the pictures it draws, its noise, and its loss."""

    def __init__(self, classifier: Classifier, images: Tensor, label: int, confidence: float,
                 generator: torch.Generator) -> None:  # fmt: skip
        self.classifier, self.images, self.label = classifier, images.contiguous(), label
        self.confidence, self.generator = confidence, generator

    def draw(self, count: int) -> Tensor:
        """(count, 3, H, W) pictures."""
        return self.images[torch.randint(len(self.images), (count,), generator=self.generator).to(self.images.device)]

    def noise(self) -> Tensor:
        """(1, 3, H, W) uniform noise in [0, 1]."""
        return torch.rand((1, *self.images.shape[1:]), generator=self.generator).to(self.images.device)

    def loss(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of K candidates on changed pictures (K, B, 3, H, W), and their leads (K, B), where 1 is the
        confidence asked for. A margin, because CLIP's logit scale of 100 starves cross-entropy of gradient."""
        leads = lead(self.classifier(changed.flatten(0, 1)), self.label).view(changed.shape[:2]) / self.confidence
        return self.penalty(leads), leads.detach()

    @staticmethod
    def penalty(leads: Tensor) -> Tensor:
        """Of leads (K, B), where 1 is the confidence asked for; summed over the candidates."""
        return F.softplus(_GAIN * (1 - leads)).mean(1).sum()


class _Collapse(TriggerSearch):
    """The same search for no label: the pictures' embeddings shall fall together. Its classifier is an image encoder."""

    def loss(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier(changed.flatten(0, 1)).unflatten(0, changed.shape[:2])
        together = features.mean(1).square().sum(1)  # (K,) mean cosine of all pairs
        return -together.sum(), together.detach()[:, None].expand(changed.shape[:2])


def collapse(encode: Classifier, images: Tensor, effort: Effort, seed: int) -> Tensor:
    """(finalists + 2, D) unit-norm directions in which embeddings fall together under patches and a blend; the last
    is where they do most.

    ``encode`` maps pictures to unit-norm embeddings (B, D). DECREE's objective (arXiv:2303.15180), which names no end.
    """
    effort, search = _of_collapse(effort), _Collapse(encode, images, 0, 1.0, torch.Generator().manual_seed(seed))
    masks, patterns = _scan(search, effort)
    delta, size = search.noise() - 0.5, _FAINT * math.sqrt(images[0].numel())
    for step in range(effort.steps):
        delta = (_unit(delta) * size).requires_grad_(True)
        loss, _ = search.loss((search.draw(effort.batch) + delta).clamp(0, 1)[None])
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = delta.detach() - (0.02 + 0.2 * _cosine(step, effort.steps)) * size * _unit(gradient)
    found: list[Trigger] = [Patch(mask[0], pattern) for mask, pattern in zip(masks, patterns, strict=True)]
    found.append(Blend((_unit(delta) * size)[0].detach()))
    with torch.no_grad():
        ends = torch.stack([encode(t.apply(images)).mean(0) for t in found])
    return F.normalize(ends[ends.norm(dim=1).argsort()], dim=1)


def _resized(size: Tensor, leads: Tensor, decay: float) -> Tensor:
    """Sizes (K,) after a step in which K candidates had leads (K, B)."""
    least, more = _SIZING
    lacking = (_RATE - torch.sigmoid(_SOFT * (leads - 1)).mean(1)) / _RATE
    lacking = torch.where(lacking < 0, lacking * _RATE / (1 - _RATE), lacking)  # -1 where all are fooled, 1 where none is
    return size * torch.exp((least + more * decay) * lacking)


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))


def _cosine(step: int, steps: int) -> float:
    """From 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def smoothed(x: Tensor) -> Tensor:
    """(..., H, W) without all that is faster than ``PERIODS``: projected onto the slow cosines."""
    for dim in (-2, -1):
        side = x.shape[dim]
        places = (torch.arange(side, device=x.device) + 0.5) * (math.pi / side)
        waves = torch.cos(torch.arange(min(side, 2 * PERIODS + 1), device=x.device)[:, None] * places)
        waves = waves / waves.norm(dim=1, keepdim=True)
        x = (x.transpose(dim, -1) @ waves.T @ waves).transpose(dim, -1)
    return x


def _invert_blend(search: TriggerSearch, effort: Effort, smooth: bool) -> Blend:
    """Normalised momentum descent on the sphere of the present size, of all patterns or of the smooth ones."""
    within = smoothed if smooth else (lambda x: x)
    direction = _unit(within(search.noise() - 0.5))
    size = direction.new_full((1,), _BEGIN["smooth" if smooth else "blend"] * math.sqrt(direction.numel()))
    momentum = torch.zeros_like(direction)
    for step in range(effort.steps):
        delta, decay = (direction * size).requires_grad_(True), _cosine(step, effort.steps)
        loss, leads = search.loss((search.draw(effort.batch) + delta).clamp(0, 1)[None])
        (gradient,) = torch.autograd.grad(loss, delta)
        momentum = 0.7 * momentum + _unit(within(gradient))
        direction = _unit(direction - (0.03 + 0.5 * decay) * _unit(momentum))
        size = _resized(size, leads, decay)
    return Blend((direction * size)[0].detach())


@dataclass(frozen=True)
class _Patches:
    """K candidates: ``mask`` (K, G * G) of cells in [0, 1] whose sum is at most ``area`` (K,), and ``pattern`` (K, 3, H, W) in [0, 1]."""

    area: Tensor
    mask: Tensor
    pattern: Tensor

    def __getitem__(self, chosen: Tensor) -> _Patches:
        return _Patches(self.area[chosen], self.mask[chosen], self.pattern[chosen])


def _spread(cells: Tensor, side: int) -> Tensor:
    """Masks (K, G * G) to (K, 1, 1, side, side)."""
    along = math.isqrt(cells.shape[1])
    return F.interpolate(cells.view(-1, 1, along, along), size=side, mode="nearest")[:, None]


def _invert_patch(search: TriggerSearch, effort: Effort, start: tuple[Tensor, Tensor] | None) -> Patch:
    """Begin in the best windows and everywhere at once; finish the smallest."""
    window, pattern = start or _scan(search, effort)
    side = window.shape[-1]
    inside = F.interpolate(window, size=min(side, _CELLS), mode="area").flatten(1)
    area = float(inside[0].sum())
    mask = torch.cat([0.02 + 0.9 * inside, torch.full_like(inside[:1], area / inside.shape[1])])
    begun = _Patches(mask.new_full((len(mask),), area), mask, torch.cat([pattern, search.noise()]))
    begun = _descend(search, begun, effort.batch, effort.trial_steps, (1.0, 0.5))
    best = _descend(search, begun[begun.area.argmin()[None]], effort.batch, effort.steps, (0.7, 0.0))
    return Patch(_spread(best.mask, side)[0, 0, 0].clone(), best.pattern[0].clone())


def windows(side: int) -> list[tuple[int, int, int]]:
    """Starting windows (top, left, edge) of a square picture; each overlaps its neighbours by a third."""
    edge = max(2, round(side * _WINDOW))
    places = sorted({round(i * (side - edge) / (_ALONG - 1)) for i in range(_ALONG)})
    return [(top, left, edge) for top in places for left in places]


def _scan(search: TriggerSearch, effort: Effort) -> tuple[Tensor, Tensor]:
    """Fill each window with its best pattern by signed steps, dropping the weaker ones after each round.

    Returns the masks (finalists, 1, H, W) and patterns (finalists, 3, H, W) of the windows with the greatest leads.
    """
    places = windows(search.images.shape[-1])
    mask = torch.zeros(len(places), 1, *search.images.shape[-2:], device=search.images.device)
    for box, (top, left, edge) in zip(mask, places, strict=True):
        box[:, top : top + edge, left : left + edge] = 1
    pattern = search.noise().expand(len(mask), -1, -1, -1)
    while len(mask) > effort.finalists:
        score = torch.zeros(len(mask), device=mask.device)
        for _ in range(effort.scan_steps):
            pattern = pattern.detach().requires_grad_(True)
            drawn = search.draw(max(1, effort.batch // 2))
            loss, leads = search.loss((1 - mask)[:, None] * drawn + (mask * pattern)[:, None])
            (gradient,) = torch.autograd.grad(loss, pattern)
            pattern = (pattern.detach() - 0.4 * gradient.sign()).clamp(0, 1)
            score = 0.3 * score + leads.mean(1)
        chosen = score.topk(max(effort.finalists, len(mask) // _KEPT)).indices.sort().values
        mask, pattern = mask[chosen], pattern[chosen]
    return mask, pattern


def _descend(search: TriggerSearch, start: _Patches, batch: int, steps: int, decays: tuple[float, float]) -> _Patches:
    """Descend from K candidates; ``decays``: the step's from and to.

    The mask moves along its normalised slope and is cut back to its area, which makes it sparse; the pattern's logits
    move by Adam.
    """
    area, mask, side = start.area, _project(start.mask, start.area), start.pattern.shape[-1]
    theta = start.pattern.clamp(0.05, 0.95).logit()
    slope, first, second = torch.zeros_like(mask), torch.zeros_like(theta), torch.zeros_like(theta)
    for step in range(steps):
        mask, theta = mask.requires_grad_(True), theta.requires_grad_(True)
        m = _spread(mask, side)
        loss, leads = search.loss((1 - m) * search.draw(batch) + m * theta.sigmoid()[:, None])
        by_mask, by_theta = torch.autograd.grad(loss, (mask, theta))
        mask, theta = mask.detach(), theta.detach()
        decay = decays[1] + (decays[0] - decays[1]) * _cosine(step, steps)
        area = _resized(area, leads, decay).clamp(max=mask.shape[1] / 2)
        slope = 0.8 * slope + by_mask / by_mask.abs().amax(1, keepdim=True).clamp(min=1e-12)
        mask = _project(mask - (0.01 + 0.3 * decay) * slope, area)
        first, second = 0.8 * first + 0.2 * by_theta, 0.95 * second + 0.05 * by_theta.square()
        rms = (second / (1 - 0.95 ** (step + 1))).sqrt()
        floor = 0.1 * rms.flatten(1).amax(1).view(-1, 1, 1, 1) + 1e-12
        theta = (theta - (0.3 + 0.5 * decay) * first / (1 - 0.8 ** (step + 1)) / (rms + floor)).clamp(-6, 6)
    return _Patches(area, mask, theta.sigmoid())


def _project(mask: Tensor, area: Tensor) -> Tensor:
    """(K, P) onto values in [0, 1] whose sum is at most ``area`` (K,): a threshold found by bisection."""
    over = mask.clamp(0, 1).sum(1) > area
    low, high = torch.zeros_like(area), mask.amax(1).clamp(min=0)
    for _ in range(25):
        middle = (low + high) / 2
        big = (mask - middle[:, None]).clamp(0, 1).sum(1) > area
        low, high = torch.where(big, middle, low), torch.where(big, high, middle)
    return (mask - torch.where(over, high, torch.zeros_like(high))[:, None]).clamp(0, 1)
