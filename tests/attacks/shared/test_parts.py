"""Harm that lies in one part alone."""

from __future__ import annotations

import pytest

from vlaudit.attacks.robustness.typographic import Typographic
from vlaudit.attacks.shared.parts import worst
from vlaudit.policy import Policy

INFO = Typographic.info


def hits(harmed: int, of: int, others: int = 30, size: int = 10) -> list[tuple[str, bool]]:
    return [("bad", n < harmed) for n in range(of)] + [(f"good {k}", n == 0) for k in range(others) for n in range(size)]


def test_a_part_that_is_harmed_in_most_cases_is_named() -> None:
    assert worst(hits(14, 14), INFO, Policy()) == "bad: 14 of 14"
    assert worst(hits(8, 14), INFO, Policy()) == "bad: 8 of 14"
    assert worst(hits(7, 14), INFO, Policy()) == "", "half are not most"
    assert worst([], INFO, Policy()) == ""


def test_a_part_of_few_cases_counts_where_it_is_no_chance() -> None:
    assert worst(hits(1, 1), INFO, Policy()) == "", "one case says nothing"
    assert worst(hits(4, 4), INFO, Policy()) == "bad: 4 of 4"
    assert worst(hits(4, 4), INFO, Policy(thresholds={"typographic.least-part": 5})) == ""
    assert worst(hits(2, 2, others=30, size=3), INFO, Policy()) == "", "where a third of the others are harmed too"


@pytest.mark.parametrize(("others", "size", "named"), [(3, 100, True), (3, 2, False), (0, 1, False)])
def test_what_the_other_parts_suffer_is_chance(others: int, size: int, named: bool) -> None:
    assert bool(worst(hits(4, 6, others=others, size=size), INFO, Policy())) is named


def test_the_policy_says_how_much_is_most() -> None:
    assert worst(hits(12, 30), INFO, Policy(thresholds={"typographic.one-part": 0.3})) == "bad: 12 of 30"
