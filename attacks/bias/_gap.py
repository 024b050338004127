"""The largest gap in accuracy between groups, with a simultaneous interval and its permutation null. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from vlaudit.attacks.bias._groups import PERMUTATIONS, Grouping

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlaudit.records import Trial
    from vlaudit.statistics import Interval


@dataclass(frozen=True)
class Gap:
    """The largest difference in accuracy between two groups of one column."""

    value: float  # as observed
    excess: float  # minus its mean under permutation, within the interval
    interval: Interval
    best: int  # positions of the two groups that are furthest apart beyond doubt
    worst: int
    p: float
    null: NDArray[np.float64]  # (R,) largest gaps under permutation


def measure(trials: list[Trial], groups: Grouping, level: float) -> Gap:
    """The gap of one arm with its simultaneous interval and its permutation null."""
    import numpy as np

    from vlaudit.statistics import Interval, join_difference, max_t_p, mean_interval

    beyond = beyond_label(trials)
    identities = groups.clusters
    columns = groups.columns().values()
    pairs = [pair for members in columns for pair in combinations(members, 2)]
    each = 1 - (1 - level) / len(pairs)
    means, intervals = [], []
    for row in groups.membership.astype(bool):
        means.append(float(beyond[row].mean()))
        intervals.append(mean_interval(beyond[row], identities[row].tolist(), each, (-1.0, 1.0), resamples=5000))
    joined = {
        pair: join_difference(means[pair[0]], intervals[pair[0]], means[pair[1]], intervals[pair[1]])
        for a, b in pairs
        for pair in ((a, b), (b, a))
    }
    best, worst = max(joined, key=lambda pair: joined[pair].low)
    interval = Interval(max(joined[best, worst].low, 0.0), max(i.high for i in joined.values()), level)

    def gaps(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.ptp(mean[members], axis=0) for members in columns if len(members) > 1], axis=-1)

    traded = groups.permuted(PERMUTATIONS, seed=1)
    drawn = np.stack([(row[traded] @ beyond) / np.maximum(row[traded].sum(axis=1), 1) for row in groups.membership])
    observed, null = gaps(np.array(means)), gaps(drawn)  # (columns,) and (R, columns)
    excess = float((observed - null.mean(axis=0)).max())
    excess = min(max(excess, interval.low), interval.high)
    p = min(max_t_p(observed, null))
    return Gap(means[best] - means[worst], excess, interval, best, worst, p, null.max(axis=1))


def beyond_label(trials: list[Trial]) -> NDArray[np.float64]:
    """(n,) in [-1, 1]: 1 for right and 0 for wrong, minus the accuracy of all pictures with the same label."""
    import numpy as np

    right = np.array([trial["said"] == trial["label"] for trial in trials], dtype=float)
    codes = np.unique([str(trial["label"]) for trial in trials], return_inverse=True)[1]
    return right - (np.bincount(codes, weights=right) / np.bincount(codes))[codes]
