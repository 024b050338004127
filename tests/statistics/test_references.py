"""Statistics held against published figures, and against other implementations: scipy, scikit-learn, and brute force by definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score

from vlaudit import statistics as vs
from vlaudit.records import Verdict
from vlaudit.statistics import Interval, base, means, rates, roc
from vlaudit.statistics.sequential import GroupSequentialPlan, look

RNG = np.random.default_rng(0)
SCORES = RNG.normal(0.8, 1.5, 24).round(1), RNG.normal(0, 1, 40).round(1)  # with ties
OTHER = SCORES[0] / 2 + RNG.normal(0, 1, 24).round(1), SCORES[1] / 2 + RNG.normal(0, 1, 40).round(1)
UNEVEN = np.repeat(np.arange(30), RNG.integers(1, 9, 30))
VALUES = np.clip(RNG.normal(0.4, 0.2, 30)[UNEVEN] + RNG.normal(0, 0.2, len(UNEVEN)), 0, 1)
PAIRS = [True] * 14 + [False] * 26, [True] * 5 + [False] * 35


# --- the level -----------------------------------------------------------------------------------------------------

INTERVALS: dict[str, Callable[..., Interval]] = {
    "rate": lambda **level: vs.rate_interval(7, 40, **level),
    "pairs": lambda **level: vs.paired_rate_difference(*PAIRS, **level).interval,
    "no pairs": lambda **level: vs.paired_rate_difference([], [], **level).interval,
    "mean": lambda **level: vs.mean_interval(VALUES, UNEVEN.tolist(), **level),
    "mean of few values": lambda **level: vs.mean_interval([0.0] * 27 + [1.0] * 3, **level),
    "mean of differences": lambda **level: vs.mean_interval(2 * VALUES - 1, UNEVEN.tolist(), bounds=(-1, 1), **level),
    "auc": lambda **level: vs.auc_interval(*SCORES, **level),
    "auc of few": lambda **level: vs.auc_interval([1.0], [0.0], **level),
    "aucs": lambda **level: vs.auc_difference(SCORES, OTHER, **level).interval,
}


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
def test_intervals_have_95_percent_unless_asked_otherwise_and_nest(interval: Callable[..., Interval]) -> None:
    usual, wide, narrow = interval(), interval(level=0.99), interval(level=0.8)
    assert usual == interval(level=0.95) and (usual.level, wide.level, narrow.level) == (0.95, 0.99, 0.8)
    assert wide.low <= usual.low <= narrow.low <= narrow.high <= usual.high <= wide.high
    if usual.ci not in ((0, 1), (-1, 1)):
        assert wide.high - wide.low > usual.high - usual.low > narrow.high - narrow.low


def test_an_interval_holds_its_ends() -> None:
    interval = Interval(0.2, 0.4)
    assert interval.level == 0.95 and 0.2 in interval and 0.4 in interval and 0.19999 not in interval and 0.40001 not in interval
    assert vs.verdict(interval, 0.2) is vs.verdict(interval, 0.4) is Verdict.INCONCLUSIVE


# --- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (9, 10), (10, 10), (37, 200)])
@pytest.mark.parametrize("level", [0.8, 0.99])
def test_clopper_pearson_is_scipys(k: int, n: int, level: float) -> None:
    both = stats.binomtest(k, n).proportion_ci(level, method="exact")
    above = stats.binomtest(k, n, alternative="greater").proportion_ci(level, method="exact")
    below = stats.binomtest(k, n, alternative="less").proportion_ci(level, method="exact")
    assert vs.rate_interval(k, n, level).ci == pytest.approx((both.low, both.high), abs=1e-9)
    assert vs.rate_interval(k, n, level, "lower").ci == pytest.approx((above.low, 1), abs=1e-9)
    assert vs.rate_interval(k, n, level, "upper").ci == pytest.approx((0, below.high), abs=1e-9)


@pytest.mark.parametrize("bad", [(-1, 5), (6, 5), (0, -1)])
def test_counts_that_cannot_be_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{bad[0]} successes of {bad[1]} trials"):
        vs.rate_interval(*bad)


@pytest.mark.parametrize(
    ("b", "c", "n", "level", "published"),
    [
        (0, 1, 44, 0.90, (-0.096, 0.037)),  # contact lenses, Tango 1998
        (1, 7, 21, 0.95, (-0.517, -0.026)),  # airways, Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875
    ],
)
def test_paired_difference_published(b: int, c: int, n: int, level: float, published: tuple[float, float]) -> None:
    first, second = [True] * b + [False] * (n - b), [False] * b + [True] * c + [False] * (n - b - c)
    found = vs.paired_rate_difference(first, second, level)
    assert found.interval.ci == pytest.approx(published, abs=5e-4)
    assert found.value == pytest.approx((b - c) / n)
    assert found.p == pytest.approx(stats.binomtest(b, b + c).pvalue)
    numbers = vs.paired_rate_difference(np.array(first, float), np.array(second, float), level)
    assert numbers == found, "0.0 and 1.0 are yes and no too"


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 9), (9, 0, 9), (0, 9, 9), (4, 4, 8), (1, 0, 200)])
def test_paired_difference_stays_within_its_bounds(b: int, c: int, n: int) -> None:
    low, high = rates._tango(b, c, n, 0.95)
    assert -1 <= low < (b - c) / n + 1e-9 and (b - c) / n - 1e-9 < high <= 1
    mirrored = rates._tango(c, b, n, 0.95)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-9)


def test_no_pairs_say_nothing() -> None:
    nothing = vs.paired_rate_difference([], [])
    assert (nothing.value, nothing.interval.ci, nothing.p) == (0, (-1, 1), 1)


def test_the_difference_of_two_independent_rates_is_newcombes() -> None:
    """56 of 70 less 48 of 80, by Wilson's intervals: Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10."""
    a, b = (stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((56, 70), (48, 80)))
    joined = base.mover(0.8, Interval(a.low, a.high, 0.9), 0.6, Interval(b.low, b.high, 0.9), 0.0)
    assert joined.ci == pytest.approx((0.0524, 0.3339), abs=5e-5) and joined.level == 0.9


