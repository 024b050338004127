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


def expected_distance(alpha: np.ndarray, aim: np.ndarray) -> float:
    """The mean squared distance of a Dirichlet draw from the aim, over the largest there can be."""
    mean = alpha / alpha.sum()
    squared = (mean * (1 - mean) / (alpha.sum() + 1) + (mean - aim) ** 2).sum()
    return float(squared / max(((np.eye(len(aim)) - aim) ** 2).sum(axis=1)))


@pytest.mark.parametrize("aim", [[0.5, 0.5], [0.2, 0.3, 0.5]])
def test_draws_of_a_mean_are_dirichlet_where_the_reader_never_errs(aim: list[float]) -> None:
    goal, rng = np.array(aim), np.random.default_rng(0)
    counts = rng.integers(0, 9, (3, len(aim))).astype(float)
    perfect = np.broadcast_to(np.eye(len(aim)), (40_000, len(aim), len(aim)))
    drawn = misclassification.mean_draws(counts, perfect, goal, rng)
    wanted = [expected_distance(row + misclassification.AIMED / 2 * goal, goal) for row in counts]
    assert drawn.shape == (40_000,) and drawn.mean() == pytest.approx(np.mean(wanted), rel=0.02)
    single = misclassification.sample_draws(counts, np.broadcast_to(perfect[:, None], (40_000, 3, *perfect.shape[1:])), goal, rng)
    wanted = [expected_distance(row + misclassification.AIMED * goal, goal) for row in counts]
    assert single.shape == (40_000, 3) and single.mean(axis=0) == pytest.approx(wanted, rel=0.03)


def test_counts_as_aimed_have_the_aimed_means() -> None:
    rates, aim, sizes = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0.25, 0.75]), np.array([4, 40])
    confusions = np.broadcast_to(rates, (20_000, 2, 2, 2)) * np.array([1.0, 3.0])[:, None, None]  # rows that do not sum to 1
    counts = misclassification.null_counts(sizes, confusions, aim, np.random.default_rng(0))
    assert counts.shape == (20_000, 2, 2) and (counts.sum(axis=2) == sizes).all()
    assert counts.mean(axis=0) == pytest.approx(sizes[:, None] * (aim @ rates), rel=0.02)


