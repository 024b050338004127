"""Extreme values: their p-values are what they say under the null, and are not fooled by what is planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.statistics.extremes import jackknife_interval, largest_p, lowest_p, lowest_p_skewed, outlier_p


@pytest.mark.parametrize("draw", ["normal", "exponential", "gumbel"])
def test_the_largest_of_many_is_rarely_called_extreme(draw: str) -> None:
    """Under the null the p-value must not be small more often than it says, for the usual kinds of tails."""
    rng = np.random.default_rng(1)
    small = sum(
        largest_p(float(x.max()), x.tolist(), x.size) <= 0.05
        for x in (getattr(rng, draw)(size=1500) for _ in range(300))
    )
    assert small <= 0.08 * 300


def test_contamination_does_not_hide_what_is_planted() -> None:
    rng = np.random.default_rng(0)
    words = rng.exponential(size=1500)
    words[:30] = 30 + rng.normal(size=30)  # relatives of the trigger
    assert largest_p(32.0, words.tolist(), 1500) < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.5, 3.0))
def test_a_larger_observation_is_never_less_extreme(seed: int, step: float) -> None:
    null = np.random.default_rng(seed).normal(size=300).tolist()
    assert largest_p(2.0 + step, null, 300) <= largest_p(2.0, null, 300) <= 1.0
    assert largest_p(2.0, null, 3000) >= largest_p(2.0, null, 300)


def test_the_jackknife_covers_a_mean_over_pairs() -> None:
    """Mean product over pairs of n normal draws with mean 1: the true value is 1, and pairs share their items."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.normal(1, 0.5, 24)
        values = [
            (y.sum() ** 2 - (y**2).sum()) / (y.size * (y.size - 1)) for y in (x, *(np.delete(x, i) for i in range(24)))
        ]
        covered += 1.0 in jackknife_interval(values[0], values[1:])
    assert 0.91 <= covered / 300 <= 0.985


def test_the_largest_further_draw_is_rarely_an_outlier() -> None:
    rng = np.random.default_rng(0)
    small = sum(outlier_p(float(rng.normal(size=8).max()), rng.normal(size=30), 8) <= 0.05 for _ in range(1000))
    assert 25 <= small <= 80
    with pytest.raises(ValueError, match="12 are needed"):
        outlier_p(1.0, [0.0] * 11)


@pytest.mark.parametrize("count", [5, 10, 20])
def test_the_lowest_of_normal_draws_has_a_uniform_p(count: int) -> None:
    draws = np.random.default_rng(1).normal(3, 2, size=(2000, count))
    found = np.array([lowest_p(row) for row in draws])
    for level in (0.05, 0.1, 0.5):
        assert np.mean(found <= level) == pytest.approx(level, abs=0.025)


def test_high_values_do_not_hide_a_low_one() -> None:
    alike = np.array([0.0, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.0, 2.1, 2.1])
    hard = np.append(alike[:7], [6.0, 7.0, 9.0])
    assert lowest_p(alike) < 0.02 and lowest_p(hard) < 0.05
    assert lowest_p(np.array([0.0, 1.0, 1.0, 1.8, 2.1, 2.2, 2.3, 3.4, 3.4, 4.6])) > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_p_of_the_lowest_knows_no_scale_and_no_order(seed: int, scale: float, shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=8)
    assert lowest_p(np.random.default_rng(seed).permutation(values * scale + shift)) == pytest.approx(lowest_p(values), abs=1e-3)
    further = values.copy()
    further[values.argmin()] -= 1
    assert lowest_p(further) <= lowest_p(values)


@pytest.mark.parametrize("count", [6, 12, 40, 300])
@pytest.mark.parametrize("shape", ["normal", "exponential", "gamma", "heavy"])
def test_the_skewed_null_calls_hardly_any_lowest_value_unusual(count: int, shape: str) -> None:
    """Whatever the shape of the low tail, and where few values tell their spread; of the normal null the same cannot be said."""
    rng, size = np.random.default_rng(3), (300, count)
    draws = {
        "normal": lambda: rng.normal(size=size), "exponential": lambda: -rng.exponential(size=size),
        "gamma": lambda: -rng.gamma(2, size=size) / 2**0.5, "heavy": lambda: rng.standard_t(3 if count > 100 else 5, size=size),
    }[shape]()  # fmt: skip
    found = np.array([lowest_p_skewed(0.25 * row, 0.2, 4) for row in draws])
    assert (found <= 0.005).mean() <= 0.02
    assert (found <= 0.1).mean() <= 0.2
    if shape == "exponential":
        assert np.mean([lowest_p(row) <= 0.05 for row in draws]) > 0.1


def test_the_skewed_null_sees_what_lies_far_below_all_others() -> None:
    others = 0.15 * np.random.default_rng(4).normal(size=19)
    far, near = (lowest_p_skewed([others.min() - gap, *others], 0.2, 4) for gap in (2.3, 0.2))
    assert far < 0.005 < 0.1 < near
    alike = lowest_p_skewed([-0.02, *(0.001 * others)], 0.2, 4)
    assert alike > 0.5, "labels that happen to be alike do not make a small difference a large one"
