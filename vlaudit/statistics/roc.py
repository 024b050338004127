"""The ROC curve: its area with intervals and paired differences, and its height at a low rate of false alarms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.records import BuiltIn
from vlaudit.statistics.base import Difference, Interval, invert, mover, size, z_value
from vlaudit.statistics.rates import clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Sides = tuple[NDArray[np.float64], NDArray[np.float64]]  # scores of positives, of negatives: (m,) and (n,)

PSEUDO, SPENT = 0.5, 0.9
BUILT_IN = {
    "PSEUDO": BuiltIn(
        meaning="scores a side, beside those seen, that keep the variance of an AUC above 0",
        source="our choice, because simulated coverage is at least 94 % with it, from 16 against 160 scores on",
    ),
    "SPENT": BuiltIn(
        meaning="share of the error of an exposure's lower end that may go to where the cut lies, where half of it is too little",
        source="our choice, because 378 to 434 non-members would otherwise say nothing at 1 % false alarms",
    ),
}


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """P(positive scores above negative) + P(tie) / 2; .5 if either is empty."""
    return float(_auc_parts(positives, negatives)[0]) if size(positives) and size(negatives) else 0.5


def auc_interval(positives: ArrayLike, negatives: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the AUC of scores (m,) against (n,): the hull of two methods that fail in different places.

    DeLong's variance (Biometrics 1988) on the logit scale, with Welch's degrees of freedom and half a
    pseudo-observation a side, is right for unequal spreads; it is cut off at the Clopper-Pearson bound for the smaller
    sample, beyond which no variance reaches (Birnbaum 1956). Newcombe's method 5 (Statistics in Medicine 25 (2006)
    559-573) is right near 0 and 1. Simulated coverage is at least 94 % from 16 against 160 on, for spreads of 1 to 5.
    """
    import numpy as np

    if min(size(positives), size(negatives)) < 2:
        return Interval(0.0, 1.0, level)
    value, above, below = _auc_parts(positives, negatives)
    score_low, score_high = _newcombe_auc(value, len(above), len(below), level)
    logit_low, logit_high = _delong_logit(np.asarray(above), np.asarray(below), level)
    return Interval(float(min(score_low, logit_low)), float(max(score_high, logit_high)), level)


@dataclass(frozen=True, slots=True)
class Exposure:
    """How many more of the positives than of the negatives a cut lets through that a share ``rate`` of the negatives passes."""

    value: float
    interval: Interval
    p: float  # of as many positives above the cut, if positives were like negatives


def exposure(positives: ArrayLike, negatives: ArrayLike, rate: float, level: float = 0.95) -> Exposure:
    """The true-positive rate at the false-positive rate ``rate``, less that rate: what it gives beyond chance.

    Where the cut lies is not known: it is estimated on the negatives. The interval allows for both samples, without any
    assumption on the scores: the cut for its lower end lets no more than ``rate`` of the negatives through, that for its upper
    end no less, but with a small chance by the binomial law of the negatives above; what is left of the error is given to
    the Clopper-Pearson bound of the positives above that cut. With too few negatives no cut will do, and the lower end is that
    of nobody. Ties are broken at random, as whoever attacks may.
    """
    import numpy as np
    from scipy.stats import betabinom, binom

    x, y = np.asarray(positives, dtype=float), np.asarray(negatives, dtype=float)
    m, n, tail = x.size, y.size, (1 - level) / 2
    ranks = np.empty(m + n)
    ranks[np.lexsort((np.random.default_rng(0).random(m + n), np.concatenate([x, y])))] = np.arange(m + n)
    above = n - np.searchsorted(np.sort(ranks[m:]), ranks[:m])  # negatives above each positive

    def passing(k: int) -> int:
        return int((above < k).sum())  # positives above the k-th highest negative

    chance = binom.cdf(np.arange(n), n, rate)  # at k - 1: that the k-th highest negative lies too low for the lower end
    safe = int((chance <= tail / 2).sum()) or int((chance <= SPENT * tail).sum())
    low = float(clopper_pearson(passing(safe), m, tail - chance[safe - 1])[0]) if safe else 0.0
    wide = int((1 - chance > tail / 2).sum()) + 1  # the first k that so many negatives seldom reach
    high = float(clopper_pearson(passing(wide), m, tail - (1 - chance[wide - 1]))[1]) if wide <= n else 1.0
    middle = int(rate * n + 1e-9) + 1
    hits = passing(middle)
    value = min(max(hits / m, low), high)
    p = float(betabinom.sf(hits - 1, m, middle, n + 1 - middle))
    return Exposure(value - rate, Interval(low - rate, high - rate, level), p)


