"""Means and variances of tables whose rows and columns are both drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.statistics import TooFewClustersError, mean_interval
from vlaudit.statistics.crossed import crossed_mean_interval, variance_components


def crossed(rng: np.random.Generator, rate: float, rows: int = 60, columns: int = 60) -> np.ndarray:
    """Answers that share the strength of their row and the stability of their column."""
    strength, stability = rng.beta(1, 1, (rows, 1)) * 2, rng.beta(1, 1, (1, columns)) * 2
    return rng.random((rows, columns)) < rate * strength * stability


def test_crossed_interval_covers() -> None:
    rng = np.random.default_rng(1)
    hits = sum(0.15 in crossed_mean_interval(crossed(rng, 0.15, 40, 40).tolist()) for _ in range(100))
    assert hits >= 93


def test_it_is_wider_than_with_either_alone_and_stays_within_the_bounds() -> None:
    table = crossed(np.random.default_rng(0), 0.1, 30, 25).astype(float)
    both = crossed_mean_interval(table)
    for axis in (0, 1):
        alone = mean_interval(table.mean(axis=axis))
        assert 0 <= both.low <= alone.low < alone.high <= both.high <= 1
    turned = crossed_mean_interval(table.T)
    assert turned.ci == pytest.approx(both.ci)
    shifted = crossed_mean_interval(table - 0.5, bounds=(-0.5, 0.5))
    assert shifted.ci == pytest.approx((both.low - 0.5, both.high - 0.5))


@pytest.mark.parametrize("table", [[], np.zeros((10, 60)), np.zeros((60, 10))])
def test_too_few_rows_or_columns_are_said(table: np.ndarray) -> None:
    with pytest.raises(TooFewClustersError):
        crossed_mean_interval(table)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_variance_is_where_it_was_put(n: int, m: int, seed: int, by_row: float, by_column: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns, rest = rng.normal(size=(n, 1)), rng.normal(size=(1, m)), rng.normal(size=(n, m))
    assert variance_components(rows + 0 * rest) == pytest.approx((1, 0, 0), abs=1e-9)
    assert variance_components(columns + 0 * rest) == pytest.approx((0, 1, 0), abs=1e-9)
    shares = variance_components(by_row * rows + by_column * columns + rest)
    assert shares is not None and sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert variance_components(0 * rest) is None and variance_components(rest[:1]) is None
    assert variance_components(rest[:, :1]) is None and variance_components([]) is None


@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 99))
def test_variance_components_are_those_of_the_two_way_analysis(n: int, m: int, seed: int) -> None:
    """By the mean squares of the textbook: MS_rows = error + m var_rows, MS_columns = error + n var_columns, MS_rest = error."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 1)) + 2 * rng.normal(size=(1, m)) + rng.normal(size=(n, m))
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    error = (rest**2).sum() / (n * m - n - m + 1)
    by_row = max(0.0, (m * table.mean(axis=1).var(ddof=1) - error) / m)
    by_column = max(0.0, (n * table.mean(axis=0).var(ddof=1) - error) / n)
    wanted = np.array([by_row, by_column, error])
    assert variance_components(table) == pytest.approx(tuple(wanted / wanted.sum()))


def test_the_reaches_of_both_sides_are_added_in_quadrature() -> None:
    table = crossed(np.random.default_rng(3), 0.3, 30, 40).astype(float)
    for level in (0.8, 0.95):
        found, mean = crossed_mean_interval(table, level), table.mean()
        sides = [mean_interval(table.mean(axis=axis), level=level) for axis in (1, 0)]
        assert mean - found.low == pytest.approx(np.hypot(*(mean - side.low for side in sides)))
        assert found.high - mean == pytest.approx(np.hypot(*(side.high - mean for side in sides)))
        assert found.level == level
