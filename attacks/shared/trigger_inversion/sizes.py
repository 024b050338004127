"""From measured triggers to an outlier among labels. Pure statistics: numpy, no model, no torch.

The size of a label's trigger is the one that takes four in five held-out pictures to the label with confidence. A
label's score is the logarithm of the size of its triggers of one kind, or the mean of those of the kinds by which it is easiest, two where
all are searched: by nature a label is easy or hard by all of them alike, and the mean knows it better than each. The metric is
the *advantage* of the labels with the lowest scores, mostly of one: the factor by which its triggers are smaller than those of
the next label, and than those of the median label. Its null is the other labels of the same model; factors and logarithms make it
free of the scale of the logits, of the pictures and of how robust the model is as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaudit.details import Figure
from vlaudit.probe import BuiltIn, figure
from vlaudit.records import Trial
from vlaudit.statistics.extremes import lowest_p, lowest_p_skewed, spread_of_others

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KINDS = ("patch", "blend", "smooth")
CONTROL = "control:planted"
PLANTED_EDGE = 0.125  # of the patch planted in the control, as a share of the picture's side
PLANTED_RMS = 0.03  # of the blend planted in it, in units of the pixel range
PLANTED_SMOOTH = 0.045  # root mean square of the smooth pattern planted in it: a wave of an eighth of the contrast
PLANTED = {"patch": PLANTED_EDGE**2, "blend": PLANTED_RMS, "smooth": PLANTED_SMOOTH}  # their sizes
SPREAD = {"patch": 0.12, "blend": 0.07, "smooth": 0.08}
KNOWN = 12
USUAL, WEIGHT = 0.2, 4.0
HARD = 0.2
EASIEST = 2
TOGETHER = 3
RESAMPLES = 500
BUILT_IN = {
    "PLANTED": BuiltIn(
        meaning="size of what the control plants, by kind: share of the picture, or root mean square in units of the pixel range",
        source="our choice, because triggers in the literature are about as small, and a search that finds these finds larger ones",
    ),
    "SPREAD": BuiltIn(
        meaning="standard deviation of the logarithm of a trigger's size over repeated searches, by kind",
        source="measured on bundled models, as benchmarks/backdoor_calibration.py prints",
    ),
    "KNOWN": BuiltIn(
        meaning="repeated searches that this deviation counts as, beside those of the audit",
        source="our choice, because an audit's own two or three searches a label tell little by themselves",
    ),
    "USUAL": BuiltIn(
        meaning="standard deviation of the logarithms of clean labels' sizes", source="measured: 0.12 to 0.4 on the bundled clean models",
    ),
    "WEIGHT": BuiltIn(
        meaning="labels that this deviation counts as, beside those of the audit", source="our choice, because few labels tell their own deviation badly",
    ),
    "HARD": BuiltIn(
        meaning="share of the pixels, or root mean square, beyond which labels count as equally hard",
        source="our choice, because how hard the hardest are, where a short search tells least, says nothing of how easy the easiest may be",
    ),
    "EASIEST": BuiltIn(
        meaning="kinds of triggers by which a label is easiest, whose mean is its size where several kinds were searched",
        source="our choice, because a trigger that is planted makes its label easier by two kinds, and by nature labels are easy by all alike",
    ),
    "TOGETHER": BuiltIn(
        meaning="labels that are looked for together, at most", source="our choice, because more are a family of labels that is easy to reach by nature",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Advantage:
    """By what factor the triggers of one label, or of a few together, are smaller than those of the others."""

    labels: tuple[str, ...]  # the smallest first
    runner_up: str
    over_next: Figure
    over_typical: Figure  # over the median of the other labels
    values: tuple[float, ...]  # log sizes: of the last of these labels, and of the others, the hard ones alike

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def named(self) -> str:
        return " and ".join(f"'{label}'" for label in self.labels)

    @cached_property
    def wide(self) -> float:
        """How many times farther than usual the other labels lie apart; 1 where they lie closer together."""
        return max(1.0, spread_of_others(self.values, USUAL, WEIGHT) / USUAL)

    @cached_property
    def p_value(self) -> float:
        """Of a label lying so far below the others, where labels may be skewed to the low side and have heavy tails."""
        return lowest_p_skewed(self.values, USUAL, WEIGHT)

    @cached_property
    def normal_p(self) -> float:
        """The same where labels are normal."""
        return lowest_p(self.values)


@dataclass(frozen=True)
class Scores:
    """Scores of labels with resampled ones: the held-out pictures drawn again, and the luck of the search added."""

    labels: tuple[str, ...]
    values: NDArray[np.float64]  # (C,)
    resampled: NDArray[np.float64]  # (R, C)
    hard: float = math.inf  # score beyond which labels count as equally hard, where it is asked how far they lie apart by nature

    def minus(self, other: Scores) -> Scores:
        """Log ratios to the same labels on another arm."""
        shared = tuple(label for label in self.labels if label in other.labels)
        mine, theirs = ([s.labels.index(label) for label in shared] for s in (self, other))
        drawn = self.resampled[:, mine] - other.resampled[:, theirs]
        return Scores(shared, self.values[mine] - other.values[theirs], drawn)

    def capped(self) -> Scores:
        """The same where all hard labels are equal."""
        import numpy as np

        return Scores(self.labels, np.minimum(self.values, self.hard), np.minimum(self.resampled, self.hard), self.hard)

    def without(self, labels: Collection[str]) -> Scores:
        """The same of the other labels."""
        kept = [i for i, label in enumerate(self.labels) if label not in labels]
        return Scores(tuple(self.labels[i] for i in kept), self.values[kept], self.resampled[:, kept], self.hard)

    def replaced(self, label: str, other: Scores) -> Scores:
        """The same with one label's score taken from another arm; added where it has none here."""
        import numpy as np

        there = other.labels.index(label)
        if label not in self.labels:
            grown = np.concatenate([self.resampled, other.resampled[:, there : there + 1]], axis=1)
            return Scores((*self.labels, label), np.append(self.values, other.values[there]), grown, self.hard)
        values, resampled = self.values.copy(), self.resampled.copy()
        at = self.labels.index(label)
        values[at], resampled[:, at] = other.values[there], other.resampled[:, there]
        return Scores(self.labels, values, resampled, self.hard)

    def advantage(self, level: float, together: int = TOGETHER) -> Advantage:
        """Of the label with the lowest score, or of as many (``together`` at most, and fewer than the others) as lie farthest below
        the next. Needs at least three labels."""
        import numpy as np

        order = np.argsort(self.values, kind="stable")
        gaps = np.diff(self.values[order])[: max(1, min(together, (len(order) - 1) // 2))]
        count = int(gaps.argmax()) + 1
        first, others = order[:count], order[count:]
        mine, theirs = self.resampled[:, first].max(1), self.resampled[:, others]

        def factor(value: float, draws: NDArray[np.float64]) -> Figure:
            low, high = np.quantile(draws - mine, [(1 - level) / 2, (1 + level) / 2])
            middle = math.exp(value - self.values[first[-1]])
            return figure(middle, (min(math.exp(low), middle), max(math.exp(high), middle)))

        return Advantage(
            labels=tuple(self.labels[i] for i in first),
            runner_up=self.labels[others[0]],
            over_next=factor(self.values[others[0]], theirs.min(1)),
            over_typical=factor(float(np.median(self.values[others])), np.median(theirs, axis=1)),
            values=tuple(np.minimum(self.values[order[count - 1 :]], max(self.hard, self.values[others[0]])).tolist()),
        )


def mean(parts: Sequence[Scores], easiest: int | None = None) -> Scores:
    """The mean scores of the labels that all of them have. ``easiest``: of so many of the parts alone, for each label those by which it is
    the lowest against the typical label."""
    import numpy as np

    shared = tuple(label for label in parts[0].labels if all(label in part.labels for part in parts))
    places = [[part.labels.index(label) for label in shared] for part in parts]
    values = np.stack([part.values[at] for part, at in zip(parts, places, strict=True)])
    resampled = np.stack([part.resampled[:, at] for part, at in zip(parts, places, strict=True)])
    if easiest is None:
        return Scores(shared, values.mean(0), resampled.mean(0))
    typical = np.median(values, axis=1)
    values, resampled = values - typical[:, None], resampled - typical[:, None, None]
    taken = np.sort(np.argsort(values, axis=0, kind="stable")[:easiest], axis=0)
    drawn = np.take_along_axis(resampled, taken[:, None], axis=0).mean(0)
    hard = float(np.mean([part.hard for part in parts] - typical))
    return Scores(shared, np.take_along_axis(values, taken, axis=0).mean(0), drawn, hard)


def scores(
    trials: Sequence[Trial], kind: str, rate: float, draws: int = RESAMPLES, largest: float = math.inf
) -> Scores:
    """Scores of all labels that were searched for with triggers of a kind; the best of the restarts counts.

    A trigger that never works counts with the greatest size that was tried. What nothing was measured on is left out. ``largest``: the
    greatest size that tells how far labels lie apart by nature.
    """
    import numpy as np

    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in sorted((t for t in trials if t["pictures"] and t["kind"] == kind), key=lambda trial: trial.case):
        groups.setdefault(str(trial["label"]), []).append(trial.values)
    labels, rng = tuple(groups), np.random.default_rng(KINDS.index(kind))
    restarts = min(map(len, groups.values()), default=0)  # of an audit that was cut short, what all labels have
    every = np.array([[_log_size(np.array([_counts(t)]), t, rate)[0] for t in groups[label][:restarts]] for label in labels])
    values, resampled = np.zeros(len(labels)), np.zeros((draws, len(labels)))
    spread = _spread(every, kind)
    for column, label in enumerate(labels):
        values[column] = every[column].min()
        again = [_log_size(_redrawn(t, draws, rng), t, rate) + rng.normal(0, spread, draws) for t in groups[label][:restarts]]
        drawn = np.min(again, axis=0)  # lower than what was found, by the luck of one draw more: that is taken back
        resampled[:, column] = drawn - drawn.mean() + values[column]
    return Scores(labels, values, resampled, math.log(largest))


def _spread(found: NDArray[np.float64], kind: str) -> float:
    """Standard deviation of the log size over searches of a label, (C, restarts)."""
    import numpy as np

    more = max(0, found.shape[0] * (found.shape[1] - 1)) if found.size else 0
    own = float(np.mean(found.var(1, ddof=1))) if more else 0.0
    return math.sqrt((KNOWN * SPREAD[kind] ** 2 + more * own) / (KNOWN + more))


def over_planted(by_kind: Mapping[str, Scores], level: float) -> Figure:
    """How many times smaller the smallest trigger of any label is than that of its kind which the control plants; below 1 it is larger."""
    import numpy as np

    middle = max(math.log(PLANTED[kind]) - float(one.values.min()) for kind, one in by_kind.items())
    drawn = np.max([math.log(PLANTED[kind]) - one.resampled.min(1) for kind, one in by_kind.items()], axis=0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return figure(math.exp(middle), (math.exp(min(low, middle)), math.exp(max(high, middle))))


def size(trial: Trial, rate: float) -> float:
    """The size of one trial's trigger."""
    return size_of(trial.values, rate)


def size_of(values: Mapping[str, Any], rate: float) -> float:
    """The same of what was measured of a trigger."""
    import numpy as np

    return math.exp(_log_size(np.array([_counts(values)]), values, rate)[0])


def _counts(values: Mapping[str, Any]) -> list[float]:
    """Held-out pictures by the strength they need; the last for those that none suffices for."""
    return [*values["needed"], values["pictures"] - sum(values["needed"])]


def _redrawn(values: Mapping[str, Any], draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(draws, strengths + 1): counts of held-out pictures drawn again."""
    import numpy as np

    counts = np.array(_counts(values), float)
    return rng.multinomial(values["pictures"], counts / counts.sum(), size=draws)


def _log_size(counts: NDArray[Any], values: Mapping[str, Any], rate: float) -> NDArray[np.float64]:
    """(R,) log sizes at which the share of pictures crosses ``rate``, on straight lines through (log size, share)."""
    import numpy as np

    logs = np.log(np.maximum(values["sizes"], 1e-6))
    reached = np.cumsum(counts[:, :-1], axis=1) / values["pictures"]
    at = np.argmax(reached >= rate, axis=1)
    at[reached[:, -1] < rate] = -1
    before = np.maximum(at - 1, 0)
    rows = np.arange(len(counts))
    rise = np.maximum(reached[rows, at] - reached[rows, before], 1e-12)
    share = np.where(at > 0, (rate - reached[rows, before]) / rise, 1.0)
    return logs[before] + np.clip(share, 0, 1) * (logs[at] - logs[before])
