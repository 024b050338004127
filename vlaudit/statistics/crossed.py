"""Values in a table whose rows share one cause and whose columns share another: wordings and questions, changes and pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vlaudit.statistics.base import Interval
from vlaudit.statistics.means import mean_interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def crossed_mean_interval(table: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Interval of the mean of values (rows, columns) in ``bounds`` where both rows and columns are clusters.

    The variance of such a mean is at most the sum of the variances with rows and with columns as clusters (Cameron,
    Gelbach and Miller 2011, without the term they take off), so the reaches of both intervals are added in quadrature.
    Raises TooFewClustersError for less than 20 rows or columns.
    """
    import numpy as np

    values = np.asarray(table, dtype=float)
    values = values if values.ndim == 2 else values.reshape(0, 0)
    rows, columns = (
        mean_interval(values.mean(axis=axis) if values.size else [], level=level, bounds=bounds) for axis in (1, 0)
    )
    mean = float(values.mean())
    low = mean - math.hypot(mean - rows.low, mean - columns.low)
    high = mean + math.hypot(rows.high - mean, columns.high - mean)
    return Interval(max(low, bounds[0]), min(high, bounds[1]), level)


def variance_components(table: ArrayLike) -> tuple[float, float, float] | None:
    """Shares of the variance of values (rows, columns) that lie between rows, between columns, and in both together (with
    the error), by the moments of a two-way analysis of variance with one value a cell. None where nothing varies, or there
    are fewer than two rows or columns."""
    import numpy as np

    values = np.asarray(table, dtype=float)
    if min(values.shape, default=0) < 2 or values.std() == 0:
        return None
    n, m = values.shape
    rows, columns = values.mean(axis=1) - values.mean(), values.mean(axis=0) - values.mean()
    rest = values - values.mean() - rows[:, None] - columns[None]
    error = float((rest**2).sum()) / ((n - 1) * (m - 1))
    between = max(0.0, (m * float((rows**2).sum()) / (n - 1) - error) / m)
    across = max(0.0, (n * float((columns**2).sum()) / (m - 1) - error) / n)
    total = between + across + error
    return (between / total, across / total, error / total) if total else None
