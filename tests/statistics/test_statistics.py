"""Intervals cover, tests hold their level, nothing is degenerate. Coverage is exact where it can be enumerated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from vlaudit import statistics as vs
from vlaudit.records import Verdict
from vlaudit.statistics import Interval, means, rates, roc

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
scores = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30)
quick = settings(max_examples=50, deadline=None)


# --- verdicts ------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_verdict_needs_the_whole_interval(a: float, b: float, threshold: float) -> None:
    interval = Interval(min(a, b), max(a, b))
    said = vs.verdict(interval, threshold)
    assert (said is Verdict.VULNERABLE) == (interval.low > threshold)
    assert (said is Verdict.HELD) == (interval.high < threshold)
    assert (threshold in interval) == (said is Verdict.INCONCLUSIVE)


# --- rates ---------------------------------------------------------------------------------------------------------


@quick
@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_rate_interval_holds_the_rate_and_is_never_degenerate(count: tuple[int, int], level: float) -> None:
    k, n = count
    interval = vs.rate_interval(k, n, level)
    assert 0 <= interval.low <= k / n <= interval.high <= 1
    assert interval.low < interval.high
    mirrored = vs.rate_interval(n - k, n, level)
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-9)
    assert vs.rate_interval(k, n, level, "lower").low >= interval.low
    assert vs.rate_interval(k, n, level, "upper").high <= interval.high


def test_rate_interval_known_values() -> None:
    assert vs.rate_interval(0, 50).ci == pytest.approx((0, 0.07112), abs=1e-5)
    assert vs.rate_interval(0, 200, side="upper").high == pytest.approx(0.01487, abs=1e-5)  # 0 of 200 gives 1.5 %
    assert vs.rate_interval(0, 0).ci == (0, 1)
    exact = stats.binomtest(7, 40).proportion_ci(0.9, method="exact")
    assert vs.rate_interval(7, 40, 0.9).ci == pytest.approx((exact.low, exact.high), abs=1e-9)
    with pytest.raises(ValueError, match="3 successes of 2"):
        vs.rate_interval(3, 2)


@pytest.mark.parametrize("n", [5, 30, 128])
def test_rate_interval_covers_at_every_rate(n: int) -> None:
    ends = np.array([vs.rate_interval(k, n).ci for k in range(n + 1)])
    for rate in np.linspace(0.001, 0.999, 97):
        inside = (ends[:, 0] <= rate) & (rate <= ends[:, 1])
        assert stats.binom.pmf(np.arange(n + 1), n, rate)[inside].sum() >= 0.95


def discordant_table(n: int) -> tuple[np.ndarray, np.ndarray]:
    b, c = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    return b[b + c <= n], c[b + c <= n]


@pytest.mark.parametrize("n", [20, 50, 120])
def test_paired_difference_covers(n: int) -> None:
    b, c = discordant_table(n)
    low, high = rates._tango(b, c, n, 0.95)
    for p_b in (0.005, 0.02, 0.1, 0.3, 0.6, 0.9):
        for p_c in (0.0005, 0.01, 0.05, 0.2, 0.4):
            if p_b + p_c < 0.99:
                chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], 1), n, [p_b, p_c, 1 - p_b - p_c])
                inside = (low <= p_b - p_c) & (p_b - p_c <= high)
                assert chance[inside].sum() >= 0.93, (p_b, p_c)


@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_difference_is_antisymmetric_and_not_degenerate(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    one, two = vs.paired_rate_difference(first, second), vs.paired_rate_difference(second, first)
    assert one.value == pytest.approx(np.mean(first) - np.mean(second))
    assert one.interval.low <= one.value <= one.interval.high
    assert one.interval.high - one.interval.low > 0.01
    assert one.interval.ci == pytest.approx((-two.interval.high, -two.interval.low), abs=1e-6)
    assert one.p == pytest.approx(two.p)


def test_paired_difference_solves_the_score_equation() -> None:
    """At each end the score of the difference, under the likelihood constrained to it, is the normal quantile."""
    b, c, n = 12, 2, 50
    for end, sign in zip(rates._tango(b, c, n, 0.95), (1, -1), strict=True):

        def loss(q: float, delta: float) -> float:
            return -(b * np.log(q + delta) + c * np.log(q) + (n - b - c) * np.log(1 - 2 * q - delta))

        edge = (max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        q = optimize.minimize_scalar(loss, bounds=edge, args=(end,), method="bounded", options={"xatol": 1e-10}).x
        score = (b - c - n * end) / math.sqrt(n * (2 * q + end * (1 - end)))
        assert score == pytest.approx(sign * stats.norm.ppf(0.975), abs=1e-3)
    square = stats.norm.ppf(0.975) ** 2  # the closed form where no pair differs
    assert rates._tango(0, 0, 30, 0.95)[1] == pytest.approx(square / (30 + square))


def test_mcnemar_and_bad_pairs() -> None:
    assert vs.mcnemar(0, 0) == 1
    assert vs.mcnemar(5, 0, "greater") == pytest.approx(0.5**5)
    assert vs.mcnemar_p([True] * 5 + [True, False], [False] * 5 + [True, False], "greater") == pytest.approx(0.5**5)
    assert vs.paired_rate_difference([], []).interval.ci == (-1, 1)
    with pytest.raises(ValueError, match="one length"):
        vs.paired_rate_difference([True], [True, False])


@quick
@given(st.floats(0, 1), st.floats(0.02, 0.98))
def test_trials_to_decide_decides(rate: float, threshold: float) -> None:
    n = vs.trials_to_decide(rate, threshold, limit=100_000)
    if n is None:
        assert abs(rate - threshold) < 0.02
    else:
        assert vs.verdict(vs.rate_interval(round(rate * n), n), threshold) is not Verdict.INCONCLUSIVE


def test_samples_to_decide_scales_as_one_over_root_n() -> None:
    assert vs.samples_to_decide(0.3, Interval(0.2, 0.4), 100, 0.25) == 400
    assert vs.samples_to_decide(0.2, Interval(0.1, 0.4), 100, 0.25) == 1600
    assert vs.samples_to_decide(0.25, Interval(0.2, 0.4), 100, 0.25) is None


# --- clustered means -----------------------------------------------------------------------------------------------


def clustered_rate(rng: np.random.Generator, count: int, rate: float, correlation: float, sizes: np.ndarray):
    if correlation == 1:
        chance = (rng.random(count) < rate).astype(float)
    else:
        strength = 1 / correlation - 1
        chance = rng.beta(rate * strength, (1 - rate) * strength, count)
    clusters = np.repeat(np.arange(count), sizes)
    return (rng.random(len(clusters)) < chance[clusters]).astype(float), clusters


@pytest.mark.parametrize("correlation", [0.05, 0.3, 1])
@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.95])
def test_clustered_mean_covers_with_30_clusters(rate: float, correlation: float) -> None:
    rng = np.random.default_rng(round(100 * rate + 10 * correlation))
    inside, runs = 0, 250
    for run in range(runs):
        sizes = np.full(30, 4) if run % 2 else rng.integers(1, 9, 30)
        values, clusters = clustered_rate(rng, 30, rate, correlation, sizes)
        inside += rate in vs.mean_interval(values, clusters.tolist(), seed=run, resamples=400)
    assert inside / runs >= 0.93


def test_clustered_mean_of_sparse_differences_covers() -> None:
    rng, inside, runs = np.random.default_rng(5), 0, 300
    for run in range(runs):
        values = np.where(rng.random(30) < 0.1, rng.choice([-1, 1], 30, p=[0.2, 0.8]), 0).repeat(3)
        clusters = np.repeat(np.arange(30), 3)
        inside += 0.06 in vs.mean_interval(values, clusters.tolist(), bounds=(-1, 1), seed=run, resamples=400)
    assert inside / runs >= 0.93


@quick
@given(st.integers(20, 60), st.floats(0, 1), st.integers(1, 3))
def test_constant_values_keep_a_width_set_by_the_number_of_clusters(count: int, value: float, size: int) -> None:
    interval = vs.mean_interval([value] * count * size, list(range(count)) * size)
    assert interval.low <= value + 1e-9
    assert interval.high >= value - 1e-9
    assert interval.high - interval.low == pytest.approx(vs.rate_interval(0, count).high, abs=1e-4)


def test_none_or_all_is_exact_on_the_clusters() -> None:
    clusters = list(range(25)) * 8
    assert vs.mean_interval([0.0] * 200, clusters).ci == pytest.approx(vs.rate_interval(0, 25).ci)
    assert vs.mean_interval([1.0] * 200, clusters).ci == pytest.approx(vs.rate_interval(25, 25).ci)
    assert vs.mean_interval([0.0] * 24 + [1.0]).ci == pytest.approx(vs.rate_interval(1, 25).ci)


def test_too_few_clusters_and_values_out_of_bounds() -> None:
    with pytest.raises(vs.TooFewClustersError, match="19 clusters"):
        vs.mean_interval([0.5] * 190, list(range(19)) * 10)
    with pytest.raises(vs.TooFewClustersError):
        vs.mean_interval([])
    with pytest.raises(ValueError, match="bounds"):
        vs.mean_interval([2.0] * 30)


def test_repeating_every_trial_adds_no_certainty() -> None:
    values = np.random.default_rng(0).random(40)
    once = vs.mean_interval(values, list(range(40)))
    tenfold = vs.mean_interval(np.repeat(values, 10), np.repeat(np.arange(40), 10).tolist())
    assert tenfold.ci == pytest.approx(once.ci)


def test_sign_flip_level_and_clusters() -> None:
    rng = np.random.default_rng(0)
    low = sum(vs.sign_flip_p(rng.normal(size=9)) <= 0.05 for _ in range(300))
    assert low <= stats.binom.ppf(0.999, 300, 0.05)
    assert vs.sign_flip_p([1.0] * 8) == pytest.approx(2 / 2**8)
    assert vs.sign_flip_p([1.0] * 80, [0] * 40 + [1] * 40) == 0.5  # two clusters: 2 of 4 flips
    assert vs.sign_flip_p([0.0] * 9) == 1.0


# --- area under the curve ------------------------------------------------------------------------------------------


@quick
@given(scores, scores)
def test_auc_counts_pairs_and_is_not_degenerate(positives: list[float], negatives: list[float]) -> None:
    pairs = [(x > y) + (x == y) / 2 for x in positives for y in negatives]
    assert vs.auc(positives, negatives) == pytest.approx(np.mean(pairs))
    interval = vs.auc_interval(positives, negatives)
    assert 0 <= interval.low <= np.mean(pairs) + 1e-9
    assert np.mean(pairs) - 1e-9 <= interval.high <= 1
    assert interval.high - interval.low > 0.02
    mirrored = vs.auc_interval(negatives, positives)
    assert interval.ci == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-6)


def truth_normal(shift: float, spread: float) -> float:
    return float(stats.norm.cdf(shift / math.hypot(1, spread)))


@pytest.mark.parametrize(("m", "n"), [(20, 20), (16, 160), (160, 16), (100, 300)])
@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0, 3.0])
def test_auc_interval_covers(m: int, n: int, spread: float, shift: float) -> None:
    rng = np.random.default_rng(int(10 * shift + spread + m))
    shift *= spread
    value, above, below = roc._auc_parts(rng.normal(shift, spread, (2000, m)), rng.normal(0, 1, (2000, n)))
    (a, b), (c, d) = roc._newcombe_auc(value, m, n, 0.95), roc._delong_logit(above, below, 0.95)
    truth = truth_normal(shift, spread)
    assert ((np.minimum(a, c) <= truth) & (truth <= np.maximum(b, d))).mean() >= 0.935


def test_auc_difference_covers_and_holds_its_level() -> None:
    rng, inside, rejected, runs = np.random.default_rng(3), 0, 0, 300
    for _ in range(runs):
        base_x, base_y = rng.normal(0.5, 1, 40), rng.normal(0, 1, 60)
        first = base_x + rng.normal(0.5, 0.7, 40), base_y + rng.normal(0, 0.7, 60)
        second = base_x + rng.normal(0, 0.7, 40), base_y + rng.normal(0, 0.7, 60)
        other = base_x + rng.normal(0, 0.7, 40), base_y + rng.normal(0, 0.7, 60)
        spread = math.sqrt(2 * 1.49)
        truth = float(stats.norm.cdf(1.0 / spread) - stats.norm.cdf(0.5 / spread))
        inside += truth in vs.auc_difference(first, second).interval
        rejected += vs.auc_difference(second, other).p < 0.05
    assert inside / runs >= 0.93
    assert rejected <= stats.binom.ppf(0.999, runs, 0.06)


def test_auc_difference_of_two_perfect_scores_is_not_degenerate() -> None:
    perfect = (np.arange(10, 30), np.arange(10))
    difference = vs.auc_difference(perfect, perfect)
    assert difference.value == 0
    assert difference.interval.low < 0 < difference.interval.high
    assert difference.p == 1
    with pytest.raises(ValueError, match="same items"):
        vs.auc_difference(perfect, (np.arange(3), np.arange(10)))


def test_auc_of_nobody() -> None:
    assert vs.auc([], [1.0]) == 0.5
    assert vs.auc_interval([1.0], [0.0, 2.0]).ci == (0, 1)


# --- nulls and corrections -----------------------------------------------------------------------------------------


def test_max_t_holds_the_family_level_across_scales() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1, 100, 0.01, 1, 1])
    hits = 0
    for _ in range(300):
        shared = rng.normal(size=(200, 1))
        draws = (rng.normal(size=(200, 5)) + shared) * scale
        hits += min(vs.max_t_p(draws[0], draws[1:])) <= 0.05
    assert stats.binom.ppf(0.001, 300, 0.05) <= hits <= stats.binom.ppf(0.999, 300, 0.05)


def test_max_t_finds_the_one_that_stands_out() -> None:
    null = np.random.default_rng(0).normal(size=(999, 3)) * [1, 1000, 1]
    p = vs.max_t_p([0.1, 10, 8], null)
    assert p[2] == pytest.approx(1 / 1000)
    assert min(p[:2]) > 0.5
    assert vs.max_t_p([1, 2], np.ones((9, 2)) * [1, 2]) == [1.0, 1.0]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values: list[float]) -> None:
    adjusted = vs.holm(p_values)
    for raw, value in zip(p_values, adjusted, strict=True):
        assert raw <= value <= 1
        assert value <= min(1, raw * len(p_values)) or any(q < raw for q in p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_holm_known_values() -> None:
    assert vs.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.integers(1, 50))
def test_rank_p_reaches_its_smallest(n: int) -> None:
    assert vs.rank_p(1.0, [0.0] * n) == vs.smallest_p(n)
    assert vs.rank_p(0.0, [0.0] * n) == 1.0


# --- few values, of which the largest are unseen ---------------------------------------------------------------------


@quick
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.integers(2, 10))
def test_t_interval_is_never_degenerate_and_holds_its_mean(values: list[float], people: int) -> None:
    y = np.array(values)
    alone = vs.t_interval(y)
    assert -1 <= alone.low <= y.mean() + 1e-12 and y.mean() - 1e-12 <= alone.high <= 1
    assert alone.high > alone.low
    assert vs.t_interval(y, np.arange(len(y)) * 7).ci == alone.ci  # the names of clusters mean nothing
    wide = vs.t_interval(y, level=0.99)
    assert wide.low <= alone.low and alone.high <= wide.high
    assert vs.t_interval(y * 0.1, bound=0.05).high <= max(0.05, float(y.mean()) * 0.1)


def test_copies_within_a_cluster_add_no_certainty() -> None:
    y = np.random.default_rng(0).uniform(-1, 1, 30)
    once, thrice = vs.t_interval(y), vs.t_interval(np.repeat(y, 3), np.repeat(np.arange(30), 3))
    assert thrice.ci == pytest.approx(once.ci)
    assert vs.standard_error(np.repeat(y, 3), np.arange(90)) < 0.7 * vs.standard_error(y, np.arange(30))


def test_t_interval_covers_rare_large_differences() -> None:
    """Nine in ten differences are none, the others 1 or -1: a bootstrap of few clusters often sees none at all."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(300):
        inside += 0.0 in vs.t_interval(rng.choice([-1.0, 0, 1], 25, p=[0.05, 0.9, 0.05]))
    assert inside / 300 >= 0.95
    assert vs.t_interval(np.zeros(25)).high == pytest.approx(vs.rate_interval(0, 25).high, rel=0.01)


