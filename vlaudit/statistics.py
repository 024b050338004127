"""Intervals, paired tests, permutation nulls and corrections: everything a judge needs to say how sure it is.

Every metric is oriented so that bigger is worse, every interval is two-sided unless asked otherwise, and none is ever
degenerate: 0 of n has a non-zero upper end. Random methods take a seed, so a judge stays a pure function. Torch-free;
numpy and scipy are imported where used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlaudit.records import Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_CLUSTERS = 20  # below this no bootstrap over clusters is trustworthy
Side = Literal["both", "lower", "upper"]
Alternative = Literal["two-sided", "greater", "less"]


class TooFewClustersError(ValueError):
    """Fewer than 20 clusters: the verdict is inconclusive, whatever the mean."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; a one-sided one has its other end at the bound of the quantity."""

    low: float
    high: float
    level: float = 0.95

    @property
    def ci(self) -> tuple[float, float]:
        return self.low, self.high

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second on the same items, with its interval and two-sided p-value."""

    value: float
    interval: Interval
    p: float


def verdict(interval: Interval, threshold: float) -> Verdict:
    """Vulnerable only if the whole interval lies above the threshold, held only if the whole of it lies below."""
    if interval.low > threshold:
        return Verdict.VULNERABLE
    if interval.high < threshold:
        return Verdict.HELD
    return Verdict.INCONCLUSIVE


# --- rates ---------------------------------------------------------------------------------------------------------


def rate_interval(successes: int, trials: int, level: float = 0.95, side: Side = "both") -> Interval:
    """Clopper-Pearson interval of a rate (Biometrika 1934); with no trials it is [0, 1]."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - level) / 2 if side == "both" else 1 - level
    low, high = _clopper_pearson(successes, trials, tail)
    return Interval(0.0 if side == "upper" else float(low), 1.0 if side == "lower" else float(high), level)


def _clopper_pearson(successes: ArrayLike, trials: ArrayLike, tail: float) -> tuple[NDArray, NDArray]:
    """Exact bounds with ``tail`` outside each, elementwise; ``successes`` may be fractional."""
    import numpy as np
    from scipy.special import betaincinv

    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    low = np.where(k > 0, betaincinv(np.maximum(k, 1e-9), n - k + 1, tail), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1e-9), 1 - tail), 1.0)
    return low, high


def mcnemar(only_first: int, only_second: int, alternative: Alternative = "two-sided") -> float:
    """Exact McNemar p-value from the two discordant counts; ``greater``: the first rate is the bigger one."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, alternative=alternative).pvalue) if discordant else 1.0


def paired_rate_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of two rates on the same items (booleans, (N,) each): Tango's score interval and exact McNemar.

    Source: Tango, Statistics in Medicine 17 (1998) 891-908. Exact coverage at 95 %, n 20 to 200, is at least 93.3 %.
    """
    import numpy as np

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"paired rates need two lists of one length, got {a.shape} and {b.shape}")
    if a.size == 0:
        return Difference(0.0, Interval(-1.0, 1.0, level), 1.0)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = _tango(only_a, only_b, a.size, level)
    value = (only_a - only_b) / a.size
    return Difference(value, Interval(float(low), float(high), level), mcnemar(only_a, only_b))


def _tango(only_first: ArrayLike, only_second: ArrayLike, n: int, level: float) -> tuple[NDArray, NDArray]:
    """Ends of Tango's interval, elementwise over arrays of discordant counts."""
    import numpy as np

    b, c = np.asarray(only_first, dtype=float), np.asarray(only_second, dtype=float)

    def outside(delta: NDArray) -> NDArray:
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        q = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return np.abs(b - c - n * delta) > _z(level) * np.sqrt(np.maximum(variance, 0))

    return _invert(outside, (b - c) / n, -1.0, 1.0)


