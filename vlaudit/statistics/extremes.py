"""How far the largest of many measurements stands from the rest: extreme values, and the jackknife. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vlaudit.records import BuiltIn
from vlaudit.statistics.base import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

TAIL, SPARED = 0.5, 0.2
QUANTILES = (0.8, 0.97)
LEAST_NULL, LEAST_NORMAL = 100, 12
LOWER_PART, LEAST_LOWER = 8, 10
DRAWS = 20_000  # of the null of how far the lowest value lies below the others
BUILT_IN = {
    "TAIL": BuiltIn(
        meaning="upper part of the values without the flaw that the tail of their largest one is fitted to",
        source="our choice, because the lower half says nothing about the largest; the fit is Pickands' of 1975",
    ),
    "SPARED": BuiltIn(
        meaning="largest part of the same values, which counts only as beyond the others",
        source="our choice, because what is planted drags relatives along, and these must not make it look usual",
    ),
    "LEAST_NULL": BuiltIn(
        meaning="values without the flaw for the tail of their largest one, at least", source="our choice, because the tail is fitted to the upper half of them",
    ),
    "LEAST_NORMAL": BuiltIn(
        meaning="values without the flaw for a normal population, at least", source="our choice, because their spread is not known from fewer",
    ),
    "QUANTILES": BuiltIn(
        meaning="quantiles of the values without the flaw that tell how far they reach above their median; the wider of the two counts",
        source="our choice, because the largest values may be planted ones' relatives, and a heavy tail shows at the second quantile only",
    ),
    "LOWER_PART": BuiltIn(
        meaning="one in so many of the values are the low tail that is measured by its own steps, where there are many values",
        source="our choice, because the rest is no tail; the measure is Hill's of 1975",
    ),
    "LEAST_LOWER": BuiltIn(
        meaning="values of that low tail for it to be measured, at least", source="our choice, because of fewer the measure is mostly chance",
    ),
}  # fmt: skip


def largest_p(observed: float, null: Sequence[float], count: int) -> float:
    """P(the largest of ``count`` values like the null's is at least as large as ``observed``).

    The null's upper half is taken to fall off exponentially (peaks over threshold, Pickands 1975, with shape 0: the
    Gumbel domain, as for normal, gamma and log-normal data). The scale is the maximum-likelihood one above the median, in
    which the largest fifth of all values only counts as "beyond": what is planted may drag relatives along, and must
    not make itself look usual. At or below the median the p-value is 1. Raises ValueError below 100 values.
    """
    values = sorted(float(value) for value in null)
    n = len(values)
    if n < LEAST_NULL:
        raise ValueError(f"{n} values, at least {LEAST_NULL} are needed")
    start, cut = math.ceil(n * (1 - TAIL)), n - max(1, round(n * SPARED))
    base, cap = values[start - 1], values[cut - 1]
    if observed <= base:
        return 1.0
    excess = sum(value - base for value in values[start:cut]) + (n - cut) * (cap - base)
    scale = excess / (cut - start)
    single = (n - start) / n * (math.exp(-(observed - base) / scale) if scale > 1e-12 else 0.0)
    return float(-math.expm1(count * math.log1p(-min(single, 1 - 1e-12))))


@dataclass(frozen=True)
class UpperTail:
    """A null that is about normal above its median, known by quantiles: a few of its largest values may be contaminated.

    The scale is the larger of those that its 80 % and its 97 % quantile tell, so that a tail which is heavier than a normal one is
    not taken for one. Raises ValueError below 12 values.
    """

    centre: float
    scale: float

    @classmethod
    def of(cls, null: Sequence[float]) -> UpperTail:
        import numpy as np
        from scipy.special import ndtri

        if len(null) < LEAST_NORMAL:
            raise ValueError(f"{len(null)} values, at least {LEAST_NORMAL} are needed")
        centre, *high = np.quantile(null, (0.5, *QUANTILES)).tolist()
        scales = [(value - centre) / float(ndtri(share)) for value, share in zip(high, QUANTILES, strict=True)]
        return cls(centre, max(*scales, 1e-9))

    def largest_p(self, observed: float, count: int) -> float:
        """P(the largest of ``count`` values is at least as large as ``observed``)."""
        from scipy.special import log_ndtr

        p = -math.expm1(count * float(log_ndtr((observed - self.centre) / self.scale)))
        return max(p, 1e-99)  # beyond which a float has no digits left

    def usual_largest(self, count: int) -> float:
        """What the largest of ``count`` values reaches as often as not."""
        from scipy.special import ndtri

        return self.centre - self.scale * float(ndtri(-math.expm1(math.log(0.5) / count)))


def outlier_p(observed: float, null: Sequence[float], count: int = 1) -> float:
    """P(the largest of ``count`` further draws is at least ``observed``), of a normal population known by ``null``.

    A prediction with Student's t: for few null values, of a statistic that is about normal. Raises ValueError below 12.
    """
    import numpy as np
    from scipy.stats import t

    values = np.asarray(null, dtype=float)
    if values.size < LEAST_NORMAL:
        raise ValueError(f"{values.size} values, at least {LEAST_NORMAL} are needed")
    spread = float(values.std(ddof=1)) * math.sqrt(1 + 1 / values.size)
    if spread < 1e-12:
        return float(observed <= values[0])
    single = float(t.sf((observed - float(values.mean())) / spread, values.size - 1))
    return float(-math.expm1(count * math.log1p(-min(single, 1 - 1e-12))))


def lowest_p(values: ArrayLike) -> float:
    """How often the lowest of so many normal draws lies at least as far below the others, measured by their spread.

    Others that lie farther above their median than the lowest of them lies below it count as far as that: how high the
    highest are does not say how low the lowest may be. By simulation from a fixed seed.
    """
    return _lowest_p(values, 0.0, 0.0, "normal")


def lowest_p_skewed(values: ArrayLike, usual: float, weight: float) -> float:
    """The same for draws whose low tail is as long as that of an exponential distribution, and of very many draws as long as their own
    lower eighth says: populations that are skewed to the low side or have heavy tails, then, call less unusual.

    Few values tell their spread badly, so it is drawn towards the ``usual`` one, which counts as ``weight`` values more; the null is
    one of twice that spread.
    """
    import numpy as np

    found = np.sort(np.asarray(values, dtype=float))
    p = _lowest_p(found, usual, weight, "exponential")
    below = float(np.median(found)) - found
    eighth = len(found) // LOWER_PART
    if eighth < LEAST_LOWER or below[eighth] <= 0:
        return p
    steps = np.arange(1, eighth + 1) * np.log(below[:eighth] / below[1 : eighth + 1])
    mean = max(float(steps[1:].mean()), 1e-9)
    return max(p, float((1 + steps[0] / mean / (eighth - 1)) ** (1 - eighth)))


def _lowest_p(values: ArrayLike, usual: float, weight: float, shape: str) -> float:
    import numpy as np

    found = np.asarray(values, dtype=float)
    observed = float(_distances_below(found[None], usual, weight)[0])
    null = _null_below(len(found), usual, weight, shape)
    return float((1 + (null >= observed).sum()) / (1 + len(null)))


@cache
def _null_below(count: int, usual: float, weight: float, shape: str) -> NDArray[np.float64]:
    """(DRAWS,) distances of the lowest of ``count`` draws; fewer of them where there are many values."""
    import numpy as np

    rng, size = np.random.default_rng(0), (min(DRAWS, max(2000, DRAWS * 100 // count)), count)
    drawn = rng.normal(size=size) if shape == "normal" else -rng.exponential(2 * usual, size)
    return _distances_below(drawn, usual, weight)


def _distances_below(values: NDArray[Any], usual: float, weight: float) -> NDArray[np.float64]:
    """(R, C) to (R,): by how many standard deviations of the others the lowest of a row lies below their mean."""
    import numpy as np

    ordered = np.sort(values, axis=1)
    mean, spread = _others(ordered[:, 1:], usual, weight)
    return (mean - ordered[:, 0]) / np.maximum(spread, 1e-9)


def spread_of_others(values: ArrayLike, usual: float, weight: float) -> float:
    """Standard deviation of all values but the lowest, drawn towards the ``usual`` one, which counts as ``weight`` values more. What lies far
    above their median counts as in :func:`lowest_p`."""
    import numpy as np

    return float(_others(np.sort(np.asarray(values, dtype=float))[None, 1:], usual, weight)[1][0])


def _others(others: NDArray[Any], usual: float, weight: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R, C) of rising values to the means and the standard deviations (R,) of rows."""
    import numpy as np

    others = np.minimum(others, 2 * np.median(others, axis=1, keepdims=True) - others[:, :1])
    free = others.shape[1] - 1
    return others.mean(1), np.sqrt((weight * usual**2 + free * others.var(1, ddof=1)) / (weight + free))


def jackknife_interval(value: float, without: Sequence[float], level: float = 0.95) -> Interval:
    """Interval of a statistic from its values with each of n items left out (Tukey 1958), with Student's t.

    For smooth statistics of several items at once, such as a mean over pairs, where the pairs share items.
    """
    import numpy as np
    from scipy.stats import t

    n = len(without)
    if n < 3:
        raise ValueError(f"{n} items, at least 3 are needed")
    pseudo = n * value - (n - 1) * np.asarray(without, dtype=float)
    reach = float(t.ppf((1 + level) / 2, n - 1) * pseudo.std(ddof=1) / math.sqrt(n))
    return Interval(value - reach, value + reach, level)
