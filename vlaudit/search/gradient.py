"""Worst-case L_inf attack on the pixels of a classifier, in batches that hold survivors only.

Three stages, each on the pictures that no earlier one has beaten:

1. *descent*: signed gradient steps with momentum and a decaying step on the margin ``z_label - max z_other``;
2. *targeted descent*: the same against each runner-up class at once, halving the field twice as the steps go by;
3. *random search*: Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049). It needs no gradient, so it sees
   through masked ones. It starts from the nearest miss so far and gives up on pictures that stall.

It answers the same question as AutoAttack (Croce and Hein 2020, arXiv:2003.01690), differently in three ways. The loss
is a margin of raw logits, since CLIP's logit scale of about 100 starves cross-entropy of gradient. A picture leaves the
batch in the step that beats it. Every random number comes from the picture's own seed, so an outcome does not depend
on the other pictures of the batch. Probabilities given for logits are turned into log-probabilities, which have the
margins of the logits they came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlaudit.families.matching import Classifier

_INERTIA = 0.25  # share of the last move kept in the next, as in APGD
_BLOCK = 100  # queries of random search whose random numbers are drawn at a time
_PATIENCE = 0.05  # share of the queries before random search may give up a picture


@dataclass(frozen=True)
class Budget:
    """The most that is spent on one picture at one epsilon. Zero leaves a stage out."""

    steps: int  # of the descent
    targets: int  # runner-up classes at the start of the targeted descent
    target_steps: int
    queries: int  # of random search


BUDGETS = {
    "quick": Budget(steps=12, targets=4, target_steps=12, queries=200),
    "standard": Budget(steps=20, targets=8, target_steps=20, queries=1000),
    "thorough": Budget(steps=50, targets=9, target_steps=30, queries=5000),
}


@dataclass
class Outcome:
    """What an attack found, one entry a picture, on the pictures' device."""

    correct: Tensor  # (B,) bool: the clean picture gets its label
    beaten: Tensor  # (B,) bool: correct when clean, wrong when attacked
    adversarial: Tensor  # (B, 3, H, W): what beats it, else the nearest miss; the clean picture if it was not attacked
    stage: list[str]  # the stage that beat it: descent, targeted or search; empty if none did
    zero_gradient: Tensor  # (B,) bool: attacked, and its first gradient was exactly zero
    fell: Tensor  # (B,) bool: attacked, and its margin fell below that of the clean picture
    queries: Tensor  # (B,) int64: forward passes
    gradient_steps: Tensor  # (B,) int64: backward passes


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the highest other one, (B,): negative where the label loses."""
    return _of(logits, labels) - logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)


def is_stochastic(classifier: Classifier, images: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two passes over the same pictures differ by more than ``tolerance`` times the spread of the logits."""
    with torch.no_grad():
        first, second = classifier(images), classifier(images)
    return bool((first - second).abs().max() > tolerance * first.std().clamp(min=1e-12))


def gives_probabilities(logits: Tensor) -> bool:
    """Whether the outputs (B, C) are probabilities: in [0, 1], each row summing to 1."""
    return bool((logits >= 0).all() and ((logits.sum(dim=1) - 1).abs() < 1e-3).all())


def worst_case(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    epsilon: float,
    budget: Budget,
    *,
    start: Tensor | None = None,
    samples: int = 1,
) -> Outcome:
    """Attack pictures (B, 3, H, W) in [0, 1] with labels (B,) within ``epsilon`` (L_inf, of the range 0 to 1).

    seeds: one a picture. start: points within epsilon to descend from (default: the pictures). samples: passes whose
    logits are averaged, for a classifier that :func:`is_stochastic`. What is misclassified when clean is not attacked.
    """
    attack = _Attack(classifier, images, labels, seeds, epsilon, samples)
    correct = attack.open()
    attack.descend(images if start is None else start, budget.steps)
    attack.descend_targeted(budget.targets, budget.target_steps)
    attack.search(budget.queries)
    return attack.outcome(correct)