def trials_to_decide(rate: float, threshold: float, level: float = 0.95, limit: int = 1_000_000) -> int | None:
    """About how many trials would decide a true rate against a threshold; None if more than ``limit``."""

    def decided(n: int) -> bool:
        return verdict(rate_interval(round(rate * n), n, level), threshold) is not Verdict.INCONCLUSIVE

    high = 1
    while not decided(high):
        high *= 2
        if high > limit:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def samples_to_decide(value: float, interval: Interval, n: int, threshold: float) -> int | None:
    """About how many samples would decide any metric measured on ``n``, if its interval shrinks as 1/sqrt(n)."""
    gap = abs(value - threshold)
    reach = value - interval.low if value > threshold else interval.high - value
    needed = n * (reach / gap) ** 2 if gap > 0 else math.inf
    return math.ceil(needed - 1e-6) if needed < 1e9 else None


# --- means of clustered values -------------------------------------------------------------------------------------


def mean_interval(
    values: Sequence[float] | NDArray,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Interval of the pooled mean of values in ``bounds`` whose clusters (pictures, prompts, identities) are the
    independent units; without ``clusters`` each value is its own.

    Bootstrap-t over clusters (Efron and Tibshirani 1993, 12.5) with the linearised standard error of a ratio, cut off
    at the Clopper-Pearson bound on the share of clusters that are off a bound: so it is exact on the number of clusters
    where no value, or every value, is. Values around an inner point (such as differences, mostly 0) are split there
    into excess and shortfall, each bounded like that, and joined (MOVER). Raises TooFewClustersError below 20 clusters.
    """
    import numpy as np

    span = bounds[1] - bounds[0]
    y = (np.asarray(values, dtype=float) - bounds[0]) / span
    if y.size and (y.min() < -1e-9 or y.max() > 1 + 1e-9):
        raise ValueError(f"values outside their bounds {bounds}")
    groups = np.arange(y.size) if clusters is None else np.unique([str(c) for c in clusters], return_inverse=True)[1]
    count = int(groups.max()) + 1 if y.size else 0
    if count < MIN_CLUSTERS:
        raise TooFewClustersError(f"{count} clusters, at least {MIN_CLUSTERS} are needed")
    sizes = np.bincount(groups, minlength=count).astype(float)
    middle = float(np.median(y))

    def part(values: NDArray) -> tuple[NDArray, Interval]:
        sums = np.bincount(groups, weights=values, minlength=count)
        low, high = _bounded_mean(sums, sizes, level, seed, resamples)
        return sums - sizes * values.mean(), Interval(low, high, level)

    if middle < 1e-9 or middle > 1 - 1e-9:
        _, inner = part(y)
    else:
        excess, shortfall = np.maximum(y - middle, 0) / (1 - middle), np.maximum(middle - y, 0) / middle
        (above, a), (below, b) = part(excess), part(shortfall)
        scale = math.sqrt(float((above**2).sum() * (below**2).sum()))
        correlation = float((above * below).sum()) / scale if scale > 0 else 0.0
        a = Interval(a.low * (1 - middle), a.high * (1 - middle), level)
        b = Interval(b.low * middle, b.high * middle, level)
        joined = _mover(float(excess.mean()) * (1 - middle), a, float(shortfall.mean()) * middle, b, correlation)
        inner = Interval(max(middle + joined.low, 0.0), min(middle + joined.high, 1.0), level)
    return Interval(bounds[0] + inner.low * span, bounds[0] + inner.high * span, level)


def _bounded_mean(sums: NDArray, sizes: NDArray, level: float, seed: int, resamples: int) -> tuple[float, float]:
    """Interval of the pooled mean of values in [0, 1], from the sums and sizes of their clusters."""
    import numpy as np

    count, imbalance = len(sums), float(sizes.max() / sizes.mean())
    full, empty = np.isclose(sums, sizes), sums < 1e-9
    if imbalance == 1 and bool(np.all(full | empty)):  # as good as one yes or no a cluster
        return rate_interval(int(full.sum()), count, level).ci
    low, high = _bootstrap_t(sums, sizes, level, seed, resamples)
    ceiling = rate_interval(count - int(empty.sum()), count, level).high * imbalance
    floor = 1 - rate_interval(count - int(full.sum()), count, level).high * imbalance
    return max(low, floor, 0.0), min(high, ceiling, 1.0)


def _bootstrap_t(sums: NDArray, sizes: NDArray, level: float, seed: int, resamples: int) -> tuple[float, float]:
    import numpy as np

    count = len(sums)
    rng, rows = np.random.default_rng(seed), max(1, 2_000_000 // count)  # rows at a time: memory stays in bounds
    columns = np.stack([sizes, sums, sizes**2, sums * sizes, sums**2], axis=1)

    def moments(w: NDArray) -> tuple[NDArray, NDArray]:
        total, top, size2, cross, top2 = (w @ columns).T
        mean = top / total
        residual = top2 - 2 * mean * cross + mean**2 * size2
        return mean, np.sqrt(np.maximum(residual * count / (count - 1), 0)) / total

    mean, error = (float(x[0]) for x in moments(np.ones((1, count))))
    if error < 1e-9:  # every cluster has the same mean: the bootstrap knows nothing
        return -math.inf, math.inf
    parts = [
        moments(rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start)).astype(float))
        for start in range(0, resamples, rows)
    ]
    means, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means - mean) / errors
    t = np.where(errors > 1e-9, t, np.where(means > mean, np.inf, -np.inf))
    tail = (1 - level) / 2
    t_low, t_high = np.quantile(t, [tail, 1 - tail], method="inverted_cdf")
    return mean - float(t_high) * error, mean - float(t_low) * error


def sign_flip_p(
    differences: Sequence[float] | NDArray,
    clusters: Sequence[Hashable] | None = None,
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> float:
    """Sign-flip permutation p-value that the mean of paired differences is 0; whole clusters flip together."""
    import numpy as np
    from scipy.stats import permutation_test

    d = np.asarray(differences, dtype=float)
    if clusters is not None and d.size:
        d = np.bincount(np.unique([str(c) for c in clusters], return_inverse=True)[1], weights=d)
    if d.size < 2 or not d.any():
        return 1.0
    result = permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=9999, alternative=alternative, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.pvalue)


# --- area under the ROC curve --------------------------------------------------------------------------------------


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """P(positive scores above negative) + P(tie) / 2; .5 if either is empty."""
    return float(_auc_parts(positives, negatives)[0]) if _size(positives) and _size(negatives) else 0.5


def auc_interval(positives: ArrayLike, negatives: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the AUC of scores (m,) against (n,): the hull of two methods that fail in different places.

    DeLong's variance (Biometrics 1988) on the logit scale, with Welch's degrees of freedom and half a
    pseudo-observation a side, is right for unequal spreads; it is cut off at the Clopper-Pearson bound for the smaller
    sample, beyond which no variance reaches (Birnbaum 1956). Newcombe's method 5 (Statistics in Medicine 25 (2006)
    559-573) is right near 0 and 1. Simulated coverage is at least 94 % from 16 against 160 on, for spreads of 1 to 5.
    """
    import numpy as np

    if min(_size(positives), _size(negatives)) < 2:
        return Interval(0.0, 1.0, level)
    value, above, below = _auc_parts(positives, negatives)
    score_low, score_high = _newcombe_auc(value, len(above), len(below), level)
    logit_low, logit_high = _delong_logit(np.asarray(above), np.asarray(below), level)
    return Interval(float(min(score_low, logit_low)), float(max(score_high, logit_high)), level)


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
    interval = _mover(float(value_a), a, float(value_b), b, correlation)
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
        return np.abs(theta - centre) > _z(level) * np.sqrt(theta * (1 - theta) * shape / (m * n))

    return _invert(outside, centre, 0.0, 1.0)


def _delong_logit(above: NDArray, below: NDArray, level: float) -> tuple[NDArray, NDArray]:
    """Smoothed DeLong interval on the logit scale, elementwise over leading axes of the placements."""
    import numpy as np
    from scipy.stats import t

    pseudo = 0.5
    m, n = above.shape[-1], below.shape[-1]
    value = above.mean(axis=-1)

    def variance(placements: NDArray, size: int) -> NDArray:
        squares = ((placements - value[..., None]) ** 2).sum(axis=-1) + pseudo / 4
        return squares / (size - 1 + pseudo) / size

    a, b = variance(above, m), variance(below, n)
    freedom = (a + b) ** 2 / (a**2 / (m - 1) + b**2 / (n - 1))
    inner = np.clip(value, 1e-6, 1 - 1e-6)
    half = np.minimum(t.ppf((1 + level) / 2, freedom) * np.sqrt(a + b) / (inner * (1 - inner)), 500)
    logit = np.log(inner / (1 - inner))
    floor, ceiling = _clopper_pearson(value * min(m, n), min(m, n), (1 - level) / 2)
    low, high = 1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))
    return np.minimum(np.maximum(low, floor), value), np.maximum(np.minimum(high, ceiling), value)


