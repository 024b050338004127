"""Rates: exact intervals, paired differences, and how many trials would decide."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlaudit.records import BuiltIn, Verdict
from vlaudit.statistics.base import Alternative, Difference, Interval, Side, invert, size, verdict, z_value

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST_NEEDED = 20_000  # trials that a cure asks for: nobody would make more for one finding
JEFFREYS = 0.5
BUILT_IN = {
    "JEFFREYS": BuiltIn(
        meaning="hits, and as many misses, that are added to those seen where a rate must be neither 0 nor 1",
        source="Jeffreys 1946, the prior of a rate that favours none",
    ),
}


def rate_interval(successes: int, trials: int, level: float = 0.95, side: Side = "both") -> Interval:
    """Clopper-Pearson interval of a rate (Biometrika 1934); with no trials it is [0, 1]."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - level) / 2 if side == "both" else 1 - level
    low, high = clopper_pearson(successes, trials, tail)
    return Interval(0.0 if side == "upper" else float(low), 1.0 if side == "lower" else float(high), level)


def clopper_pearson(successes: ArrayLike, trials: ArrayLike, tail: float) -> tuple[NDArray, NDArray]:
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


def mcnemar_p(first: ArrayLike, second: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """The same of two rates on the same items (booleans, (N,) each)."""
    return mcnemar(*_discordant(first, second), alternative)


def _discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """How many items are true in the first alone, and in the second alone."""
    import numpy as np

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"paired rates need two lists of one length, got {a.shape} and {b.shape}")
    return int((a & ~b).sum()), int((b & ~a).sum())


def stratified_excess_p(strata: Iterable[tuple[int, int, int, int]]) -> float:
    """Exact one-sided p-value that own trials hit more often than controls of their stratum; a stratum is (own hits, own trials,
    control hits, control trials). Given all hits of a stratum, each is as likely to be any of its trials (Cochran, Mantel and
    Haenszel, conditional): so the strata need not have one rate, and one without a hit says nothing."""
    import numpy as np
    from scipy.stats import hypergeom

    law, observed = np.ones(1), 0
    for hits, trials, control_hits, controls in strata:
        together = hits + control_hits
        if together:
            law = np.convolve(law, hypergeom.pmf(range(min(trials, together) + 1), trials + controls, together, trials))
            observed += hits
    return min(1.0, max(float(law[observed:].sum()), sys.float_info.min))


def paired_rate_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Difference of two rates on the same items (booleans, (N,) each): Tango's score interval and exact McNemar.

    Source: Tango, Statistics in Medicine 17 (1998) 891-908. Exact coverage at 95 %, n 20 to 200, is at least 93.3 %.
    """
    (only_a, only_b), n = _discordant(first, second), size(first)
    if n == 0:
        return Difference(0.0, Interval(-1.0, 1.0, level), 1.0)
    low, high = _tango(only_a, only_b, n, level)
    value = (only_a - only_b) / n
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
        return np.abs(b - c - n * delta) > z_value(level) * np.sqrt(np.maximum(variance, 0))

    return invert(outside, (b - c) / n, -1.0, 1.0)


def trials_to_decide(rate: float, threshold: float, level: float = 0.95, limit: int = MOST_NEEDED) -> int | None:
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


def samples_to_decide(value: float, interval: Interval, n: int, threshold: float, limit: int = MOST_NEEDED) -> int | None:
    """About how many samples would decide any metric measured on ``n``, if its interval shrinks as 1/sqrt(n); None if
    more than ``limit``."""
    gap = abs(value - threshold)
    reach = value - interval.low if value > threshold else interval.high - value
    needed = n * (reach / gap) ** 2 if gap > 0 else math.inf
    return math.ceil(needed - 1e-6) if needed <= limit else None