def worst_cases(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    seeds: Sequence[int],
    epsilons: Sequence[float],
    budget: Budget,
    *,
    samples: int = 1,
) -> dict[float, Outcome]:
    """:func:`worst_case` at several epsilons, each picture beaten at one being beaten at all larger ones.

    The largest comes first: a picture that survives it survives the others unattacked, and one that it beats starts the
    next from the beating perturbation, shrunk.
    """
    outcomes: dict[float, Outcome] = {}
    larger: float | None = None
    for epsilon in sorted(epsilons, reverse=True):
        if larger is None:
            outcomes[epsilon] = worst_case(classifier, images, labels, seeds, epsilon, budget, samples=samples)
        else:
            last = outcomes[larger]
            picked = last.beaten.nonzero().flatten()
            shrunk = images + (last.adversarial - images) * (epsilon / larger)
            part = worst_case(
                classifier, images[picked], labels[picked], [seeds[i] for i in picked.tolist()], epsilon, budget,
                start=shrunk[picked], samples=samples,
            )  # fmt: skip
            outcomes[epsilon] = _spread(part, picked, images, last.correct)
        larger = epsilon
    return outcomes


def _spread(part: Outcome, picked: Tensor, images: Tensor, correct: Tensor) -> Outcome:
    """The outcome of some pictures as one of all of them, the others surviving."""
    whole = Outcome(
        correct, torch.zeros_like(correct), images.clone(), [""] * len(images), torch.zeros_like(correct), torch.zeros_like(correct),
        torch.zeros_like(correct, dtype=torch.int64), torch.zeros_like(correct, dtype=torch.int64),
    )  # fmt: skip
    for name in ("beaten", "adversarial", "zero_gradient", "fell", "queries", "gradient_steps"):
        getattr(whole, name)[picked] = getattr(part, name)
    for index, stage in zip(picked.tolist(), part.stage, strict=True):
        whole.stage[index] = stage
    return whole


