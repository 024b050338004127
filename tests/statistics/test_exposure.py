"""The height of the ROC curve at a low rate of false alarms: its interval covers, whatever the scores, and needs no luck."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from vlaudit.statistics import exposure, least_negatives


def _scores(rng: np.random.Generator, kind: str, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Members, others, and the true-positive rate at 1 % false positives."""
    members, others = rng.normal(size=n), rng.normal(size=n)
    if kind == "one in ten":
        return np.where(rng.random(n) < 0.1, 9.0, members), others, 0.1 + 0.9 * 0.01
    if kind == "shifted":
        return members + 1, others, float(norm.sf(norm.isf(0.01) - 1))
    if kind == "others stand higher still":  # the curve jumps just below 1 %: a cut that is a little too high sees nothing
        high = rng.random((2, n)) < 0.008
        exposed = np.where(rng.random(n) < 0.1, 9.0, members)
        return np.where(high[0], 20 + members, exposed), np.where(high[1], 20 + others, others), 0.008 + 0.992 * (0.1 + 0.9 * 0.002)
    return members, others, 0.01


@pytest.mark.parametrize("kind", ["nothing", "one in ten", "shifted", "others stand higher still"])
@pytest.mark.parametrize("n", [250, 600])
def test_the_interval_covers_the_rate_at_an_unknown_cut(kind: str, n: int) -> None:
    missed = 0
    for seed in range(300):
        members, others, truth = _scores(np.random.default_rng(seed), kind, n)
        seen = exposure(members, others, 0.01)
        assert seen.interval.low <= seen.value <= seen.interval.high
        missed += truth - 0.01 not in seen.interval
    assert missed <= 15, "95 % of 300"


def test_one_member_in_ten_is_told_from_none_with_six_hundred_of_each() -> None:
    found = [exposure(*_scores(np.random.default_rng(seed), "one in ten", 600)[:2], 0.01) for seed in range(100)]
    none = [exposure(*_scores(np.random.default_rng(seed), "nothing", 600)[:2], 0.01) for seed in range(100)]
    assert sum(seen.interval.low > 0.05 for seen in found) >= 90
    assert sum(seen.interval.high < 0.05 for seen in none) >= 90
    assert max(seen.p for seen in found) < 1e-4


def test_too_few_negatives_say_nothing_of_those_above() -> None:
    members, others = np.full(500, 9.0), np.zeros(least_negatives(0.01))
    assert exposure(members, others, 0.01).interval.low > 0.9
    few = exposure(members, others[:-1], 0.01)
    assert few.interval.low == pytest.approx(-0.01)
    assert exposure(members, others[:3], 0.01).interval.high == pytest.approx(0.99)


def test_ties_are_neither_exposure_nor_its_absence() -> None:
    """Where all scores are one, nobody is told from anybody."""
    seen = exposure(np.zeros(800), np.zeros(800), 0.01)
    assert seen.interval.low < 0 < seen.interval.high < 0.05


def test_the_p_value_is_uniform_at_most() -> None:
    rng = np.random.default_rng(0)
    p = [exposure(rng.normal(size=90), rng.normal(size=700), 0.01).p for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08
