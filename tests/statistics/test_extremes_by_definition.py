"""The largest of many measurements, and the jackknife, held against scipy and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlaudit.statistics.extremes import LEAST_NORMAL, LEAST_NULL, UpperTail, jackknife_interval, largest_p, outlier_p

GRID = stats.expon.ppf((np.arange(1000) + 0.5) / 1000)  # an exponential population without noise


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("x", [1.0, 3.0, 9.0])
def test_an_exponential_tail_is_followed_beyond_what_was_seen(x: float, count: int) -> None:
    assert largest_p(x, GRID.tolist(), count) == pytest.approx(1 - (1 - math.exp(-x)) ** count, rel=0.03)
    assert largest_p(5 * x + 2, (5 * GRID + 2).tolist(), count) == pytest.approx(largest_p(x, GRID.tolist(), count)), "unit and origin"


def test_the_scale_is_the_maximum_likelihood_one_of_a_censored_sample() -> None:
    """Of 100 values 50 lie above the median; 20 of these only count as at least the 80th."""
    null = list(range(1, 101))
    scale = (sum(range(1, 31)) + 20 * 30) / 30
    assert largest_p(120, null, 1) == pytest.approx(0.5 * math.exp(-(120 - 50) / scale))
    assert largest_p(120, null[::-1], 7) == pytest.approx(1 - (1 - 0.5 * math.exp(-(120 - 50) / scale)) ** 7)


def test_what_is_planted_in_the_largest_fifth_does_not_make_itself_look_usual() -> None:
    null = np.random.default_rng(0).gamma(2, 1, 500)
    raised = np.sort(null)
    raised[-100:] *= 10
    assert largest_p(12.0, raised.tolist(), 300) == largest_p(12.0, null.tolist(), 300) < 0.1
    raised[-101] += 1e-3
    assert largest_p(12.0, raised.tolist(), 300) != largest_p(12.0, null.tolist(), 300)


@pytest.mark.parametrize("family", [stats.norm(), stats.expon(), stats.gamma(3), stats.lognorm(0.5)])
def test_the_largest_of_a_clean_population_is_seldom_called(family: Any) -> None:
    """As often as planned, about: heavier tails than exponential ones a little more often."""
    rng = np.random.default_rng(0)

    def draws() -> np.ndarray:
        return family.rvs(size=300, random_state=rng)

    p = [largest_p(draws().max(), draws().tolist(), 300) for _ in range(200)]
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.mean(np.array(p) < 0.001) <= 0.03


def test_what_is_not_above_the_median_is_not_large() -> None:
    null = list(range(1, 101))
    assert largest_p(50, null, 1) == largest_p(-9, null, 5) == 1
    assert largest_p(50.001, null, 1) == pytest.approx(0.5, abs=1e-3)


def test_a_tail_without_width() -> None:
    assert largest_p(1.0, [1.0] * 100, 5) == 1 and largest_p(1.1, [1.0] * 100, 5) == 0
    assert largest_p(51.0, [0.0] * 51 + [1.0] * 49, 1) < 1e-9


def test_tails_need_a_hundred_values() -> None:
    assert LEAST_NULL == 100 and largest_p(3.0, GRID[:100].tolist(), 1) < 1
    with pytest.raises(ValueError, match="99 values, at least 100"):
        largest_p(3.0, [1.0] * 99, 1)


def test_tiny_p_values_keep_their_digits() -> None:
    assert largest_p(60.0, GRID.tolist(), 1000) == pytest.approx(1000 * largest_p(60.0, GRID.tolist(), 1), rel=1e-9)
    assert 0 < largest_p(60.0, GRID.tolist(), 1) < 1e-20


# --- few values ----------------------------------------------------------------------------------------------------

few = st.lists(st.floats(-100, 100), min_size=LEAST_NORMAL, max_size=40).filter(lambda v: np.std(v) > 1e-3)


@settings(max_examples=50, deadline=None)
@given(few, st.floats(-300, 300))
def test_one_more_draw_is_students_test_of_one_against_many(null: list[float], x: float) -> None:
    expected = stats.ttest_ind([x], null, alternative="greater").pvalue
    assert outlier_p(x, null) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert outlier_p(x, null, 9) == pytest.approx(1 - (1 - expected) ** 9, rel=1e-6, abs=1e-9)


def test_a_population_without_spread() -> None:
    assert outlier_p(2.0, [2.0] * 12) == outlier_p(1.0, [2.0] * 12) == 1 and outlier_p(2.1, [2.0] * 12) == 0
    assert 0 < outlier_p(2.0 + 3e-9, [2.0, 2.0 + 1e-9] * 6) < 0.05, "a little spread is some"


def test_a_population_has_twelve() -> None:
    assert LEAST_NORMAL == 12
    with pytest.raises(ValueError, match="11 values, at least 12"):
        outlier_p(1.0, list(range(11)))


def test_certainty_is_never_complete() -> None:
    null = [0.0, 1.0] * 10
    assert outlier_p(-1e9, null) == pytest.approx(1) and outlier_p(1e9, null, 50) < 1e-9
    assert outlier_p(-1e9, null, 10**6) == 1


# --- jackknife -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [3, 4, 30])
def test_the_jackknife_of_a_mean_is_students_interval(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(2, 3, n)
    without = [float(np.delete(values, i).mean()) for i in range(n)]
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    found = jackknife_interval(float(values.mean()), without, level)
    assert found.ci == pytest.approx((expected.low, expected.high)) and found.level == level
    assert jackknife_interval(0.0, without) == jackknife_interval(0.0, without, 0.95)


def test_the_jackknife_needs_three() -> None:
    with pytest.raises(ValueError, match="2 items, at least 3"):
        jackknife_interval(0.0, [0.0, 1.0])


def test_the_jackknife_of_a_mean_over_pairs_covers() -> None:
    """Mean distance of all pairs of normal values: 2 / sqrt(pi)."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.normal(size=20)
        table = np.abs(x[:, None] - x)
        total = table.sum()
        without = [(total - 2 * table[i].sum()) / (19 * 18) for i in range(20)]
        inside += 2 / math.sqrt(math.pi) in jackknife_interval(total / (20 * 19), without)
    assert inside / 300 >= 0.9


def test_an_upper_tail_is_that_of_a_normal_and_of_what_is_heavier() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(5, 2, 4000)
    tail = UpperTail.of(normal.tolist())
    assert tail.centre == pytest.approx(5, abs=0.1) and tail.scale == pytest.approx(2, rel=0.07)
    highest = np.median(rng.normal(5, 2, (400, 1000)).max(1))
    assert tail.usual_largest(1000) == pytest.approx(highest, rel=0.03)
    assert tail.largest_p(tail.usual_largest(1000), 1000) == pytest.approx(0.5, abs=1e-6)
    few = np.concatenate([normal, np.full(80, 100.0)])  # 2 % are planted
    assert UpperTail.of(few.tolist()).scale == pytest.approx(tail.scale, rel=0.3)
    many = np.concatenate([normal, np.full(160, 100.0)])  # 4 % are heavy
    assert UpperTail.of(many.tolist()).scale > 10 * tail.scale
    with pytest.raises(ValueError, match="at least 12"):
        UpperTail.of([1.0] * 11)
