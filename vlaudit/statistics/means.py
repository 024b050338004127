"""Means of clustered values within bounds: intervals that reckon with values not seen yet, and the sign-flip test."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vlaudit.records import BuiltIn
from vlaudit.statistics.base import MIN_CLUSTERS, Alternative, Difference, Interval, TooFewClustersError, mover, z_value
from vlaudit.statistics.rates import rate_interval

LEAST_EFFECTIVE = 10
BUILT_IN = {
    "LEAST_EFFECTIVE": BuiltIn(
        meaning="units of equal size that units of unequal sizes must be as good as, for an interval of a mean",
        source="our choice, because a few that hold nearly everything are a bootstrap over few",
    ),
}

if TYPE_CHECKING:
    from numpy.typing import NDArray


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

    Bootstrap-t over clusters (Efron and Tibshirani 1993, 12.5) with the linearised standard error of a ratio, widened where
    sizes differ by what Student's t gains from the effective number of clusters (sum of sizes squared, over the sum of
    squares) to their number, and cut off at :func:`_upper`, on both sides. Where each cluster is all yes or all no, and all
    are of one size, it is Clopper and Pearson's. Values around an inner point (such as differences, mostly 0) are split
    there into excess and shortfall, each bounded like that, and joined (MOVER). Raises TooFewClustersError below 20 clusters,
    and where a few hold so much that all are as good as fewer than 10.
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
    if (effective := _effective(sizes)) < LEAST_EFFECTIVE:
        raise TooFewClustersError(
            f"{count} clusters of so unequal sizes that they are as good as {effective:.0f}, at least {LEAST_EFFECTIVE} are needed"
        )
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
        joined = mover(float(excess.mean()) * (1 - middle), a, float(shortfall.mean()) * middle, b, correlation)
        inner = Interval(max(middle + joined.low, 0.0), min(middle + joined.high, 1.0), level)
    return Interval(bounds[0] + inner.low * span, bounds[0] + inner.high * span, level)


def _bounded_mean(sums: NDArray, sizes: NDArray, level: float, seed: int, resamples: int) -> tuple[float, float]:
    """Interval of the pooled mean of values in [0, 1], from the sums and sizes of their clusters."""
    import numpy as np
    from scipy.special import stdtrit

    count, tail = len(sums), (1 - level) / 2
    full, empty = np.isclose(sums, sizes), sums < 1e-9
    if np.ptp(sizes) == 0 and bool(np.all(full | empty)):  # as good as one yes or no a cluster
        return rate_interval(int(full.sum()), count, level).ci
    mean = float(sums.sum() / sizes.sum())
    low, high = _bootstrap_t(sums, sizes, level, seed, resamples)
    wider = float(stdtrit(_effective(sizes) - 1, 1 - tail) / stdtrit(count - 1, 1 - tail))
    low, high = mean - (mean - low) * wider, mean + (high - mean) * wider
    return max(low, 1 - _upper(sizes - sums, sizes, tail)), min(high, _upper(sums, sizes, tail))


def _effective(sizes: NDArray) -> float:
    """How many clusters of equal size tell as much as these, where what they tell lies between them."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _upper(sums: NDArray, sizes: NDArray, tail: float) -> float:
    """Upper bound, with ``tail`` above it, of the pooled mean of values in [0, 1] by clusters.

    Gaffke's bound (Mathematical Methods of Statistics 14 (2005) 451-467): the quantile of the mean under random weights,
    exponential and independent, of the clusters and of one more that is all ones and so large as a value's cluster is on
    average. For yes or no it is Clopper and Pearson's; that it covers whatever the law of the values is no theorem yet, but has
    no counterexample (arXiv:2106.03163). The tail by the saddle point (Lugannani and Rice 1980), within 1 % of the exact one.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr

    if sizes.sum() - sums.sum() < 1e-9:
        return 1.0
    large = float((sizes**2).sum() / sizes.sum())
    sums, sizes = np.append(sums, large), np.append(sizes, large)

    def excess(mean: float) -> float:
        """P(the weighted sum of what the clusters have beyond ``mean`` is positive), less the tail."""
        beyond = sums - mean * sizes
        ends = (1 - 1e-9) / beyond.min(), (1 - 1e-9) / beyond.max()
        tilt = float(
            brentq(lambda t: float((beyond / (1 - t * beyond)).sum()), *ends, xtol=1e-12 * (ends[1] - ends[0]))
        )
        left = 1 - tilt * beyond
        w = math.copysign(math.sqrt(max(2 * float(np.log(left).sum()), 0.0)), tilt)
        if abs(w) < 1e-6:
            return 0.5 - tail
        u = tilt * math.sqrt(float(((beyond / left) ** 2).sum()))
        return float(ndtr(-w)) + math.exp(-w * w / 2) / math.sqrt(2 * math.pi) * (1 / u - 1 / w) - tail

    lowest, highest = float(sums.sum() / sizes.sum()), 1 - 1e-9
    if lowest >= highest or excess(highest) > 0:
        return 1.0
    return float(brentq(excess, lowest, highest, xtol=1e-9))


def _resampled(count: int, seed: int, resamples: int) -> Iterable[NDArray]:
    """How often each of so many clusters is drawn, a row a resample: so many rows at a time that memory stays in bounds."""
    rows = max(1, 2_000_000 // count)
    return [_kept(count, seed, resamples)] if resamples <= rows else _draws(count, seed, resamples, rows)


@lru_cache(maxsize=16)
def _kept(count: int, seed: int, resamples: int) -> NDArray:
    """Remembered, because a judge takes many means over the same clusters, and drawing is most of the work."""
    import numpy as np

    (drawn,) = _draws(count, seed, resamples, resamples)
    return drawn.astype(np.min_scalar_type(count))


def _draws(count: int, seed: int, resamples: int, rows: int) -> Iterator[NDArray]:
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(rows, resamples - start))


def _bootstrap_t(sums: NDArray, sizes: NDArray, level: float, seed: int, resamples: int) -> tuple[float, float]:
    import numpy as np

    count = len(sums)
    columns = np.stack([sizes, sums, sizes**2, sums * sizes, sums**2], axis=1)

    def moments(w: NDArray) -> tuple[NDArray, NDArray]:
        total, top, size2, cross, top2 = (w @ columns).T
        mean = top / total
        residual = top2 - 2 * mean * cross + mean**2 * size2
        return mean, np.sqrt(np.maximum(residual * count / (count - 1), 0)) / total

    mean, error = (float(x[0]) for x in moments(np.ones((1, count))))
    if error < 1e-9:  # every cluster has the same mean: the bootstrap knows nothing
        return -math.inf, math.inf
    parts = [moments(drawn.astype(float)) for drawn in _resampled(count, seed, resamples)]
    means, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means - mean) / errors
    t = np.where(errors > 1e-9, t, np.where(means > mean, np.inf, -np.inf))
    tail = (1 - level) / 2
    t_low, t_high = np.quantile(t, [tail, 1 - tail], method="inverted_cdf")
    return mean - float(t_high) * error, mean - float(t_low) * error


def bounded_interval(
    values: NDArray, clusters: NDArray | None = None, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Of the mean of values in ``bounds``, by clusters, however few: :func:`_upper` on both sides.

    A sample may hold none of the few values that are far from the rest: neither a bootstrap nor Student's t knows of them. So the
    ends stay about 3.7 / n of the bounds' width from what was seen.
    """
    import numpy as np

    codes = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sizes, span, tail = np.bincount(codes).astype(float), bounds[1] - bounds[0], (1 - level) / 2
    sums = np.bincount(codes, weights=(np.asarray(values, dtype=float) - bounds[0]) / span)
    low, high = 1 - _upper(sizes - sums, sizes, tail), _upper(sums, sizes, tail)
    return Interval(bounds[0] + low * span, bounds[0] + high * span, level)


