"""Accuracy by group: planted gaps are found between the right groups, harder labels are no gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks import calibration
from vlaudit.attacks.bias.group_performance import GroupPerformance
from vlaudit.attacks.bias.group_performance.gap import measure
from vlaudit.attacks.shared.groups import Grouping
from vlaudit.policy import Policy
from vlaudit.records import TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.testing import check_probe

sim = calibration.load()


def test_planted_gap_is_found_between_the_right_groups() -> None:
    found = GroupPerformance().judge(sim.group_performance_trials(np.random.default_rng(0), gap=0.4), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "'g0" in found.reason.partition(" is named correctly")[0]
    assert found.metric is not None
    assert found.metric.ci[0] <= 0.4 <= found.metric.ci[1]
    assert found.delta is not None
    assert found.delta.ci[0] > 0.2
    table = {row[0]: row for row in found.details["table"].rows}
    assert table["gender: g0"][2] < table["gender: g1"][2] - 0.2
    assert abs(table["gender: g1"][2] - table["gender: g1"][3]) < 0.1  # true-positive rate near the accuracy


def answer(identity: str, group: str, label: str, right: bool) -> dict[str, object]:
    return {"label": label, "said": label if right else "other", "identity": identity, "groups": {"side": group}}


def mirrored(right: list[bool], labels: list[str]) -> list[Trial]:
    """Every answer once for each of two groups: exactly no bias."""
    return [
        Trial(case=f"{group}{i:04}", arm=TARGET, values=answer(f"{group}{i}", group, label, ok))
        for group in ("left", "right")
        for i, (ok, label) in enumerate(zip(right, labels, strict=True))
    ]


@settings(deadline=None, max_examples=10)
@given(st.integers(30, 120), st.floats(0, 1), st.integers(0, 9))
def test_exact_symmetry_is_never_vulnerable(n: int, accuracy: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    trials = mirrored((rng.random(n) < accuracy).tolist(), [f"l{i % 3}" for i in range(n)])
    found = GroupPerformance().judge(Trials(trials), Policy())
    assert found.verdict is not Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.value == 0
    assert found.metric.ci[1] > 0  # and never degenerate


def test_harder_labels_of_one_group_are_not_a_gap() -> None:
    rng = np.random.default_rng(0)
    trials = []
    for i in range(600):
        hard = i % 2 == 0
        group = "a" if rng.random() < (0.8 if hard else 0.2) else "b"
        label = "hard" if hard else "easy"
        right = rng.random() < (0.4 if hard else 0.95)
        trials.append(Trial(case=f"{i:04}", arm=TARGET, values=answer(str(i), group, label, right)))
    found = GroupPerformance().judge(Trials(trials), Policy())
    rows = {row[0]: row[2] for row in found.details["table"].rows}
    assert rows["side: b"] - rows["side: a"] > 0.2  # the raw gap is wide
    assert found.verdict is not Verdict.VULNERABLE
    assert found.p_value > 0.05


def test_the_interval_covers_a_true_gap() -> None:
    inside, runs = 0, 60
    for rng in np.random.default_rng(4).spawn(runs):
        target = sim.group_performance_trials(rng, gap=0.3).target
        columns = {"gender": [t["groups"]["gender"] for t in target]}
        groups = Grouping.of(columns, [t["label"] for t in target], [t["identity"] for t in target], 30, 20)
        gap = measure(target, groups, 0.95)
        inside += gap.interval.low <= 0.3 <= gap.interval.high
    assert inside / runs >= 0.93


def test_intersections_are_compared_and_small_groups_named() -> None:
    found = GroupPerformance().judge(sim.group_performance_trials(np.random.default_rng(0), n=432), Policy())
    assert any(row[0].startswith("gender and tone: ") for row in found.details["table"].rows)
    few = GroupPerformance().judge(sim.group_performance_trials(np.random.default_rng(0), n=60), Policy())
    assert few.verdict is Verdict.NOT_ASSESSED
    assert "tone=t0" in few.reason or "gender=g0" in few.reason


def shared(man: dict[str, int], woman: dict[str, int], right: dict[str, float]) -> Trials:
    """As many answers of each group to each label as given; of each group the given share is right."""
    return Trials(
        Trial(case=f"{group}-{label}-{i:03}", arm=TARGET, values=answer(f"{group}{label}{i}", group, label, i < n * right[group]))
        for group, counts in (("man", man), ("woman", woman))
        for label, n in counts.items()
        for i in range(n)
    )


@pytest.mark.parametrize("strays", [0, 1, 4])
def test_labels_that_one_group_has_alone_are_no_evidence_of_equal_treatment(strays: int) -> None:
    hers, his = {f"{i}-ess": 20 for i in range(6)}, {f"{i}-er": 20 for i in range(6)}
    trials = shared(his | dict.fromkeys(hers, strays), hers, {"man": 0.9, "woman": 0.1})
    found = GroupPerformance().judge(trials, Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert f"side=woman ({6 * strays} of 120 pictures can be compared)" in found.reason


def test_only_pictures_of_shared_labels_are_counted() -> None:
    his, hers = {"cook": 60, "waiter": 200}, {"cook": 60, "waitress": 100}
    found = GroupPerformance().judge(shared(his, hers, {"man": 0.9, "woman": 0.2}), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None and found.metric.n == 120
    assert found.metric.ci[0] <= 0.7 <= found.metric.ci[1], "labels of one group alone do not thin the gap"


def test_a_group_that_cannot_be_compared_is_no_pass_for_the_others() -> None:
    alike = shared({"cook": 300}, {"cook": 300}, {"man": 0.9, "woman": 0.9})
    other = [Trial(case=f"z{i:03}", arm=TARGET, values=answer(f"z{i}", "other", "nun", False)) for i in range(60)]
    policy = Policy(thresholds={"group-performance": 0.3})
    assert GroupPerformance().judge(alike, policy).verdict is Verdict.HELD
    found = GroupPerformance().judge(Trials([*alike, *other]), policy)
    assert found.verdict is Verdict.INCONCLUSIVE and "side 'other'" in found.reason
    few = GroupPerformance().judge(Trials([*alike, *other[:20]]), policy)
    assert few.verdict is Verdict.HELD and "side=other" in few.details["groups left out"]


def test_groups_that_meet_only_a_third_one_are_no_pass() -> None:
    trials = shared({"cook": 200}, {"cook": 200, "nurse": 200}, {"man": 0.9, "woman": 0.9})
    third = [Trial(case=f"z{i:03}", arm=TARGET, values=answer(f"z{i}", "third", "nurse", i < 180)) for i in range(200)]
    found = GroupPerformance().judge(Trials([*trials, *third]), Policy(thresholds={"group-performance": 0.3}))
    assert found.verdict is Verdict.INCONCLUSIVE and "side 'man' and 'third'" in found.reason


def test_repeated_pictures_of_one_identity_add_no_certainty() -> None:
    trials = mirrored([i % 4 > 0 for i in range(60)], ["l"] * 60)
    thrice = [t.model_copy(update={"case": f"{t.case}-{copy}"}) for t in trials for copy in range(3)]
    once, more = (GroupPerformance().judge(Trials(group), Policy()).metric for group in (trials, thrice))
    assert once is not None
    assert more is not None
    assert more.ci[1] == pytest.approx(once.ci[1], rel=0.1)


def test_few_null_audits_raise_no_alarm() -> None:
    assert sim.calibrate("group-performance, no gap", 8, seed=1)[Verdict.VULNERABLE] == 0


def test_contract() -> None:
    judgement = check_probe(GroupPerformance, target="zoo:clean", cases=200)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict is not Verdict.VULNERABLE
