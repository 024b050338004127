"""What all intervals and tests share: the interval, the verdict it supports, and small numerical tools."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlaudit.records import BuiltIn, Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_CLUSTERS = 20
BUILT_IN = {
    "MIN_CLUSTERS": BuiltIn(
        meaning="independent units (pictures, people, captions) for an interval of a mean, at least; nothing is concluded from fewer",
        source="our choice, because a bootstrap over fewer is not trustworthy",
    ),
}
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


def z_value(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def mover(first: float, a: Interval, second: float, b: Interval, correlation: float) -> Interval:
    """Interval of ``first - second`` from those of both: Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702."""

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    value = first - second
    low, high = reach(first - a.low, b.high - second), reach(a.high - first, second - b.low)
    return Interval(max(value - low, -1.0), min(value + high, 1.0), a.level)


def size(values: ArrayLike) -> int:
    import numpy as np

    return int(np.size(np.asarray(values)))


def invert(
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
