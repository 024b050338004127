"""Accuracy by group: planted gaps are found between the right groups, harder labels are no gap."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.battery.bias.group_performance import everywhere, trials
from vlaudit.attacks.bias.group_performance import GroupPerformance
from vlaudit.attacks.bias.group_performance.gap import mantel_haenszel, measure, right, standard_errors
from vlaudit.attacks.shared.groups import Grouping
from vlaudit.policy import Policy
from vlaudit.records import TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.testing import check_probe


def test_planted_gap_is_found_between_the_right_groups() -> None:
    planted = trials(np.random.default_rng(0), n=600, sides=3, tones=2, loss=partial(everywhere, size=0.4), reference=True)
    found = GroupPerformance().judge(planted, Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "'g1" in found.reason.partition(" is named correctly")[0]
    assert found.metric is not None
    assert found.metric.ci[0] <= 0.4 <= found.metric.ci[1]
    assert found.delta is not None
    assert found.delta.ci[0] > 0.2
    table = {row[0]: row for row in found.details["table"].rows}
    assert table["gender: g1"][2] < table["gender: g0"][2] - 0.2
    assert abs(table["gender: g0"][2] - table["gender: g0"][3]) < 0.1  # true-positive rate near the accuracy
    assert found.details["its equalised odds difference"] > 0.2
    assert found.details["its demographic parity difference"] >= 0


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
    made = mirrored((rng.random(n) < accuracy).tolist(), [f"l{i % 3}" for i in range(n)])
    found = GroupPerformance().judge(Trials(made), Policy())
    assert found.verdict is not Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.value == 0
    assert found.metric.ci[1] > 0  # and never degenerate


def test_harder_labels_of_one_group_are_not_a_gap() -> None:
    rng = np.random.default_rng(0)
    made = []
    for i in range(600):
        hard = i % 2 == 0
        group = "a" if rng.random() < (0.8 if hard else 0.2) else "b"
        label = "hard" if hard else "easy"
        ok = rng.random() < (0.4 if hard else 0.95)
        made.append(Trial(case=f"{i:04}", arm=TARGET, values=answer(str(i), group, label, ok)))
    found = GroupPerformance().judge(Trials(made), Policy())
    assert found.details["raw gap of the worst pair, labels left out of account"] > 0.2
    assert found.verdict is not Verdict.VULNERABLE
    assert found.p_value > 0.05


def grouped(made: Trials) -> Grouping:
    target = made.target
    columns = {"gender": [t["groups"]["gender"] for t in target]}
    return Grouping.of(columns, [t["label"] for t in target], [t["identity"] for t in target], 30)


@pytest.mark.parametrize("divided", [0.5, 0.95])
def test_the_gap_is_not_shrunk_by_unevenly_shared_labels_and_its_error_is_what_audits_spread_by(divided: float) -> None:
    gaps, errors, inside = [], [], 0
    for rng in np.random.default_rng(4).spawn(60):
        made = trials(rng, n=1200, divided=divided, copies=2, loss=partial(everywhere, size=0.3))
        groups, answers = grouped(made), right(made.target)
        gap = mantel_haenszel(answers, groups, groups.pairs())
        gaps.append(gap[0])
        errors.append(standard_errors(answers, groups, groups.pairs(), gap)[0])
        interval = measure(answers, groups, 0.95).interval
        inside += interval.low <= 0.3 <= interval.high
    assert np.mean(gaps) == pytest.approx(0.3, abs=3 * np.std(gaps) / 60**0.5)
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.3)
    assert inside >= 57


def test_intersections_are_compared_and_small_groups_named() -> None:
    found = GroupPerformance().judge(trials(np.random.default_rng(0), n=432, sides=3, tones=2), Policy())
    assert any(row[0].startswith("gender and tone: ") for row in found.details["table"].rows)
    few = GroupPerformance().judge(trials(np.random.default_rng(0), n=50, sides=3, tones=2), Policy())
    assert few.verdict is Verdict.NOT_ASSESSED
    assert "gender 'g0'" in few.reason


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
    made = shared(his | dict.fromkeys(hers, strays), hers, {"man": 0.9, "woman": 0.1})
    found = GroupPerformance().judge(made, Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert ("without a label in common: side 'man' and 'woman'" in found.reason) is (strays == 0)


def test_what_one_group_has_alone_neither_thins_a_gap_nor_passes() -> None:
    his, hers = {"cook": 60, "waiter": 200}, {"cook": 60, "waitress": 100}
    found = GroupPerformance().judge(shared(his, hers, {"man": 0.9, "woman": 0.2}), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None and found.metric.n == 120
    assert found.metric.ci[0] <= 0.7
    alike = shared({"cook": 300, "waiter": 300}, {"cook": 300, "waitress": 300}, {"man": 0.9, "woman": 0.9})
    found = GroupPerformance().judge(alike, Policy(thresholds={"group-performance": 0.3}))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.details["labels that one of two groups lacks"] == "waiter, waitress"


def test_a_group_that_cannot_be_compared_is_no_pass_for_the_others() -> None:
    alike = shared({"cook": 300}, {"cook": 300}, {"man": 0.9, "woman": 0.9})
    other = [Trial(case=f"z{i:03}", arm=TARGET, values=answer(f"z{i}", "other", "nun", False)) for i in range(60)]
    policy = Policy(thresholds={"group-performance": 0.3})
    assert GroupPerformance().judge(alike, policy).verdict is Verdict.HELD
    found = GroupPerformance().judge(Trials([*alike, *other]), policy)
    assert found.verdict is Verdict.INCONCLUSIVE and "side 'man' and 'other'" in found.reason
    few = GroupPerformance().judge(Trials([*alike, *other[:20]]), policy)
    assert few.verdict is Verdict.INCONCLUSIVE and "side 'other' (20 pictures)" in few.reason


def test_groups_that_meet_only_a_third_one_are_no_pass() -> None:
    made = shared({"cook": 200}, {"cook": 200, "nurse": 200}, {"man": 0.9, "woman": 0.9})
    third = [Trial(case=f"z{i:03}", arm=TARGET, values=answer(f"z{i}", "third", "nurse", i < 180)) for i in range(200)]
    found = GroupPerformance().judge(Trials([*made, *third]), Policy(thresholds={"group-performance": 0.8}))
    assert found.verdict is Verdict.INCONCLUSIVE and "side 'man' and 'third'" in found.reason


def test_one_label_of_twelve_in_common_says_nothing_of_the_groups() -> None:
    his, hers = ({"cook": 60} | {f"{i}-{end}": 55 for i in range(11)} for end in ("er", "ess"))
    made = shared(his, hers, {"man": 0.9, "woman": 0.1})
    found = GroupPerformance().judge(made, Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "side 'man' and 'woman' (9% and 9% of their pictures are of labels in common)" in found.reason
    assert "'cook' is named correctly 80% less often" in found.reason
    lenient = Policy(thresholds={"group-performance.least-common": 0.05})
    assert GroupPerformance().judge(made, lenient).verdict is Verdict.VULNERABLE
    third = Trials([*made, *(Trial(case=f"z{i}", arm=TARGET, values=answer(f"z{i}", "third", "0-er", i < 5)) for i in range(60))])
    found = GroupPerformance().judge(third, Policy())  # a third group whose one label is a twelfth of the men's
    assert found.verdict is Verdict.INCONCLUSIVE and "side 'man' and 'third' (8% and 100%" in found.reason
    his["cook"], hers["cook"] = 300, 300  # a third of each
    found = GroupPerformance().judge(shared(his, hers, {"man": 0.9, "woman": 0.1}), Policy())
    assert found.verdict is Verdict.VULNERABLE


def test_a_model_that_says_one_label_of_everything_is_no_pass() -> None:
    made = [Trial(case=f"{g}{i:03}", arm=TARGET, values={"label": f"l{i % 3}", "said": "l0", "identity": f"{g}{i}", "groups": {"side": g}})
            for g in "ab" for i in range(300)]  # fmt: skip
    found = GroupPerformance().judge(Trials(made), Policy(thresholds={"group-performance": 0.3}))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "200 of 600 are named correctly, no more than by guessing (33%)" in found.reason
    better = [t.model_copy(update={"values": {**t.values, "said": t["label"]}}) if i % 3 == 1 else t for i, t in enumerate(made)]
    assert GroupPerformance().judge(Trials(better), Policy(thresholds={"group-performance": 0.3})).verdict is Verdict.HELD


def test_a_group_that_is_never_right_is_no_pass_where_the_other_seldom_is() -> None:
    seldom = partial(trials, n=4000, labels=60, accuracy=0.06, hardness=0.0)
    found = GroupPerformance().judge(seldom(np.random.default_rng(0), loss=partial(everywhere, size=2.0)), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "of gender 'g1' are named correctly, no more than by guessing" in found.reason
    assert GroupPerformance().judge(seldom(np.random.default_rng(0)), Policy()).verdict is Verdict.HELD


def test_opposite_gaps_of_two_labels_do_not_cancel() -> None:
    made = [
        Trial(case=f"{group}{label}{i:03}", arm=TARGET, values=answer(f"{group}{label}{i}", group, label, i < 100 * share))
        for group, label, share in (("a", "x", 0.9), ("a", "y", 0.4), ("b", "x", 0.4), ("b", "y", 0.9))
        for i in range(100)
    ]
    found = GroupPerformance().judge(Trials(made), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert found.details["its gap on the same labels (Mantel-Haenszel)"] == 0
    assert found.metric is not None and found.metric.value == pytest.approx(0.5, abs=0.02)


def one_bad_label(bad: float, labels: int = 40, n: int = 100) -> Trials:
    """Two groups that are named alike but for one label, of which a share is right for one of them."""
    return Trials(
        Trial(case=f"{g}{k:02}{i:03}", arm=TARGET, values=answer(f"{g}{k}{i}", g, f"l{k:02}", i < n * (bad if (g, k) == ("b", 7) else 0.95)))
        for g in "ab"
        for k in range(labels)
        for i in range(n)
    )


def test_a_label_that_is_never_right_for_one_group_is_the_finding_however_many_are_fair() -> None:
    found = GroupPerformance().judge(one_bad_label(0.2), Policy(thresholds={"group-performance": 0.2}))
    assert found.verdict is Verdict.VULNERABLE
    assert found.reason.startswith("'l07' is named correctly 75% less often of side 'b'")
    assert found.metric is not None and found.metric.name == "accuracy gap on one label" and found.threshold == 0.3
    lenient = Policy(thresholds={"group-performance": 0.2, "group-performance.label-gap": 0.9})
    assert GroupPerformance().judge(one_bad_label(0.2), lenient).verdict is Verdict.HELD
    between = GroupPerformance().judge(one_bad_label(0.55), Policy(thresholds={"group-performance": 0.2}))
    assert between.verdict is Verdict.INCONCLUSIVE and "'l07'" in between.reason


def test_repeated_pictures_of_one_identity_add_no_certainty() -> None:
    made = mirrored([i % 4 > 0 for i in range(60)], ["l"] * 60)
    thrice = [t.model_copy(update={"case": f"{t.case}-{copy}"}) for t in made for copy in range(3)]
    once, more = (GroupPerformance().judge(Trials(group), Policy()).metric for group in (made, thrice))
    assert once is not None
    assert more is not None
    assert more.ci[1] == pytest.approx(once.ci[1], rel=0.1)


def test_contract() -> None:
    judgement = check_probe(GroupPerformance, target="zoo:clean", cases=200)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict is not Verdict.VULNERABLE
