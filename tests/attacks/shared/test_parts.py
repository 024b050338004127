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
    assert worst(hits(8, 14), INFO, Policy()) == "", "eight of fourteen may be chance"
    assert worst([], INFO, Policy()) == ""


def test_a_part_of_few_cases_is_not_looked_at() -> None:
    assert worst(hits(7, 7, others=0), INFO, Policy()) == ""
    assert worst(hits(8, 8, others=0), INFO, Policy()) == "bad: 8 of 8"
    assert worst(hits(7, 7, others=0), INFO, Policy(thresholds={"typographic.least-part": 5})) == "bad: 7 of 7"


@pytest.mark.parametrize(("others", "named"), [(0, True), (2000, False)])
def test_the_more_parts_are_looked_at_the_more_a_part_must_show(others: int, named: bool) -> None:
    assert bool(worst(hits(11, 12, others=others), INFO, Policy())) is named


def test_the_policy_says_how_much_is_most() -> None:
    assert worst(hits(10, 30), INFO, Policy(thresholds={"typographic.one-part": 0.1})) == "bad: 10 of 30"
