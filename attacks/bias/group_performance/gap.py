"""The largest gap in accuracy between groups, with a simultaneous interval and its permutation null. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.groups import PERMUTATIONS, Grouping
from vlaudit.records import Trial
from vlaudit.statistics import Interval, max_t_p, max_t_quantile, standard_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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

    beyond = beyond_label(trials)
    columns = [members for members in groups.columns().values() if len(members) > 1]
    high, low = np.array([pair for members in columns for pair in combinations(members, 2)]).T
    inside = groups.membership.astype(bool)
    means = np.array([beyond[row].mean() for row in inside])
    errors = np.array([standard_error(beyond[row], groups.clusters[row]) for row in inside])

    traded = groups.permuted(PERMUTATIONS, seed=1)
    drawn = np.stack([(row[traded] @ beyond) / np.maximum(row[traded].sum(axis=1), 1) for row in groups.membership], 1)
    pairs = drawn[:, high] - drawn[:, low]
    reach = max_t_quantile(pairs, level) * np.maximum(np.hypot(errors[high], errors[low]), pairs.std(axis=0))
    difference = means[high] - means[low]
    clearest = int(np.argmax(np.abs(difference) - reach))
    best, worst = sorted((int(high[clearest]), int(low[clearest])), key=lambda group: -means[group])
    sure, possible = np.abs(difference) - reach, np.abs(difference) + reach
    interval = Interval(max(float(sure.max()), 0.0), min(float(possible.max()), 1.0), level)

    observed = np.array([np.ptp(means[members]) for members in columns])
    null = np.stack([np.ptp(drawn[:, members], axis=1) for members in columns], axis=1)
    excess = min(max(float((observed - null.mean(axis=0)).max()), interval.low), interval.high)
    value = float(means[best] - means[worst])
    return Gap(value, excess, interval, best, worst, min(max_t_p(observed, null)), null.max(axis=1))


def beyond_label(trials: list[Trial]) -> NDArray[np.float64]:
    """(n,) in [-1, 1]: 1 for right and 0 for wrong, minus the accuracy of all pictures with the same label."""
    import numpy as np

    right = np.array([trial["said"] == trial["label"] for trial in trials], dtype=float)
    codes = np.unique([str(trial["label"]) for trial in trials], return_inverse=True)[1]
    return right - (np.bincount(codes, weights=right) / np.bincount(codes))[codes]