@pytest.mark.parametrize("correlation", [-1, -0.3, 0, 0.6, 1])
def test_joined_intervals_of_equal_widths_follow_the_variance_of_a_difference(correlation: float) -> None:
    a, b = Interval(0.4, 0.6), Interval(0.1, 0.3)
    reach = 0.1 * math.sqrt(2 - 2 * correlation)
    assert base.mover(0.5, a, 0.2, b, correlation).ci == pytest.approx((0.3 - reach, 0.3 + reach))
    assert base.mover(0.9, Interval(0, 1), 0.1, Interval(0, 1), -1).ci == (-1, 1)


@pytest.mark.parametrize(("rate", "threshold"), [(0, 0.05), (1, 0.9), (0.3, 0.25), (0.1, 0.2), (0, 0.2), (0.7, 0.1), (1, 0.01)])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_one_trial_less_would_not_decide(rate: float, threshold: float, level: float) -> None:
    n = vs.trials_to_decide(rate, threshold, level)
    assert isinstance(n, int)
    said = [vs.verdict(vs.rate_interval(round(rate * k), k, level), threshold) for k in (n - 1, n)]
    assert said[0] is Verdict.INCONCLUSIVE and said[1] is (Verdict.HELD if rate < threshold else Verdict.VULNERABLE)


def test_what_no_number_of_trials_decides() -> None:
    assert vs.trials_to_decide(0.5, 0.5) is None
    assert vs.trials_to_decide(0, 0.05, limit=128) == 72 and vs.trials_to_decide(0, 0.05, limit=60) is None
    assert vs.trials_to_decide(0, 0.05) == vs.trials_to_decide(0, 0.05, 0.95) < vs.trials_to_decide(0, 0.05, 0.99)