@quick
@given(st.integers(1, 200), st.data(), st.sampled_from([0.2, 0.05, 0.01, 0.001]))
def test_the_upper_bound_of_yes_or_no_is_clopper_and_pearsons(n: int, data: st.DataObject, tail: float) -> None:
    k = data.draw(st.integers(0, n))
    found = means._upper(np.repeat([0.0, 1.0], [n - k, k]), np.ones(n), tail)
    assert found == pytest.approx(vs.rate_interval(k, n, 1 - tail, "upper").high, rel=0.02, abs=1e-6)


@quick
@given(st.integers(0, 10**6))
def test_the_upper_bound_is_a_quantile_under_random_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, int(rng.integers(3, 40))).astype(float)
    sums = sizes * rng.beta(0.3, 1, len(sizes))
    large = (sizes**2).sum() / sizes.sum()
    weights = rng.exponential(size=(20_000, len(sizes) + 1))
    drawn = (weights @ np.append(sums, large)) / (weights @ np.append(sizes, large))
    found = means._upper(sums, sizes, 0.05)
    assert (drawn > found).mean() == pytest.approx(0.05, abs=0.01)
    assert found > means._upper(sums, sizes, 0.1) > sums.sum() / sizes.sum()
    assert means._upper(sums * 0.9, sizes, 0.05) < found, "smaller values, a smaller bound"
    assert means._upper(7 * sums, 7 * sizes, 0.05) == pytest.approx(found), "the same values more often, in the same clusters"


