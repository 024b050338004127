"""Shares told by a reader that errs: the correction undoes a known confusion, the concentration has no bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.statistics import misclassification
from vlaudit.statistics.misclassification import Confusion

TWO = np.array([0.5, 0.5])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.floats(0.5, 0.95), st.integers(0, 1000))
def test_correction_undoes_a_known_confusion(weights: list[float], right: float, seed: int) -> None:
    shares = np.array(weights) / sum(weights)
    k = len(shares)
    noise = np.random.default_rng(seed).dirichlet(np.ones(k), k)
    rates = right * np.eye(k) + (1 - right) * noise
    assert misclassification.corrected(shares @ rates * 1e4, rates) == pytest.approx(shares, abs=1e-6)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6))
def test_the_nearest_point_of_the_simplex(point: list[float]) -> None:
    near = misclassification.on_simplex(np.array(point))
    assert near.min() >= 0
    assert near.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    others = rng.dirichlet(np.ones(len(point)), 300)
    assert ((near - point) ** 2).sum() <= ((others - point) ** 2).sum(axis=1).min() + 1e-9


def test_concentration_has_no_bias_and_runs_from_0_to_1() -> None:
    rng, rates = np.random.default_rng(0), np.array([[0.9, 0.1], [0.2, 0.8]])
    for share in (0.5, 0.75, 1.0):
        truth = np.array([share, 1 - share])
        counts = rng.multinomial(8, truth @ rates, size=40_000).astype(float)
        assert misclassification.concentration(counts, rates, TWO).mean() == pytest.approx((2 * share - 1) ** 2, abs=0.02)
    assert misclassification.distance(np.array([0.75, 0.25]), TWO) == pytest.approx(0.25)
    three = np.array([0.2, 0.3, 0.5])
    assert max(misclassification.distance(np.eye(3), three)) == pytest.approx(1)
    assert misclassification.distance(three, three) == 0


def test_entropy_and_variation_know_their_ends() -> None:
    assert misclassification.entropy_severity(np.array([0.25] * 4)) == pytest.approx(0)
    assert misclassification.entropy_severity(np.array([1.0, 0, 0])) == pytest.approx(1)
    assert misclassification.total_variation(np.array([1.0, 0]), TWO) == pytest.approx(0.5)


def test_errors_that_gather_in_some_labels_widen_what_one_caption_may_show() -> None:
    spread = {f"l{i}": [[9, 1], [1, 9]] for i in range(10)}
    gathered = {f"l{i}": [[0, 10], [10, 0]] if i == 0 else [[10, 0], [0, 10]] for i in range(10)}
    same = [[90, 10], [10, 90]]
    even, uneven = (Confusion.of(same, [100, 100], labels) for labels in (spread, gathered))
    widths = [c.draws(4000, [None], np.random.default_rng(0))[:, 0, 0, 0].std() for c in (even, uneven)]
    assert widths[1] > 2.5 * widths[0]
    assert uneven.rates_of(["l0"])[0, 0, 0] < 0.5 < 0.9 < uneven.rates_of(["l3"])[0, 0, 0]


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 4), st.integers(2, 40), st.integers(0, 99))
def test_intervals_hold_their_value_and_stay_within_0_and_1(k: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confusion = Confusion.of((np.eye(k, dtype=int) * 40 + 2).tolist(), [40] * k, {})
    aim, counts = np.full(k, 1 / k), rng.multinomial(items, rng.dirichlet(np.ones(k)), size=1).astype(float)
    value = float(misclassification.concentration(counts, confusion.rates, aim)[0])
    draws = misclassification.sample_draws(counts, confusion.draws(500, [None], rng), aim, rng)[:, 0]
    low, high = misclassification.bounds(value, draws, 0.025)
    assert 0 <= low <= misclassification.within(value) <= high <= 1 and low < high


def test_units_weigh_not_their_items_and_unaimed_shares_are_equal() -> None:
    confusion = Confusion.of([[90, 10], [0, 30]], [10, 30], {"a": [[9, 1], [0, 3]]})
    assert confusion.counts.tolist() == [[9, 1], [0, 30]] and confusion.strata["a"][0].tolist() == pytest.approx([0.9, 0.1])
    assert misclassification.aimed(["x", "y"], None).tolist() == [0.5, 0.5]
    assert misclassification.aimed(["x", "y"], {"x": 3, "y": 1}).tolist() == [0.75, 0.25]
    assert misclassification.aimed(["x", "y"], {"z": 1}).tolist() == [0.5, 0.5]