# --- permutation nulls and corrections -----------------------------------------------------------------------------


def smallest_p(nulls: int) -> float:
    """Smallest p-value a rank among ``nulls`` null draws can reach: above alpha, it cannot call anything vulnerable."""
    return 1 / (nulls + 1)


def rank_p(observed: float, null: ArrayLike) -> float:
    """One-sided Monte-Carlo p-value (1 + #{null >= observed}) / (R + 1), Phipson and Smyth 2010."""
    import numpy as np

    draws = np.asarray(null, dtype=float)
    return float((1 + (draws >= observed - 1e-12).sum()) / (1 + draws.size))


def max_t_p(observed: ArrayLike, null: ArrayLike) -> list[float]:
    """Single-step max-T adjusted p-values (Westfall and Young 1993) of K statistics, from R joint null draws (R, K).

    Each statistic is standardised by the mean and spread of its own null with the observed value in the pool, which
    keeps the draws exchangeable; a statistic without spread gets p = 1.
    """
    import numpy as np

    pool = np.vstack([np.asarray(observed, dtype=float)[None], np.asarray(null, dtype=float)])
    spread = pool.std(axis=0)
    scale = np.where(spread > 1e-12, spread, np.inf)
    t = (pool - pool.mean(axis=0)) / scale
    largest = t[1:].max(axis=1)
    return [rank_p(float(x), largest) if s > 1e-12 else 1.0 for x, s in zip(t[0], spread, strict=True)]