@pytest.mark.parametrize(("counts", "level"), [([[9, 1], [3, 7]], 0.95), ([[60, 4], [0, 80]], 0.8), ([[5, 0], [0, 5]], 0.95)])
def test_accuracy_is_the_mean_of_two_beta_posteriors(counts: list[list[int]], level: float) -> None:
    confusion = Confusion.of(counts, [sum(row) for row in counts], {})
    value, low, high = confusion.accuracy(level)
    rng = np.random.default_rng(7)
    posterior = sum(rng.beta(counts[i][i] + 0.5, counts[i][1 - i] + 0.5, 400_000) for i in range(2)) / 2
    assert value == pytest.approx(np.mean([counts[i][i] / sum(counts[i]) for i in range(2)]))
    ends = np.quantile(posterior, [(1 - level) / 2, (1 + level) / 2])
    assert (low, high) == pytest.approx((min(ends[0], value), max(ends[1], value)), abs=0.008)
    assert low <= value <= high


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 4), st.integers(0, 999))
def test_a_stratum_shifts_what_is_expected_of_its_samples_towards_itself(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, own = rng.integers(1, 30, (k, k)), rng.integers(0, 30, (k, k)) + np.eye(k, dtype=int)
    confusion = Confusion.of(counts.tolist(), counts.sum(axis=1).tolist(), {"here": own.tolist()})
    plain, here, strange = confusion.rates_of([None, "here", "elsewhere"])
    assert plain == pytest.approx(confusion.rates) and strange == pytest.approx(plain)
    assert here.sum(axis=1) == pytest.approx(np.ones(k))
    strength = 1 / np.array(misclassification.CORRELATIONS) - 1
    for row in range(k):  # by definition: the mean over the correlations of a Dirichlet posterior's mean
        by_correlation = [(s * plain[row] + own[row]) / (s + own[row].sum()) for s in strength]
        assert here[row] == pytest.approx(confusion.correlations @ np.array(by_correlation))


def test_how_errors_gather_is_read_off_the_strata() -> None:
    even = Confusion.of([[80, 20], [20, 80]], [100, 100], {f"s{i}": [[8, 2], [2, 8]] for i in range(10)})
    gathered = Confusion.of([[80, 20], [20, 80]], [100, 100], {f"s{i}": [[0, 10], [10, 0]] if i < 2 else [[10, 0], [0, 10]] for i in range(10)})
    unknown = Confusion.of([[80, 20], [20, 80]], [100, 100], {})
    assert unknown.correlations == pytest.approx(np.full(len(misclassification.CORRELATIONS), 1 / len(misclassification.CORRELATIONS)))
    means = [c.correlations @ np.array(misclassification.CORRELATIONS) for c in (even, gathered)]
    assert even.correlations.sum() == pytest.approx(1) and means[0] < 0.02 and means[1] > 0.4


def test_an_even_spread_over_the_groups_has_the_largest_entropy() -> None:
    assert misclassification.entropy_severity(np.array([0.5, 0.25, 0.25])) == pytest.approx(1 - 1.5 * np.log(2) / np.log(3))
    assert misclassification.total_variation(np.array([[0.2, 0.3, 0.5]]), np.array([0.5, 0.3, 0.2]))[0] == pytest.approx(0.3)


def test_bounds_by_hand() -> None:
    draws = np.linspace(0.2, 0.6, 41)  # mean 0.4; 0.21 and 0.59 at a tail of 2.5 %
    assert misclassification.bounds(0.4, draws, 0.025) == pytest.approx((0.21, 0.59))
    assert misclassification.bounds(0.3, draws, 0.025) == pytest.approx((0.11, 0.59))  # a mean 0.1 above the value is taken off
    assert misclassification.bounds(0.5, draws, 0.025) == pytest.approx((0.21, 0.59))  # one below it is not added
    assert misclassification.bounds(0.1, draws, 0.025) == pytest.approx((0.0, 0.59))
    assert misclassification.bounds(0.9, draws, 0.025) == pytest.approx((0.21, 0.9))
    assert misclassification.bounds(1.2, draws, 0.025) == pytest.approx((0.21, 1.0))
    spread = np.linspace(0.0, 0.2, 41)  # mean 0.1, 0.095 to the upper tail
    assert misclassification.bounds(0.4, draws, 0.025, spread=spread) == pytest.approx((0.21, 0.495))
    assert misclassification.bounds(0.95, draws, 0.025, spread=spread) == pytest.approx((0.21, 1.0))


def test_samples_are_taken_one_by_one() -> None:
    rng = np.random.default_rng(5)
    aim, rates = np.array([0.2, 0.3, 0.5]), 0.8 * np.eye(3) + 0.2 / 3
    counts = rng.integers(0, 12, (4, 2, 3)).astype(float)
    each = np.array([[float(misclassification.concentration(row, rates, aim)) for row in rows] for rows in counts])
    assert misclassification.concentration(counts, rates, aim) == pytest.approx(each)
    by_pairs = []  # by definition: the mean over pairs of different items of the products of what they say
    for row in counts.reshape(-1, 3):
        items = np.repeat(np.linalg.inv(rates) - aim, row.astype(int), axis=0)
        products = items @ items.T
        total, n = products.sum() - np.trace(products), len(items)
        by_pairs.append(total / max(n * (n - 1), 1) / (0.2**2 + 0.3**2 + 0.5**2 - 2 * 0.2 + 1))
    assert each.ravel() == pytest.approx(by_pairs)
    near = np.array([[misclassification.corrected(row, rates) for row in rows] for rows in counts])
    assert misclassification.corrected(counts, rates) == pytest.approx(near)
    assert misclassification.corrected(np.zeros(3), rates).sum() == pytest.approx(1)
    points = rng.normal(size=(4, 2, 3))
    assert misclassification.on_simplex(points) == pytest.approx(np.array([[misclassification.on_simplex(p) for p in row] for row in points]))


def test_a_sample_with_many_own_counts_is_drawn_about_them() -> None:
    own = [[900, 100], [500, 500]]
    confusion = Confusion.of([[500, 500], [500, 500]], [1000, 1000], {"here": own})
    drawn = confusion.draws(4_000, ["here", None], np.random.default_rng(0))
    assert drawn.shape == (4_000, 2, 2, 2) and drawn.sum(axis=-1) == pytest.approx(np.ones((4_000, 2, 2)))
    rates = confusion.rates_of(["here", None])
    assert drawn.mean(axis=0) == pytest.approx(rates, abs=0.02)
    assert drawn[:, 0, 0, 0].std() < 0.5 * drawn[:, 1, 0, 0].std()
    assert (confusion.own(["here", None, "there"]) == [own, np.zeros((2, 2)), np.zeros((2, 2))]).all()


@pytest.mark.parametrize("place", [3, 9])
def test_one_sample_is_as_far_from_all_as_errors_are_correlated(place: int) -> None:
    """A Dirichlet about rates p whose items correlate by rho has the variance p (1 - p) rho."""
    confusion = Confusion.of([[60_000, 40_000], [10_000, 90_000]], [100_000, 100_000], {})
    confusion.__dict__["correlations"] = np.eye(len(misclassification.CORRELATIONS))[place]
    drawn = confusion.draws(20_000, [None], np.random.default_rng(0))[:, 0]
    rho = misclassification.CORRELATIONS[place]
    assert drawn[:, 0, 0].var() == pytest.approx(0.6 * 0.4 * rho, rel=0.05) and drawn[:, 0, 0].mean() == pytest.approx(0.6, abs=0.01)
    assert drawn[:, 1, 1].var() == pytest.approx(0.9 * 0.1 * rho, rel=0.05)


def test_small_shares_and_single_items() -> None:
    assert misclassification.aimed(["x", "y"], {"x": 0.3, "y": 0.1}).tolist() == pytest.approx([0.75, 0.25])
    assert misclassification.aimed(["x", "y"], {"x": 3}).tolist() == [1, 0]
    assert misclassification.corrected(np.array([0.0, 1, 0]), np.eye(3)) == pytest.approx(np.array([0, 1, 0]))
    rows = np.array([[0.25] * 4, [1.0, 0, 0, 0]])
    assert misclassification.entropy_severity(rows) == pytest.approx(np.array([0, 1]))
