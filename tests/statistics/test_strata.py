"""Differences over strata: their root mean square against chance, and differences of rates that are exact where nothing varies."""

from __future__ import annotations

import numpy as np
import pytest

from vlaudit.statistics.strata import RootMeanSquare, bend, rate_differences, root_mean_square


def drawn(rng: np.random.Generator, truth: np.ndarray, error: float = 0.1) -> RootMeanSquare:
    """One comparison of means that are known but for normal noise, as flips of their signs would have it."""
    seen = truth + rng.normal(0, error, len(truth))
    null = (rng.normal(0, error, (999, len(truth))) ** 2).mean(axis=1)[:, None]
    errors = np.full(len(truth), error)
    return root_mean_square(np.array([(seen**2).mean()]), null, bend(seen[None], errors[None], 1 / len(truth)), 0.95)


@pytest.mark.parametrize("truth", [np.zeros(12), np.array([0.9] + [0.0] * 11), np.tile([0.3, -0.3], 6), np.array([0.15, -0.05, 0.1])])
def test_the_interval_covers_whatever_the_signs(truth: np.ndarray) -> None:
    rms = float(np.sqrt((truth**2).mean()))
    found = [drawn(rng, truth) for rng in np.random.default_rng(0).spawn(300)]
    assert np.mean([f.low[0] <= rms for f in found]) >= 0.95
    assert np.mean([f.high[0] >= rms for f in found]) >= 0.95
    assert np.median([f.value[0] for f in found]) == pytest.approx(rms, abs=0.04)


def test_opposite_differences_are_told_from_chance() -> None:
    found = [drawn(rng, np.tile([0.3, -0.3], 6)) for rng in np.random.default_rng(1).spawn(100)]
    assert np.mean([f.low[0] > 0.15 for f in found]) > 0.9
    assert max(f.p[0] for f in found) < 0.01


def test_chance_alone_is_taken_off() -> None:
    found = [drawn(rng, np.zeros(12)) for rng in np.random.default_rng(2).spawn(200)]
    assert np.mean([f.low[0] == 0 for f in found]) > 0.95
    assert np.mean([f.value[0] for f in found]) < 0.04 < 0.1, "the square of noise is not a difference"
    assert np.mean([f.high[0] for f in found]) < 0.12


def test_a_stratum_that_nothing_is_known_of_may_hold_any_difference() -> None:
    null = np.full((99, 1), 1e-4) * np.linspace(0.9, 1.1, 99)[:, None]
    known = root_mean_square(np.array([1e-4]), null, np.zeros(1), 0.95)
    half = root_mean_square(np.array([1e-4]), null, np.zeros(1), 0.95, np.array([0.5]))
    assert known.high[0] < 0.02 and half.high[0] == pytest.approx(0.5**0.5, abs=0.01)
    assert half.low[0] == known.low[0]


def test_noise_in_the_differences_does_not_bend_the_mean_square() -> None:
    assert bend(np.array([0.1, -0.1]), np.array([0.1, 0.1]), 0.5) == 0
    assert bend(np.array([0.5, 0.0]), np.array([0.1, 0.1]), 0.5) == pytest.approx(2 * 0.5 * 0.24**0.5 * 0.1)


@pytest.mark.parametrize(("rates", "n"), [((0.9, 0.9), (30, 200)), ((1.0, 0.7), (20, 20)), ((0.5, 0.2), (50, 15))])
def test_differences_of_rates_are_covered(rates: tuple[float, float], n: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    hits = np.stack([rng.binomial(m, p, 2000) for p, m in zip(rates, n, strict=True)]).astype(float)
    low, high = rate_differences(hits, np.broadcast_to(np.array(n, dtype=float)[:, None], hits.shape), 0.025)
    truth = rates[0] - rates[1]
    assert (low <= truth + 1e-9).mean() >= 0.97 and (high >= truth - 1e-9).mean() >= 0.97


def test_without_trials_a_rate_may_be_anything_and_all_right_is_not_certain() -> None:
    low, high = rate_differences(np.array([[30.0, 0.0], [30.0, 0.0]]), np.array([[30.0, 0.0], [30.0, 0.0]]), 0.025)
    assert low[0] == pytest.approx(-(1 - 0.025 ** (1 / 30))) and high[0] == -low[0]
    assert low[1] <= -0.5 and high[1] >= 0.5