class _Attack:
    """One run on one batch: where each picture's nearest miss stands, and the bill.

    ``owner`` names the picture of each row of a working batch. A targeted descent has ``field`` rows a picture, next to
    each other; the rows of a beaten picture leave together.
    """

    def __init__(
        self, classifier: Classifier, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float, samples: int
    ) -> None:
        self.classifier, self.labels, self.epsilon, self.samples = classifier, labels, epsilon, samples
        self.images = images.contiguous()
        self.low, self.high = (self.images - epsilon).clamp(min=0), (self.images + epsilon).clamp(max=1)
        self.randoms = [np.random.default_rng(seed) for seed in seeds]
        self.probabilities = False
        count = len(images)
        self.nearest = self.images.clone()
        self.margin = torch.full((count,), math.inf, device=images.device)
        self.clean = self.margin
        self.alive = torch.ones(count, dtype=torch.bool, device=images.device)
        self.zero_gradient = torch.zeros_like(self.alive)
        self.masked = torch.zeros_like(self.alive)  # no gradient at a random point either: descent is hopeless
        self.stage = [""] * count
        self.queries = torch.zeros(count, dtype=torch.int64, device=images.device)
        self.gradient_steps = torch.zeros_like(self.queries)

    def open(self) -> Tensor:
        """Classify the clean pictures; the misclassified are not attacked. Returns who is correct, (B,)."""
        if len(self.images) == 0:
            return self.alive
        self.queries += self.samples
        with torch.no_grad():
            self.probabilities = gives_probabilities(self.classifier(self.images[:1]))
            logits = torch.cat([self.logits(part) for part in self.images.split(len(self.images))])
        self.runners_up = logits.scatter(1, self.labels[:, None], -math.inf).argsort(dim=1, descending=True)
        self.margin = margins(logits, self.labels)
        self.clean = self.margin.clone()
        self.alive = (logits.argmax(dim=1) == self.labels) & ~_loses(self.margin)
        return self.alive.clone()

    def outcome(self, correct: Tensor) -> Outcome:
        beaten, bills = correct & ~self.alive, (self.queries, self.gradient_steps)
        fell = correct & ~(self.margin >= self.clean - 1e-6 * self.clean.abs())
        return Outcome(correct, beaten, self.nearest, self.stage, self.zero_gradient, fell, *bills)

    # --- passes ---

    def logits(self, points: Tensor) -> Tensor:
        out = self.classifier(points)
        for _ in range(self.samples - 1):
            out = out + self.classifier(points)
        out = out.float() / self.samples
        return out.clamp(min=torch.finfo(out.dtype).tiny).log() if self.probabilities else out

    def evaluate(self, points: Tensor, owner: Tensor) -> Tensor:
        """Margins (R,), without gradients."""
        self.queries.index_add_(0, owner, torch.full_like(owner, self.samples))
        with torch.no_grad():
            return margins(self.logits(points), self.labels[owner])

    def gradients(self, points: Tensor, owner: Tensor, rival: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Margins (R,), margins to the rival (R,) and the latter's gradients; no more rows a pass than pictures."""
        for bill in (self.queries, self.gradient_steps):
            bill.index_add_(0, owner, torch.full_like(owner, self.samples))
        parts = []
        for rows in torch.arange(len(points), device=points.device).split(len(self.images)):
            x = points[rows].detach().requires_grad_()
            label = self.labels[owner[rows]]
            with torch.enable_grad():
                logits = self.logits(x)
                margin = margins(logits, label)
                loss = margin if rival is None else _of(logits, label) - _of(logits, rival[rows])
                gradient = torch.autograd.grad(loss.sum(), x)[0] if loss.requires_grad else torch.zeros_like(x)
            parts.append((margin.detach(), loss.detach(), gradient))
        margin, loss, gradient = (torch.cat(column) for column in zip(*parts, strict=True))
        return margin, loss, gradient

    def note(self, points: Tensor, owner: Tensor, margin: Tensor, field: int, stage: str) -> None:
        """Keep each picture's nearest miss, and mark the beaten ones."""
        lowest, column = margin.nan_to_num(nan=-math.inf).view(-1, field).min(dim=1)
        picture = owner.view(-1, field)[:, 0]
        nearer = lowest < self.margin[picture]
        picture, lowest, column = picture[nearer], lowest[nearer], column[nearer]
        rows = nearer.nonzero().flatten() * field + column
        self.margin[picture], self.nearest[picture] = lowest, points[rows]
        beaten = picture[_loses(lowest)]
        self.alive[beaten] = False
        for index in beaten.tolist():
            self.stage[index] = stage

    # --- stages ---

    def descend(self, start: Tensor, steps: int) -> None:
        owner = self.alive.nonzero().flatten()
        self._descend(owner, None, start[owner], steps, 1, "descent")

    def descend_targeted(self, targets: int, steps: int) -> None:
        owner = (self.alive & ~self.masked).nonzero().flatten()
        field = min(targets, self.runners_up.shape[1] - 1) if len(owner) else 0
        if field > 1:  # against a single rival the descent has done it
            rival = self.runners_up[owner, :field].flatten()
            owner = owner.repeat_interleave(field)
            self._descend(owner, rival, self.images[owner], steps, field, "targeted")

    def _descend(self, owner: Tensor, rival: Tensor | None, point: Tensor, steps: int, field: int, stage: str) -> None:
        """Signed steps from twice epsilon down to zero, on a cosine; the worse half of the rivals leaves at one quarter
        and at one half of the steps."""
        previous = point
        best = torch.full_like(owner, math.inf, dtype=point.dtype)
        for step in range(steps):
            if len(owner) == 0:
                return
            margin, loss, gradient = self.gradients(point, owner, rival)
            self.note(point, owner, margin, field, stage)
            best = torch.minimum(best, loss)
            flat = (gradient == 0).flatten(1).all(dim=1)
            if stage == "descent" and step == 0:
                self.zero_gradient[owner[flat]] = True
                gradient[flat] = self.signs(owner[flat])
            elif stage == "descent" and step == 1:
                self.masked[owner[flat]] = self.zero_gradient[owner[flat]]
            keep = self.alive[owner] & ~self.masked[owner]
            if field > 1 and step in (steps // 4, steps // 2):
                places = best.view(-1, field).argsort(dim=1).argsort(dim=1)
                field = math.ceil(field / 2)
                keep &= (places < field).flatten()
            if not keep.all():
                rows = keep.nonzero().flatten()
                owner, point, previous, best, gradient = (t[rows] for t in (owner, point, previous, best, gradient))
                rival = None if rival is None else rival[rows]
            length = self.epsilon * (1 + math.cos(math.pi * step / steps))
            low, high = self.low[owner], self.high[owner]
            aim = (point - length * gradient.sign()).clamp(low, high)
            moved = point + (1 - _INERTIA) * (aim - point) + _INERTIA * (point - previous) if step else aim
            previous, point = point, moved.clamp(low, high)

    def signs(self, owner: Tensor) -> Tensor:
        """Random signs, (R, 3, H, W), from the pictures' own seeds."""
        shape = self.images.shape[1:]
        drawn = [self.randoms[i].integers(0, 2, size=shape) * 2 - 1 for i in owner.tolist()]
        return torch.tensor(np.array(drawn), dtype=torch.float32).view(-1, *shape).to(self.images.device)

    def search(self, queries: int) -> None:
        """Square Attack from vertical stripes or from the nearest miss, whichever is nearer."""
        owner = self.alive.nonzero().flatten()
        if queries == 0 or len(owner) == 0:
            return
        stripes = self.images[owner] + self.epsilon * self.signs(owner)[:, :, :1]
        stripes = stripes.clamp(self.low[owner], self.high[owner])
        self.note(stripes, owner, self.evaluate(stripes, owner), 1, "search")
        walk = _Walk(self, owner[self.alive[owner]])
        check = max(_BLOCK // 2, round(_PATIENCE * queries))
        for query in range(queries):
            if len(walk.owner) == 0:
                return
            walk.step(query / queries)
            if query + 1 == check:
                walk.give_up(queries)
                check *= 2
        self.note(walk.point, walk.owner, walk.margin, 1, "search")


class _Walk:
    """Random search under way, one row a picture: squares of a random place and colour, kept if the margin falls."""

    def __init__(self, attack: _Attack, owner: Tensor) -> None:
        self.attack, self.owner = attack, owner
        self.point, self.margin = attack.nearest[owner], attack.margin[owner]
        self.low, self.high = attack.low[owner], attack.high[owner]
        self.taken = self.marked_at = 0
        self.mark = self.margin
        height, width = attack.images.shape[2:]
        self.rows, self.columns = torch.arange(height, device=owner.device), torch.arange(width, device=owner.device)

    def step(self, progress: float) -> None:
        attack, channels = self.attack, self.point.shape[1]
        if self.taken % _BLOCK == 0:
            drawn = np.array([attack.randoms[i].random((_BLOCK, 2 + channels)) for i in self.owner.tolist()])
            self.drawn = torch.tensor(drawn, dtype=torch.float32).to(self.owner.device)
        draw = self.drawn[:, self.taken % _BLOCK]
        self.taken += 1
        side = _square_side(progress, min(len(self.rows), len(self.columns)))
        rows, columns = _stretch(self.rows, draw[:, 0], side), _stretch(self.columns, draw[:, 1], side)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        colour = (draw[:, 2:].round() * 2 - 1) * (2 * attack.epsilon)
        tried = (self.point + colour[:, :, None, None] * inside).clamp(self.low, self.high)
        margin = attack.evaluate(tried, self.owner)
        better = ~(margin >= self.margin)
        self.point = torch.where(better[:, None, None, None], tried, self.point)
        self.margin = torch.where(better, margin, self.margin)
        beaten = _loses(self.margin)
        if beaten.any():
            attack.note(self.point, self.owner, self.margin, 1, "search")
            self.keep(~beaten)

    def give_up(self, queries: int) -> None:
        """Drop the pictures whose pace since the last check is too slow for the queries that are left."""
        pace = (self.mark - self.margin) / (self.taken - self.marked_at)
        slow = self.margin > pace * (queries - self.taken)  # the pace falls, so this errs on the patient side
        self.attack.note(self.point, self.owner, self.margin, 1, "search")
        self.mark, self.marked_at = self.margin, self.taken
        self.keep(~slow)

    def keep(self, which: Tensor) -> None:
        for name in ("owner", "point", "margin", "mark", "low", "high", "drawn"):
            setattr(self, name, getattr(self, name)[which])


def _stretch(places: Tensor, draw: Tensor, side: int) -> Tensor:
    """(R, L) bool: the ``side`` places from a start that ``draw`` in [0, 1) picks among all that fit."""
    first = (draw * (len(places) - side + 1)).long()[:, None]
    return (places >= first) & (places < first + side)


def _square_side(progress: float, side: int) -> int:
    """Square Attack's schedule: the share of pixels changed starts at .8 and halves at these shares of the queries."""
    halvings = sum(progress > share for share in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    return max(round(math.sqrt(0.8 / 2**halvings) * side), 1)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _loses(margin: Tensor) -> Tensor:
    return ~(margin >= 0)  # NaN loses too: a model that cannot answer is not robust
