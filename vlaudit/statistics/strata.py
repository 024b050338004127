"""Differences that may vary between strata (labels, questions, roles): how large they are, whatever their signs. Pure numpy.

A mean over strata cancels what has two signs and thins what sits in one. The root mean square does neither. Chance alone makes it
larger than 0, so its mean without a difference, by permutation or sign flips, is taken off. C comparisons, R null draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.statistics.base import z_value
from vlaudit.statistics.means import standard_error
from vlaudit.statistics.nulls import max_t_p, max_t_quantile
from vlaudit.statistics.rates import clopper_pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RootMeanSquare:
    """(C,) each. ``low`` is simultaneous over the comparisons, ``high`` is of each alone."""

    value: NDArray
    low: NDArray
    high: NDArray
    p: NDArray  # max-T


def bend(differences: NDArray, errors: NDArray, weights: NDArray | float) -> NDArray:
    """(...) the standard error that true differences (..., S) add to the weighted mean of their squares, of which ``errors`` (..., S)
    explain a part."""
    import numpy as np

    true = np.maximum(differences**2 - errors**2, 0)
    return 2 * np.sqrt((weights**2 * true * errors**2).sum(axis=-1))


def root_mean_square(
    square: NDArray, null: NDArray, bend: NDArray, level: float, unseen: NDArray | float = 0.0, upper: float | None = None,
    most: float = 1.0,
) -> RootMeanSquare:
    """``square`` (C,): weighted means of the squared differences, ``null`` (R, C): the same without a difference, ``bend`` (C,): see
    :func:`bend`. ``unseen`` (C,): the weight of strata in which nothing can be compared; the upper end takes their differences for 1.
    ``upper``: the level of the upper end, if another: of ends that must all lie below a limit, none needs a correction (Berger 1982).
    ``most``: the largest that a difference can be."""
    import numpy as np

    excess, spread = square - null.mean(axis=0), null.std(axis=0)
    low = excess - np.hypot(max_t_quantile(null, level) * spread, z_value(1 - (1 - level) / len(square)) * bend)
    high = np.maximum(excess, 0) + z_value(upper or level) * np.hypot(spread, bend) + unseen
    value, low, high = (np.sqrt(np.clip(ends, 0, most)) for ends in (excess, low, high))
    return RootMeanSquare(value, low, high, np.array(max_t_p(square, null)))


def at_least(values: NDArray, clusters: NDArray, level: float, tests: int = 1) -> float:
    """Lower end of the size of a mean of values in [-1, 1], by Student's t over clusters, simultaneous over ``tests`` (Bonferroni). For an
    alarm that a test of signs must confirm; the end that a pass goes by reckons with values not seen yet (``t_interval``)."""
    import numpy as np
    from scipy.special import stdtrit

    count = len(np.unique(clusters))
    if count < 2:
        return 0.0
    reach = float(stdtrit(count - 1, 1 - (1 - level) / 2 / tests)) * standard_error(values, clusters)
    return max(abs(float(values.mean())) - reach, 0.0)


def rate_differences(hits: NDArray, trials: NDArray, tail: float) -> tuple[NDArray, NDArray]:
    """Ends of the difference of independent rates, with ``tail`` outside each: exact for each rate, joined by MOVER. ``hits`` and
    ``trials`` (2, ...) may be fractional (effective counts); without trials a rate may be anything."""
    import numpy as np

    rate = np.where(trials > 0, hits / np.maximum(trials, 1e-9), 0.5)
    below, above = clopper_pearson(hits, trials, tail)
    difference = rate[0] - rate[1]
    low = difference - np.hypot(rate[0] - below[0], above[1] - rate[1])
    high = difference + np.hypot(above[0] - rate[0], rate[1] - below[1])
    return np.maximum(low, -1), np.minimum(high, 1)
