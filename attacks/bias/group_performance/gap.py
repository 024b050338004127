"""Gaps in accuracy between groups on the same labels: over all labels, whatever their signs, and in one label. Pure numpy.

Shapes: n pictures, A groups, P pairs of groups, S labels, R permutations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.groups import Grouping
from vlaudit.records import BuiltIn, Trial
from vlaudit.statistics import Interval, max_t_p, max_t_quantile
from vlaudit.statistics.base import z_value
from vlaudit.statistics.strata import bend, rate_differences, root_mean_square

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PERMUTATIONS = 400
UNSEEN = 4.0
BUILT_IN = {
    "UNSEEN": BuiltIn(
        meaning="wrong answers that were not seen, in the upper end of a gap: it is above 0 where all answers are right",
        source="Clopper and Pearson 1934: 95 % allow about as many (3.7) where none was seen",
    ),
}


@dataclass(frozen=True)
class Gap:
    """Between every two groups of a column. The lower ends are simultaneous over all that is compared."""

    pairs: NDArray[np.int64]  # (2, P)
    overall: Array  # (P,) Mantel-Haenszel: the first group's accuracy minus the second's, within labels
    spread: Array  # (P,) root mean square over labels, without what chance adds
    value: float  # the larger of the two, of the worst pair
    interval: Interval
    worst: int  # the pair that is furthest apart beyond doubt
    p: float
    null: Array  # (R,) the largest overall gap where groups are permuted within labels
    labels: Array  # (P, S) differences, nan where one of the groups lacks the label
    label_low: Array  # (P, S) ends of their sizes
    label_high: Array
    counted: int  # pictures of labels that two groups share


def right(trials: list[Trial]) -> Array:
    """(n,) 1 where the answer is the label."""
    import numpy as np

    return np.array([trial["said"] == trial["label"] for trial in trials], dtype=float)


def measure(answers: Array, groups: Grouping, level: float, pairs: NDArray[np.int64] | None = None) -> Gap:
    """The gaps of one arm, between all ``pairs`` (2, P) of groups of a column unless some are given; two must share a label."""
    import numpy as np

    pairs, trials = groups.pairs() if pairs is None else pairs, groups.crossed()
    hits = groups.sums(groups.weight * answers)
    both, n = trials[pairs], trials[pairs].sum(axis=0)  # (2, P, S), (P, S)
    seen = both.min(axis=0) > 0
    weight = both.prod(axis=0) / np.maximum(n, 1)
    total = np.maximum(weight.sum(axis=1), 1e-9)
    weight /= total[:, None]
    share = (n > 0) / np.maximum((n > 0).sum(axis=1, keepdims=True), 1)  # every label counts alike
    labels = np.where(seen, -np.diff((hits / np.maximum(trials, 1))[pairs], axis=0)[0], 0)
    overall = mantel_haenszel(answers, groups, pairs)

    null, null_square = np.zeros((2, PERMUTATIONS, len(overall)))
    for place, drawn in enumerate(_permuted(answers, groups)):
        difference = np.nan_to_num(drawn[:, pairs[0]] - drawn[:, pairs[1]])
        null += difference * weight[:, place]
        null_square += difference**2 * share[:, place]

    error = np.maximum(standard_errors(answers, groups, pairs, overall), null.std(axis=0))
    low = np.abs(overall) - max_t_quantile(null, level) * error
    unseen = np.sqrt(UNSEEN) * (both.max(axis=0) * seen / np.maximum(n, 1)).max(axis=1) / total
    high = np.minimum(np.abs(overall) + z_value(level) * np.hypot(error, unseen), 1)
    third = 1 - (1 - level) / 3

    guess = (hits + 1) / (trials + 2)
    variance = guess * (1 - guess) / np.maximum(trials, 1)
    shared_people = np.array([groups.scatter(part) for part in _parts(answers, groups, pairs, overall)])
    bends = bend(labels, np.sqrt(variance[pairs].sum(axis=0)), share) * np.sqrt(shared_people)
    square = root_mean_square((share * labels**2).sum(axis=1), null_square, bends, third, (share * ~seen).sum(axis=1), upper=level)

    tails = (1 - third) / 2 / seen.sum(), (1 - level) / 2
    sure, likely = (rate_differences(hits[pairs], both, tail) for tail in tails)
    label_low = np.where(seen, np.clip(np.maximum(sure[0], -sure[1]), 0, 1), 0)
    label_high = np.maximum(np.abs(likely[0]), np.abs(likely[1]))

    least, most = np.maximum(low, square.low), np.maximum(high, square.high)
    shared = seen.any(axis=1)
    worst = int(np.argmax(np.where(shared, least, -1)))
    interval = Interval(max(float(least[worst]), 0.0), float(most[shared].max()), level)
    value = min(max(abs(float(overall[worst])), float(square.value[worst]), interval.low), interval.high)
    p = min(1.0, 2 * min(*max_t_p(np.abs(overall), np.abs(null)), *square.p))
    counted = {int(i) for pair, common in zip(pairs.T, seen, strict=True)
               for i in np.flatnonzero(groups.membership[pair].any(axis=0) & common[groups.strata])}  # fmt: skip
    return Gap(
        pairs, overall, square.value, value, interval, worst, p, np.abs(null).max(axis=1),
        np.where(seen, labels, np.nan), label_low, label_high, len(counted),
    )  # fmt: skip


def mantel_haenszel(values: Array, groups: Grouping, pairs: NDArray[np.int64]) -> Array:
    """(P,) by how much the mean of ``values`` is larger in the first group than in the second, within labels; 0 where they share
    none."""
    import numpy as np

    trials, sums = groups.crossed(), groups.sums(groups.weight * values)
    (m1, m0), (s1, s0) = trials[pairs], sums[pairs]
    n = np.maximum(m1 + m0, 1)
    return ((s1 * m0 - s0 * m1) / n).sum(axis=1) / np.maximum((m1 * m0 / n).sum(axis=1), 1e-9)


def _permuted(answers: Array, groups: Grouping) -> Iterator[Array]:
    """For each label, (R, A) the accuracy of the groups where they are permuted; nan where a group has no picture."""
    import numpy as np

    traded = groups.permuted(PERMUTATIONS, seed=1)
    for place in range(len(groups.names)):
        inside = np.flatnonzero(groups.strata == place)
        members = groups.membership[:, traded[:, inside]] * groups.weight[inside]  # (A, R, n of the label)
        with np.errstate(invalid="ignore"):
            yield ((members @ answers[inside]) / members.sum(axis=2)).T


def standard_errors(answers: Array, groups: Grouping, pairs: NDArray[np.int64], overall: Array) -> Array:
    """(P,) of the overall gap, by people: from what is left where a label explains an answer and the group adds the gap. Valid for
    few large labels and for many small ones; 0 where no answer varies."""
    import numpy as np

    m1, m0 = groups.crossed()[pairs]
    worth = (m1 * m0 / np.maximum(m1 + m0, 1)).sum(axis=1)
    sums = np.array([(np.bincount(groups.people, weights=part) ** 2).sum() for part in _parts(answers, groups, pairs, overall)])
    return np.sqrt(sums) / np.maximum(worth, 1e-9)


def _parts(answers: Array, groups: Grouping, pairs: NDArray[np.int64], overall: Array) -> Iterator[Array]:
    """Of each pair (n,), by what every picture adds to the overall gap beside what its label and its group explain."""
    import numpy as np

    strata, count = groups.strata, len(groups.names)
    for (first, second), gap in zip(pairs.T, overall, strict=True):
        one, two = groups.membership[first] * groups.weight, groups.membership[second] * groups.weight
        m1, m0, sums = (np.bincount(strata, weights=w, minlength=count) for w in (one, two, (one + two) * answers))
        n = np.maximum(m1 + m0, 1)
        left = answers - ((sums - gap * m1) / n)[strata] - gap * groups.membership[first]
        each = (one * m0[strata] - two * m1[strata]) / n[strata]
        yield each * left * np.sqrt(np.where(n > 1, n / np.maximum(n - 1, 1), 0)[strata])
