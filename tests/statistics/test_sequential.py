"""Group-sequential plans against published tables and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.statistics.sequential import GroupSequentialPlan, Spending, _bounds, look, spent


@pytest.mark.parametrize(
    ("alpha", "spending", "published"),
    [
        # Lan-DeMets bounds of five equal looks, Jennison and Turnbull 2000 chapter 7, and ProTIP's (arXiv:2402.15429)
        (0.025, "obrien-fleming", (4.8769, 3.3570, 2.6803, 2.2898, 2.0310)),
        (0.025, "pocock", (2.4380, 2.4268, 2.4101, 2.3966, 2.3860)),
        (0.05, "pocock", (2.176, 2.144, 2.113, 2.090, 2.071)),
    ],
)
def test_bounds_are_the_published_ones(alpha: float, spending: Spending, published: tuple[float, ...]) -> None:
    _bounds.cache_clear()
    assert GroupSequentialPlan((12, 24, 36, 48, 60), alpha, spending).bounds == pytest.approx(published, abs=6e-4)


@given(st.sampled_from(["pocock", "obrien-fleming"]), st.floats(0.001, 0.4))
def test_spending_ends_at_alpha_and_only_grows(spending: Spending, alpha: float) -> None:
    steps = [spent(fraction, alpha, spending) for fraction in np.linspace(0.05, 1, 20)]
    assert steps == sorted(steps)
    assert steps[-1] == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("fraction", "spending", "expected"),
    [
        # of 0.025: 2 - 2 Φ(2.2414 / √t), and 0.025 ln(1 + (e - 1) t), Lan and DeMets 1983
        (0.5, "obrien-fleming", 0.00153), (0.75, "obrien-fleming", 0.00965), (0.5, "pocock", 0.01550), (0.25, "pocock", 0.00893),
    ],
)  # fmt: skip
def test_spending_is_by_the_formulae(fraction: float, spending: Spending, expected: float) -> None:
    assert spent(fraction, 0.025, spending) == pytest.approx(expected, abs=5e-6)


def test_one_look_is_the_fixed_test() -> None:
    assert GroupSequentialPlan((7,), 0.05).levels == pytest.approx((0.05,))


@pytest.mark.parametrize("spending", ["pocock", "obrien-fleming"])
def test_five_looks_reject_a_true_null_as_often_as_planned(spending: Spending) -> None:
    rng, plan = np.random.default_rng(0), GroupSequentialPlan((10, 25, 30, 45, 60), 0.05, spending)
    sums = rng.normal(size=(40_000, 60)).cumsum(axis=1)
    z = np.stack([sums[:, size - 1] / size**0.5 for size in plan.sizes], axis=1)
    assert (z > np.array(plan.bounds)).any(axis=1).mean() == pytest.approx(0.05, abs=0.004)


def stopped(draws: np.ndarray, plan: GroupSequentialPlan) -> bool:
    looks = (look(draws[:size].tolist(), plan) for size in plan.sizes)
    return next(done.rejects for done in looks if done.stops)


def test_t_tests_of_two_to_six_values_err_by_a_sixteenth_at_most() -> None:
    rng, plan = np.random.default_rng(0), GroupSequentialPlan((2, 3, 4, 5, 6))
    errors = np.mean([stopped(rng.normal(size=6), plan) for _ in range(4000)])
    assert 0.04 < errors < 0.075
    assert np.mean([stopped(rng.normal(2.5, size=6), plan) for _ in range(300)]) > 0.95


def test_equal_values_are_no_certainty() -> None:
    plan = GroupSequentialPlan((2, 3, 4))
    assert not look([0.15, 0.15], plan, margin=0.1, floor=0.1).rejects
    assert look([0.9, 0.9], plan, margin=0.1, floor=0.05).rejects
    assert not look([0.0, 0.0], plan, margin=0.1, bar=0.2, floor=0.1).futile
    assert look([0.0, 0.0, 0.0, 0.0], plan, margin=0.1, bar=0.3, floor=0.1).futile


@pytest.mark.parametrize("sizes", [(), (0, 1), (3, 3), (4, 2)])
def test_looks_must_grow(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="growing"):
        GroupSequentialPlan(sizes)