def max_t_quantile(null: ArrayLike, level: float = 0.95) -> float:
    """How many standard deviations all of K statistics stay within at once, with probability ``level``, under joint
    null draws (R, K): the multiplier of simultaneous intervals. Unlike Bonferroni's it knows their dependence."""
    import numpy as np

    draws = np.asarray(null, dtype=float)
    spread = draws.std(axis=0)
    t = np.abs(draws - draws.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    return max(float(np.quantile(t.max(axis=1), level, method="higher")), _z(level))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


# --- helpers -------------------------------------------------------------------------------------------------------


def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _mover(first: float, a: Interval, second: float, b: Interval, correlation: float) -> Interval:
    """Interval of ``first - second`` from those of both: Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702."""

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    value = first - second
    low, high = reach(first - a.low, b.high - second), reach(a.high - first, second - b.low)
    return Interval(max(value - low, -1.0), min(value + high, 1.0), a.level)


def _size(values: ArrayLike) -> int:
    import numpy as np

    return int(np.size(np.asarray(values)))


def _invert(
    outside: Callable[[NDArray], NDArray], centre: NDArray, minimum: float, maximum: float
) -> tuple[NDArray, NDArray]:
    """Ends of {x: not outside(x)} around ``centre``, by bisection, elementwise."""
    import numpy as np

    def end(far: float) -> NDArray:
        inner, outer = centre.copy(), np.full_like(centre, far)
        for _ in range(50):
            middle = (inner + outer) / 2
            beyond = outside(middle)
            inner, outer = np.where(beyond, inner, middle), np.where(beyond, middle, outer)
        return outer

    return end(minimum), end(maximum)