def missed_above(draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray | None]], truth: float, runs: int) -> list[float]:
    """How often the upper end lies below the truth: of the interval for few values, and of that for 20 clusters and more."""
    rng, missed = np.random.default_rng(7), np.zeros(2)
    for _ in range(runs):
        values, clusters = draw(rng)
        missed[0] += truth > vs.t_interval(values, clusters).high
        missed[1] += truth > vs.mean_interval(values, None if clusters is None else clusters.tolist(), resamples=400).high
    return (missed / runs).tolist()


@pytest.mark.parametrize(("n", "rate"), [(60, 0.05), (60, 0.035), (100, 0.02)])
def test_the_upper_end_reckons_with_what_is_rare_and_unseen(n: int, rate: float) -> None:
    """Where three in a hundred are 1, a sample of sixty often holds none of them."""
    assert max(missed_above(lambda rng: ((rng.random(n) < rate).astype(float), None), rate, 300)) <= 0.04


UNEVEN_SIZES = {
    "one of eight times the size": [40] + [5] * 29,
    "a few large ones": [30] * 3 + [5] * 27,
    "falling": [max(1, 60 // k) for k in range(1, 41)],
    "equal": [10] * 20,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNEVEN_SIZES)
@pytest.mark.parametrize(("rate", "alike"), [(0.1, 3.0), (0.05, 1.0), (0.3, 1.0)])
def test_the_upper_end_covers_whatever_the_sizes(name: str, rate: float, alike: float) -> None:
    sizes = UNEVEN_SIZES[name]
    clusters = np.repeat(np.arange(len(sizes)), sizes)

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        own = rng.beta(rate * alike, (1 - rate) * alike, len(sizes))
        return (rng.random(len(clusters)) < own[clusters]).astype(float), clusters

    few, many = missed_above(draw, rate, 1000)
    assert few <= 0.035 and many <= 0.05


def test_clusters_that_two_dominate_are_too_few() -> None:
    clusters = np.repeat(np.arange(20), [100, 100, *[3] * 18])
    rng, missed = np.random.default_rng(3), 0
    for _ in range(200):
        values = (rng.random(len(clusters)) < rng.beta(0.6, 2.4, 20)[clusters]).astype(float)
        missed += vs.t_interval(values, clusters).high < 0.2
        with pytest.raises(vs.TooFewClustersError, match="as good as 3"):
            vs.mean_interval(values, clusters.tolist())
    assert missed <= 8


def test_normal_difference_agrees_with_the_normal_law() -> None:
    found = vs.normal_difference(-0.3, 0.1, 0.9)
    assert found.interval.ci == pytest.approx(stats.norm.interval(0.9, -0.3, 0.1))
    assert found.p == pytest.approx(2 * stats.norm.sf(3)) and found.value == -0.3


def test_sides_that_are_the_same_in_every_case_do_not_differ() -> None:
    same = vs.normal_difference(0.0, 0.0)
    assert (same.value, same.interval.ci, same.p) == (0, (0, 0), 1)


def test_excess_over_controls_in_strata_is_exact() -> None:
    assert vs.stratified_excess_p([(1, 1, 0, 999)]) == pytest.approx(1 / 1000)
    assert vs.stratified_excess_p([(0, 1, 0, 999)] * 50 + [(1, 1, 0, 999)]) == pytest.approx(1 / 1000), "strata without a hit say nothing"
    assert vs.stratified_excess_p([(5, 20, 0, 20)]) == pytest.approx(stats.fisher_exact([[5, 15], [0, 20]], alternative="greater").pvalue)
    pairs = [(1, 1, 0, 1)] * 6 + [(0, 1, 1, 1)] * 2 + [(1, 1, 1, 1)] * 9
    assert vs.stratified_excess_p(pairs) == pytest.approx(vs.mcnemar(6, 2, "greater")), "pairs: McNemar"
    assert vs.stratified_excess_p([]) == vs.stratified_excess_p([(1, 1, 999, 999)]) == 1
    rng = np.random.default_rng(0)
    draws = [vs.stratified_excess_p((int(rng.random() < r), 1, int(rng.binomial(9, r)), 9) for r in (0.02, 0.3, 0.7)) for _ in range(2000)]
    assert np.mean(np.array(draws) <= 0.05) <= 0.06, "it keeps its level however much the strata differ"