def test_samples_that_would_decide_look_at_the_near_end() -> None:
    lopsided = Interval(0.1, 0.7)
    assert vs.samples_to_decide(0.3, lopsided, 10, 0.2) == 40  # above: down to 0.1, and half of that is left
    assert vs.samples_to_decide(0.3, lopsided, 10, 0.5) == 40  # below: up to 0.7
    assert vs.samples_to_decide(0.3, Interval(0.29, 0.31), 10, 0.2) == 1
    assert vs.samples_to_decide(0.3, Interval(0.0, 0.6), 10, 0.2) == 90
    assert vs.samples_to_decide(0.3, lopsided, 10, 0.3) is None
    assert vs.samples_to_decide(0.3, lopsided, 10, 0.2955) == 19754 and vs.samples_to_decide(0.3, lopsided, 10, 0.2956) is None  # nobody makes so many
    assert vs.samples_to_decide(0.3, lopsided, 10, 0.2956, limit=30_000)


# --- means ---------------------------------------------------------------------------------------------------------


def resampled(values: np.ndarray, clusters: np.ndarray, level: float, draws: int = 20_000) -> tuple[float, float]:
    """The bootstrap-t interval by its definition: whole clusters drawn anew, each mean with the standard error of a ratio."""
    rng, count = np.random.default_rng(1), len(np.unique(clusters))
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)

    def mean_and_error(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top, size = sums[chosen], sizes[chosen]
        mean = top.sum(-1) / size.sum(-1)
        return mean, np.sqrt(((top - mean[..., None] * size) ** 2).sum(-1) * count / (count - 1)) / size.sum(-1)

    mean, error = mean_and_error(np.arange(count))
    means_, errors = mean_and_error(rng.integers(count, size=(draws, count)))
    low, high = np.quantile((means_ - mean) / errors, [(1 - level) / 2, (1 + level) / 2])
    return mean - high * error, mean - low * error


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("skew", [1, 3])
def test_the_mean_of_clusters_is_a_bootstrap_t(level: float, skew: int) -> None:
    values = VALUES**skew
    sums, sizes = np.bincount(UNEVEN, values), np.bincount(UNEVEN).astype(float)
    found, expected = means._bootstrap_t(sums, sizes, level, 0, 20_000), resampled(values, UNEVEN, level)
    assert found == pytest.approx(expected, abs=0.03 * (expected[1] - expected[0]))
    assert found == means._bootstrap_t(sums, sizes, level, 0, 20_000) != means._bootstrap_t(sums, sizes, level, 1, 20_000)


def test_a_bootstrap_in_pieces_is_one_of_as_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clusters are drawn some rows at a time."""
    drawn: list[int] = []

    class Counting:
        def __init__(self, seed: int) -> None:
            self.rng = real(seed)

        def multinomial(self, n: int, p: np.ndarray, size: int) -> np.ndarray:
            drawn.append(size)
            return self.rng.multinomial(n, p, size=size)

    real = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", Counting)
    sums = real(0).random(1500)
    means._bootstrap_t(sums, np.ones(1500), 0.95, 0, 3000)
    assert sum(drawn) == 3000 and max(drawn) * 1500 <= 2_000_000 and len(drawn) == 3


def test_equal_means_leave_the_bootstrap_without_an_answer() -> None:
    assert means._bootstrap_t(np.full(25, 0.3), np.ones(25), 0.95, 0, 50) == (-math.inf, math.inf)
    low, high = means._bootstrap_t(np.full(25, 0.3) + np.arange(25) * 1e-6, np.ones(25), 0.95, 0, 50)
    assert 0.3 < low < high < 0.3001


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_rare_values_are_bounded_by_the_clusters_that_have_any(level: float) -> None:
    """One of 40 clusters has a value of 1 in ten: no bootstrap may call the mean small with more certainty than none of 40 allows,
    and none need call it larger than 1 of 40 does."""
    values, clusters = np.zeros(400), np.repeat(np.arange(40), 10)
    values[0] = 1.0
    found = vs.mean_interval(values, clusters.tolist(), level)
    assert vs.rate_interval(0, 40, level).high < found.high < vs.rate_interval(1, 40, level).high and 0 <= found.low < 1 / 400
    turned = vs.mean_interval(1 - values, clusters.tolist(), level)
    assert turned.ci == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


@pytest.mark.parametrize("k", [0, 1, 8, 17, 25])
def test_one_yes_or_no_a_cluster_is_a_rate(k: int) -> None:
    clusters = np.repeat(np.arange(25), 4).tolist()
    assert vs.mean_interval(np.repeat([0.0, 1.0], [100 - 4 * k, 4 * k]), clusters).ci == pytest.approx(vs.rate_interval(k, 25).ci)
    uneven = vs.mean_interval(np.repeat([0.0, 1.0], [100 - 4 * k, 4 * k + 1]), [*clusters, 24])
    assert k not in (8, 17) or uneven.ci != pytest.approx(vs.rate_interval(k, 25).ci)


def test_a_cluster_that_outweighs_the_others_is_nearly_all_that_is_known() -> None:
    clusters = np.repeat(np.arange(25), [30, *[1] * 24])
    values = np.ones(len(clusters))
    values[:3] = [0.5, 0.2, 0.0]
    with pytest.raises(vs.TooFewClustersError, match="25 clusters of so unequal sizes that they are as good as 3"):
        vs.mean_interval(values, clusters.tolist())
    found, turned = vs.t_interval(values, clusters), vs.t_interval(1 - values, clusters)
    assert found.low < 0 and turned.high > 0.5, "one cluster is nearly all that is known"


def test_a_judgement_of_the_same_values_is_the_same_by_default() -> None:
    assert vs.mean_interval(VALUES, UNEVEN.tolist()) == vs.mean_interval(VALUES, UNEVEN.tolist(), 0.95, (0, 1), 0, 2000)
    assert vs.mean_interval(VALUES, UNEVEN.tolist()) != vs.mean_interval(VALUES, UNEVEN.tolist(), seed=1)


@pytest.mark.parametrize(("bounds", "inner"), [((0.0, 1.0), 0.3), ((-1.0, 1.0), 0.0), ((2.0, 6.0), 3.0)])
def test_the_mean_does_not_depend_on_unit_or_direction(bounds: tuple[float, float], inner: float) -> None:
    low, high = bounds
    values = low + (high - low) * np.where(RNG.random(len(UNEVEN)) < 0.7, (inner - low) / (high - low), VALUES)
    found = vs.mean_interval(values, UNEVEN.tolist(), bounds=bounds)
    shares = vs.mean_interval((values - low) / (high - low), UNEVEN.tolist())
    turned = vs.mean_interval(low + high - values, UNEVEN.tolist(), bounds=bounds)
    assert found.ci == pytest.approx(tuple(low + end * (high - low) for end in shares.ci))
    assert found.ci == pytest.approx((low + high - turned.high, low + high - turned.low), abs=0.03 * (found.high - found.low))
    assert values.mean() in found and low <= found.low < found.high <= high


def test_clusters_are_known_by_name() -> None:
    names = [f"picture {n}" for n in UNEVEN]
    assert vs.mean_interval(VALUES, names).ci == pytest.approx(vs.mean_interval(VALUES, UNEVEN.tolist()).ci, rel=0.05)
    alone = vs.mean_interval(VALUES)
    assert alone.ci == pytest.approx(vs.mean_interval(VALUES, list(range(len(VALUES)))).ci, rel=0.05)
    together = vs.mean_interval(VALUES, UNEVEN.tolist())
    assert together.high - together.low > 1.3 * (alone.high - alone.low), "values of one cluster are alike"


def test_means_of_many_values_are_students() -> None:
    values = np.random.default_rng(2).beta(2, 3, 800)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert vs.mean_interval(values, resamples=4000).ci == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_values_may_touch_their_bounds_and_not_leave_them() -> None:
    edge = [0.0] * 10 + [1.0] * 10 + [0.5] * 10
    assert 0.5 in vs.mean_interval(edge)
    for beyond in (-1e-6, 1 + 1e-6):
        with pytest.raises(ValueError, match="outside their bounds"):
            vs.mean_interval([*edge, beyond])
        with pytest.raises(ValueError, match="outside their bounds"):
            vs.mean_interval([2 * value - 1 for value in [*edge, beyond]], bounds=(-1, 1))
    vs.mean_interval([*edge, 1 + 1e-12, -1e-12])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("clusters", [None, [0, 0, 1, 2, 3, 3, 3, 4, 5, 6]])
def test_sign_flips_are_counted_out(alternative: Any, clusters: list[int] | None) -> None:
    """All ways to flip the signs of ten differences, or of whole clusters."""
    differences = np.array([1, -1, 2, 3, 2, -4, 5, 1, -2, 3])
    sums = differences if clusters is None else np.bincount(clusters, differences)
    flipped = np.array([np.dot(signs, sums) for signs in itertools.product([1, -1], repeat=len(sums))])
    more, less = (flipped >= sums.sum() - 1e-9).mean(), (flipped <= sums.sum() + 1e-9).mean()
    expected = {"greater": more, "less": less, "two-sided": min(1, 2 * min(more, less))}[alternative]
    assert vs.sign_flip_p(differences.tolist(), clusters, alternative) == pytest.approx(expected)


def test_sign_flips_of_many_differences_are_drawn_by_the_seed() -> None:
    differences = np.random.default_rng(0).normal(0.25, 1, 60)
    p = vs.sign_flip_p(differences)
    assert p == vs.sign_flip_p(differences, alternative="two-sided", seed=0) != vs.sign_flip_p(differences, seed=1)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert p * 10_000 == pytest.approx(round(p * 10_000)), "9999 draws and the one that was seen"


@pytest.mark.parametrize("nothing", [[], [0.0], [3.0], [0.0, 0.0]])
def test_sign_flips_of_nothing_say_nothing(nothing: list[float]) -> None:
    assert vs.sign_flip_p(nothing) == vs.sign_flip_p(nothing, [0] * len(nothing)) == 1
    assert vs.sign_flip_p([1.0, -1.0, 2.0, -2.0], [0, 0, 1, 1]) == 1, "clusters that cancel"


# --- area under the curve ------------------------------------------------------------------------------------------


def kernel(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    return (positives[:, None] > negatives) + (positives[:, None] == negatives) / 2


def delong(*scores: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariance, by the definition in DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845."""
    kernels = [kernel(*each) for each in scores]
    m, n = kernels[0].shape
    above, below = np.stack([k.mean(1) for k in kernels]), np.stack([k.mean(0) for k in kernels])
    return above.mean(1), np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n


def test_the_area_is_scikit_learns() -> None:
    labels, scores = [1] * 24 + [0] * 40, np.concatenate(SCORES)
    assert vs.auc(*SCORES) == pytest.approx(roc_auc_score(labels, scores)) == pytest.approx(kernel(*SCORES).mean())
    assert vs.auc([], []) == vs.auc([1.0], []) == vs.auc([], [1.0]) == 0.5
    assert vs.auc([2.0], [1.0]) == 1 and vs.auc([1.0], [2.0]) == 0


def test_placements_are_rows_and_columns_of_the_comparison() -> None:
    value, above, below = roc._auc_parts(*SCORES)
    pairs = kernel(*SCORES)
    assert value == pytest.approx(pairs.mean())
    np.testing.assert_allclose(above, pairs.mean(1))
    np.testing.assert_allclose(below, pairs.mean(0))


@pytest.mark.parametrize("other", [OTHER, (SCORES[0] + 0.3, SCORES[1]), (-SCORES[0], -SCORES[1])])
def test_two_areas_differ_by_delongs_test(other: tuple[np.ndarray, np.ndarray]) -> None:
    areas, covariance = delong(SCORES, other)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = vs.auc_difference(SCORES, other, 0.8)
    assert found.value == pytest.approx(areas[0] - areas[1])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.value) / error))
    a, b = vs.auc_interval(*SCORES, 0.8), vs.auc_interval(*other, 0.8)
    correlation = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    assert found.interval.ci == pytest.approx(base.mover(areas[0], a, areas[1], b, correlation).ci)
    turned = vs.auc_difference(other, SCORES, 0.8)
    assert (turned.value, turned.p) == pytest.approx((-found.value, found.p))
    assert turned.interval.ci == pytest.approx((-found.interval.high, -found.interval.low))


