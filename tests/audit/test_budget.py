"""A budget is divided so that each probe can decide the most."""

from __future__ import annotations

import math

import pytest

from vlaudit.audit.budget import SHARES, Takes, divide


def probe(whole: float, least: float = 0.0) -> Takes:
    """Takes time in proportion, down to a least design."""
    return lambda share: whole * share if whole * share >= least or share == 1 else None


def spent(probes: list[Takes], budget: float) -> list[float | None]:
    return [None if share is None else takes(share) for takes, share in zip(probes, divide(probes, budget), strict=True)]


def test_what_fits_is_whole() -> None:
    assert divide([probe(10), probe(20)], 30) == [1.0, 1.0]
    assert divide([], 30) == []


def test_cheap_probes_are_whole_and_dear_ones_share_the_rest() -> None:
    times = spent([probe(1), probe(4), probe(10_000), probe(40_000)], 300)
    assert times[:2] == [1, 4]
    assert times[2] is not None and times[3] is not None and sum(t or 0 for t in times) <= 300
    assert sum(t or 0 for t in times) > 300 / math.sqrt(2) and times[3] > times[2]
    shares = divide([probe(10_000), probe(40_000)], 300)
    assert shares[0] is not None and shares[1] is not None and shares[0] > shares[1]


def test_the_dearest_is_left_out_where_not_even_the_least_designs_fit() -> None:
    shares = divide([probe(100, 20), probe(1000, 500), probe(50, 20)], 60)
    assert shares[1] is None and shares[0] in SHARES and shares[2] in SHARES
    assert divide([probe(1000, 500)], 60) == [None]


def test_a_least_design_is_taken_though_it_is_more_than_the_fair_part() -> None:
    takes = [probe(1000, 200), probe(1000)]
    times = spent(takes, 300)
    assert times[0] == pytest.approx(250, abs=51) and times[1] is not None and sum(t or 0 for t in times) <= 300


def test_designs_of_which_smaller_ones_take_no_less_are_left_whole() -> None:
    assert divide([lambda share: 50.0, probe(100)], 100)[0] == 1.0
