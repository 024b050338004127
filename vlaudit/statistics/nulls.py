"""Permutation nulls, maxima over many statistics, and corrections for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.statistics.base import z_value

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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
    keeps the draws exchangeable; a statistic without spread is 0 in every draw, so that no maximum is below it: p = 1.
    """
    import numpy as np

    pool = np.vstack([np.asarray(observed, dtype=float)[None], np.asarray(null, dtype=float)])
    spread = pool.std(axis=0)
    t = (pool - pool.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    largest = t[1:].max(axis=1)
    return [rank_p(float(x), largest) for x in t[0]]


def max_t_quantile(null: ArrayLike, level: float = 0.95) -> float:
    """How many standard deviations all of K statistics stay within at once, with probability ``level``, under joint
    null draws (R, K): the multiplier of simultaneous intervals. Unlike Bonferroni's it knows their dependence."""
    import numpy as np

    draws = np.asarray(null, dtype=float)
    spread = draws.std(axis=0)
    t = np.abs(draws - draws.mean(axis=0)) / np.where(spread > 1e-12, spread, np.inf)
    return max(float(np.quantile(t.max(axis=1), level, method="higher")), z_value(level))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