def test_perfect_areas_vary_apart() -> None:
    """Nothing is known of how they vary together, so their intervals are joined as independent ones."""
    perfect = (np.arange(10, 30), np.arange(10))
    each = vs.auc_interval(*perfect)
    assert vs.auc_difference(perfect, perfect).interval == base.mover(1.0, each, 1.0, each, 0.0)
    flawed = (np.arange(10, 30) - 5, np.arange(10))
    other = vs.auc_interval(*flawed)
    assert vs.auc_difference(flawed, perfect).interval.ci == pytest.approx(base.mover(vs.auc(*flawed), other, 1.0, each, 0.0).ci)


def test_areas_of_other_items_are_not_paired() -> None:
    for other in ((SCORES[0][:-1], SCORES[1]), (SCORES[0], SCORES[1][:-1])):
        with pytest.raises(ValueError, match="same items"):
            vs.auc_difference(SCORES, other)


@pytest.mark.parametrize(("value", "m", "n"), [(0.5, 20, 30), (0.9, 8, 100), (0.99, 50, 12), (0.3, 5, 5)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_score_interval_of_an_area_is_newcombes_method_5(value: float, m: int, n: int, level: float) -> None:
    z = stats.norm.ppf((1 + level) / 2)

    def excess(theta: float) -> float:
        size = (m + n) / 2
        variance = theta * (1 - theta) * (1 + (size - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return (theta - value) ** 2 - z**2 * variance

    expected = optimize.brentq(excess, 0, value), optimize.brentq(excess, value, 1)
    assert roc._newcombe_auc(value, m, n, level) == pytest.approx(expected, abs=1e-9)


def test_the_logit_interval_of_many_scores_is_delongs() -> None:
    """Its half observation and Student's t matter little among thousands."""
    rng = np.random.default_rng(4)
    scores = rng.normal(1, 2, 3000), rng.normal(0, 1, 5000)
    (area,), ((variance,),) = delong(scores)
    half = stats.norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    expected = [1 / (1 + math.exp(-math.log(area / (1 - area)) - side * half)) for side in (-1, 1)]
    value, above, below = roc._auc_parts(*scores)
    assert roc._delong_logit(above, below, 0.95) == pytest.approx(expected, abs=2e-4)
    assert value == pytest.approx(area)


def test_the_logit_interval_of_few_scores() -> None:
    """Half an observation of variance 1/4 a side, and Welch's degrees of freedom, written out for three against four."""
    scores = np.array([1.0, 3.0, 5.0]), np.array([0.0, 2.0, 2.5, 4.0])
    pairs = kernel(*scores)
    area, m, n = pairs.mean(), 3, 4
    a = (((pairs.mean(1) - area) ** 2).sum() + 0.125) / 2.5 / m
    b = (((pairs.mean(0) - area) ** 2).sum() + 0.125) / 3.5 / n
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    half = stats.t.ppf(0.9, freedom) * math.sqrt(a + b) / (area * (1 - area))
    expected = [1 / (1 + math.exp(-math.log(area / (1 - area)) - side * half)) for side in (-1, 1)]
    _, above, below = roc._auc_parts(*scores)
    assert roc._delong_logit(above, below, 0.8) == pytest.approx(expected)


def test_rows_of_scores_are_taken_one_by_one() -> None:
    x, y = np.stack([SCORES[0], OTHER[0]]), np.stack([SCORES[1], OTHER[1]])
    value, above, below = roc._auc_parts(x, y)
    low, high = roc._delong_logit(above, below, 0.9)
    for row, scores in enumerate((SCORES, OTHER)):
        own, *placements = roc._auc_parts(*scores)
        assert value[row] == pytest.approx(own)
        assert (low[row], high[row]) == pytest.approx(roc._delong_logit(*placements, 0.9))


@pytest.mark.parametrize(("m", "n"), [(5, 50), (50, 5), (2, 2)])
def test_a_perfect_area_is_as_sure_as_the_smaller_sample_allows(m: int, n: int) -> None:
    perfect = np.arange(n, n + m), np.arange(n)
    _, above, below = roc._auc_parts(*perfect)
    low, high = roc._delong_logit(above, below, 0.95)
    assert low == pytest.approx(vs.rate_interval(min(m, n), min(m, n)).low) and high == 1
    found, flawed = vs.auc_interval(*perfect), vs.auc_interval(perfect[1], perfect[0])
    assert found.high == 1 and found.low <= low and found.ci == pytest.approx((1 - flawed.high, 1 - flawed.low))


def test_the_interval_of_an_area_is_the_hull_of_two() -> None:
    value, above, below = roc._auc_parts(*SCORES)
    (a, b), (c, d) = roc._newcombe_auc(value, 24, 40, 0.95), roc._delong_logit(above, below, 0.95)
    assert vs.auc_interval(*SCORES).ci == (min(a, c), max(b, d))
    spread = np.random.default_rng(0).normal(0, 5, 16) + 3, np.random.default_rng(1).normal(0, 1, 160)
    value, above, below = roc._auc_parts(*spread)
    (a, b), (c, d) = roc._newcombe_auc(value, 16, 160, 0.95), roc._delong_logit(above, below, 0.95)
    assert vs.auc_interval(*spread).ci == (min(a, c), max(b, d))


def test_two_scores_a_side_are_the_fewest() -> None:
    assert vs.auc_interval([1.0], [0.0, 2.0, 3.0]).ci == vs.auc_interval([1.0, 2.0, 3.0], [0.0]).ci == (0, 1)
    assert vs.auc_interval([3.0, 4.0], [1.0, 2.0]).low > 0


# --- nulls and corrections -----------------------------------------------------------------------------------------


def test_ranks_count_ties_as_beyond() -> None:
    assert vs.rank_p(2, [1, 2, 3, 0]) == 3 / 5
    assert vs.rank_p(2 + 1e-13, [1, 2, 3, 0]) == 3 / 5, "the last bits of the same number"
    assert vs.rank_p(2 + 1e-11, [1, 2, 3, 0]) == 2 / 5
    assert vs.rank_p(4, []) == 1 and vs.smallest_p(19) == 0.05 and vs.smallest_p(0) == 1


def test_the_largest_of_several_statistics_by_definition() -> None:
    null = np.random.default_rng(0).normal([5, -300, 0.01], [1, 50, 0.001], (199, 3))
    observed = [7.5, -250, 0.0105]
    pool = np.vstack([observed, null])
    z = (pool - pool.mean(0)) / pool.std(0)
    expected = [(z.max(1)[1:] >= each).sum() + 1 for each in z[0]]
    assert vs.max_t_p(observed, null) == pytest.approx([count / 200 for count in expected])
    assert len(set(expected)) == 3


def test_a_statistic_that_never_varies_says_nothing_and_does_not_disturb_the_others() -> None:
    null = np.random.default_rng(0).normal(size=(99, 1))
    alone, with_constant = vs.max_t_p([2.5], null), vs.max_t_p([2.5, 7.0], np.hstack([null, np.full((99, 1), 7.0)]))
    assert with_constant == [*alone, 1.0] and alone[0] < 0.05
    small = vs.max_t_p([2.5e-9], null * 1e-9)
    assert small == alone, "small is not constant"


def test_the_multiplier_of_simultaneous_intervals() -> None:
    rng = np.random.default_rng(0)
    independent, same = rng.normal(3, 2, (40_000, 5)), np.repeat(rng.normal(3, 2, (40_000, 1)), 5, axis=1)
    assert vs.max_t_quantile(independent, 0.9) == pytest.approx(stats.norm.ppf((1 + 0.9**0.2) / 2), abs=0.03)
    assert vs.max_t_quantile(independent) == vs.max_t_quantile(independent, 0.95)
    assert vs.max_t_quantile(same) == pytest.approx(stats.norm.ppf(0.975), abs=0.03)
    few = np.array([[0.0], [1], [2], [3], [10]])
    assert vs.max_t_quantile(few, 0.8) == pytest.approx(max(6.8 / few.std(), stats.norm.ppf(0.9)))
    assert vs.max_t_quantile(np.ones((9, 2))) == pytest.approx(stats.norm.ppf(0.975)), "no spread: not below one statistic's own"
    scales = np.array([1, 1e-6, 100, 3, 1e4])
    assert vs.max_t_quantile(independent * scales) == pytest.approx(vs.max_t_quantile(independent)), "each has its own spread"
    both = np.hstack([independent[:, :1], np.full((40_000, 1), 7.0)])
    assert vs.max_t_quantile(both) == vs.max_t_quantile(independent[:, :1])


def test_holm_by_closed_testing() -> None:
    """Holm is Bonferroni in every subset: a hypothesis falls where all intersections that hold it do."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        p = (rng.random(5) ** 2).tolist()
        subsets = [s for r in range(1, 6) for s in itertools.combinations(range(5), r)]
        closed = [max(min(1, len(s) * min(p[i] for i in s)) for s in subsets if k in s) for k in range(5)]
        assert vs.holm(p) == pytest.approx(closed)
    assert vs.holm([]) == [] and vs.holm([0.9, 0.9]) == [1, 1] and vs.holm([0.0, 0.5]) == [0, 0.5]


# --- looks at growing samples --------------------------------------------------------------------------------------

PLAN = GroupSequentialPlan((4, 8))


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3])
def test_a_look_is_students_test(margin: float) -> None:
    values = [0.9, 0.1, 0.4, 0.7]
    found = look(values, PLAN, margin)
    assert found.p == pytest.approx(stats.ttest_1samp(values, margin, alternative="greater").pvalue)
    assert found.n == 4 and found.rejects == (found.p <= PLAN.levels[0])
    assert look([2 * value for value in values], PLAN, 2 * margin).p == pytest.approx(found.p)
    assert look(values, PLAN) == look(values, PLAN, 0.0, 0.0, 0.0)


def test_a_look_gives_up_only_what_is_shown_to_be_below_the_bar() -> None:
    low, open_ = look([0.1, -0.2, 0.3, -0.2], PLAN), look([0.1, -0.2, 0.3, -0.2] * 2, PLAN)
    assert not low.stops and not low.futile and not low.rejects and low.p == pytest.approx(0.5)
    assert open_.stops and open_.last and not open_.futile and not open_.rejects
    for values in ([0.02, -0.01, 0.01, 0.0], [0.02, -0.01, 0.01, 0.0] * 2):
        sure = look(values, PLAN, 0.1, 0.2)
        late = GroupSequentialPlan(PLAN.sizes, spending="obrien-fleming").levels[sure.last]
        assert sure.futile and sure.stops and not sure.rejects
        assert stats.ttest_1samp(values, 0.2, alternative="less").pvalue <= late
    assert not look([0.02, 0.2, 0.01, 0.1], PLAN, 0.1, 0.2).stops
    sure = look([0.9, 0.8, 0.9, 1.0], PLAN)
    assert sure.rejects and sure.stops and not sure.futile and not sure.last
    with pytest.raises(ValueError):
        look([0.1] * 5, PLAN)


def test_equal_values_are_judged_by_the_floor() -> None:
    assert look([0.5] * 4, PLAN, 0.5).p == 0.5 and look([0.5] * 4, PLAN, 0.4).p == 0 and look([0.5] * 4, PLAN, 0.6).p == 1
    expected = stats.t.sf((0.5 - 0.4) * 2 / 0.2, 3)
    assert look([0.5] * 4, PLAN, 0.4, floor=0.2).p == pytest.approx(expected)
    spread = [0.0, 1.0, 0.0, 1.0]
    assert look(spread, PLAN, 0.4, floor=0.2).p == look(spread, PLAN, 0.4).p, "the floor is no cap"
    assert look([0.7], GroupSequentialPlan((1, 2)), 0.1, floor=0.01).p == 1, "one value has no spread"


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1, 0.7])
def test_alpha_is_one_sided(alpha: float) -> None:
    with pytest.raises(ValueError, match="one-sided alpha"):
        GroupSequentialPlan((1, 2), alpha)
    assert GroupSequentialPlan((1,)).alpha == 0.05 and GroupSequentialPlan((1,), 0.499)