def least_negatives(rate: float, level: float = 0.95) -> int:
    """From how many negatives on :func:`exposure` has a lower end of its own."""
    return math.ceil(math.log(SPENT * (1 - level) / 2) / math.log1p(-rate))


def auc_difference(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], level: float = 0.95
) -> Difference:
    """Difference of two AUCs, each (positives, negatives), of the same items in the same order.

    The interval joins the two AUC intervals with DeLong's correlation, so it is not degenerate where both AUCs are 1;
    the p-value is DeLong's.
    """
    import numpy as np
    from scipy.stats import norm

    value_a, above_a, below_a = _auc_parts(*first)
    value_b, above_b, below_b = _auc_parts(*second)
    if above_a.shape != above_b.shape or below_a.shape != below_b.shape:
        raise ValueError("a paired AUC difference needs the same items on both sides")
    joint = np.cov(above_a, above_b) / len(above_a) + np.cov(below_a, below_b) / len(below_a)
    variance_a, variance_b, covariance = float(joint[0, 0]), float(joint[1, 1]), float(joint[0, 1])
    product = math.sqrt(variance_a * variance_b)
    correlation = covariance / product if product > 0 else 0.0
    a, b = auc_interval(*first, level), auc_interval(*second, level)
    value = float(value_a - value_b)
    interval = mover(float(value_a), a, float(value_b), b, correlation)
    error = math.sqrt(max(variance_a + variance_b - 2 * covariance, 0.0))
    return Difference(value, interval, float(2 * norm.sf(abs(value) / error)) if error > 1e-12 else 1.0)


def _auc_parts(positives: ArrayLike, negatives: ArrayLike) -> tuple[float, NDArray, NDArray]:
    """AUC with its placements: share of negatives below each positive (..., m), positives above each negative."""
    import numpy as np
    from scipy.stats import rankdata

    x, y = np.asarray(positives, dtype=float), np.asarray(negatives, dtype=float)
    m, n = x.shape[-1], y.shape[-1]
    ranks = rankdata(np.concatenate([x, y], axis=-1), axis=-1)
    above = (ranks[..., :m] - rankdata(x, axis=-1)) / n
    below = 1 - (ranks[..., m:] - rankdata(y, axis=-1)) / m
    return above.mean(axis=-1), above, below


def _newcombe_auc(value: ArrayLike, m: int, n: int, level: float) -> tuple[NDArray, NDArray]:
    """Score interval with the Hanley-McNeil variance, elementwise."""
    import numpy as np

    centre = np.asarray(value, dtype=float)
    spread = (m + n) / 2 - 1

    def outside(theta: NDArray) -> NDArray:
        shape = 1 + spread * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return np.abs(theta - centre) > z_value(level) * np.sqrt(theta * (1 - theta) * shape / (m * n))

    return invert(outside, centre, 0.0, 1.0)


def _delong_logit(above: NDArray, below: NDArray, level: float) -> tuple[NDArray, NDArray]:
    """Smoothed DeLong interval on the logit scale, elementwise over leading axes of the placements."""
    import numpy as np
    from scipy.stats import t

    m, n = above.shape[-1], below.shape[-1]
    value = above.mean(axis=-1)

    def variance(placements: NDArray, size: int) -> NDArray:
        squares = ((placements - value[..., None]) ** 2).sum(axis=-1) + PSEUDO / 4
        return squares / (size - 1 + PSEUDO) / size

    a, b = variance(above, m), variance(below, n)
    freedom = (a + b) ** 2 / (a**2 / (m - 1) + b**2 / (n - 1))
    inner = np.clip(value, 1e-6, 1 - 1e-6)
    half = np.minimum(t.ppf((1 + level) / 2, freedom) * np.sqrt(a + b) / (inner * (1 - inner)), 500)
    logit = np.log(inner / (1 - inner))
    floor, ceiling = clopper_pearson(value * min(m, n), min(m, n), (1 - level) / 2)
    low, high = 1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))
    return np.minimum(np.maximum(low, floor), value), np.maximum(np.minimum(high, ceiling), value)