def t_interval(values: NDArray, clusters: NDArray | None = None, level: float = 0.95, bound: float = 1.0) -> Interval:
    """The same of differences in [-1, 1] (or a little more), cut off at plus and minus ``bound``."""
    import numpy as np

    reach = max(1.0, float(np.abs(values).max()))
    found = bounded_interval(values, clusters, level, (-reach, reach))
    return Interval(max(found.low, -bound), min(found.high, bound), level)


def standard_error(values: NDArray, clusters: NDArray) -> float:
    """Standard error of the mean of values in [-1, 1], by clusters; two pseudo-clusters keep it above 0."""
    import numpy as np

    codes = np.unique(clusters, return_inverse=True)[1]
    count = int(codes.max()) + 1
    sums = np.bincount(codes, weights=values - values.mean()) * count / len(values)
    return float(np.sqrt(((sums**2).sum() + 1) / (count + 1) / count))


def normal_difference(value: float, error: float, level: float = 0.95) -> Difference:
    """A difference whose standard error is known, by the normal law; the error is 0 where both sides are the same in every case."""
    from scipy.special import ndtr

    half = z_value(level) * error
    p_value = float(2 * ndtr(-abs(value) / error)) if error else float(value == 0)
    return Difference(value, Interval(value - half, value + half, level), p_value)


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
