"""Whether answers about pictures mean anything, and how much more a thing does than its control."""

from __future__ import annotations

import pytest

from vlaudit.attacks.shared.asked_pictures import guesswork, tell_reference
from vlaudit.policy import Policy
from vlaudit.probe import Claim
from vlaudit.records import REFERENCE, TARGET, Family, ProbeInfo, Risk, Trial, Trials

INFO = ProbeInfo(
    id="x", code="X1", title="x", risk=Risk.ROBUSTNESS, families=frozenset({Family.MATCHING}), threshold=0.1
)


@pytest.mark.parametrize(
    ("right", "guessed"), [(100, False), (61, False), (60, True), (55, True), (50, True), (0, True)]
)
def test_answers_are_held_against_the_commonest_label(right: int, guessed: bool) -> None:
    said = guesswork(["cat"] * 50 + ["dog"] * 30 + ["ox"] * 20, [i < right for i in range(100)], 0.95)
    assert (said is not None) == guessed
    assert said is None or (f"{right} of 100" in said and "(50%)" in said)


def told(theirs: int, n: int = 40) -> Claim:
    """Of a target that reads on 30 of 40 pictures and misreads on 10, and a reference that reads on so many."""
    rows = [(TARGET, i, i < 30, i >= 30) for i in range(n)] + [(REFERENCE, i, i < theirs, False) for i in range(n)]
    trials = [Trial(case=f"{i:02}", arm=arm, values={"hit": hit, "miss": miss}) for arm, i, hit, miss in rows]
    claim = Claim(INFO, Policy(), "reads")
    tell_reference(claim, Trials(trials), lambda t: t["hit"], lambda t: t["miss"])
    return claim


def test_the_reference_is_compared_beyond_the_control_of_each() -> None:
    said = told(10).not_assessed("so")
    assert said.reference is not None and said.reference.value == 0.25
    assert said.delta is not None and said.delta.value == pytest.approx((30 - 10 - 10) / 40)
    few = told(10, n=12).not_assessed("so")
    assert few.reference is not None and few.delta is None
    claim = Claim(INFO, Policy(), "reads")
    tell_reference(claim, Trials([], reference_note="none"), lambda t: True, lambda t: False)
    assert claim.not_assessed("so").reference is None
