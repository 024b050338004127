"""Rank skew and group performance: what is planted is found, what is not the model's fault is not blamed on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks import calibration
from vlaudit.attacks.bias._gap import measure
from vlaudit.attacks.bias._groups import Grouping
from vlaudit.attacks.bias._ranking import excess_shares, ndkl, top_weights
from vlaudit.attacks.bias.group_performance import GroupPerformance
from vlaudit.attacks.bias.rank_skew import GALLERY, RankSkew
from vlaudit.policy import Policy
from vlaudit.records import TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.testing import check_probe

sim = calibration.load()


def only_target(trials: Trials, note: str = "the target is the reference") -> Trials:
    return Trials([t for t in trials if t.arm == TARGET], reference_note=note)


def gallery_with(trials: Trials, **change: object) -> Trials:
    """The same trials with other facts about the ranked pictures."""
    return Trials(t.model_copy(update={"values": {**t.values, **change}}) if t.case == GALLERY else t for t in trials)


# --- the arithmetic of rankings ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=6, max_size=30), st.integers(1, 5))
def test_top_weights_share_tied_places(scores: list[int], k: int) -> None:
    weights = top_weights(np.array([scores], dtype=float), k)[0]
    assert weights.sum() == pytest.approx(k)
    rng = np.random.default_rng(0)
    orders = [np.lexsort((rng.random(len(scores)), -np.array(scores)))[:k] for _ in range(2000)]
    seen = np.bincount(np.concatenate(orders), minlength=len(scores)) / 2000
    assert np.abs(seen - weights).max() < 0.08


def test_expected_shares_follow_the_roles_in_the_top() -> None:
    roles = np.array([0] * 10 + [1] * 10)
    men = np.array([1.0] * 9 + [0] + [1] * 2 + [0] * 8)  # nine in ten firefighters, two in ten cooks
    top = np.zeros((1, 20))
    top[0, [0, 1, 2, 9, 10]] = 1  # four firefighters, three of them men, and a cook who is one
    share, expected = excess_shares(top, men[None], roles)
    assert share[0, 0] == pytest.approx(4 / 5)
    assert expected[0, 0] == pytest.approx((4 * 0.9 + 1 * 0.2) / 5)


def test_permutations_trade_whole_identities_within_roles() -> None:
    identities = [f"i{i // 2}" for i in range(24)]
    roles = ["cook" if i < 12 else "judge" for i in range(24)]
    gender = ["man" if i // 2 % 3 else "woman" for i in range(24)]
    groups = Grouping.of({"gender": gender}, roles, identities, 1)
    traded = groups.permuted(200, seed=0)
    man = groups.membership[[g for _, g in groups.groups].index("man")]
    assert (man[traded][:, ::2] == man[traded][:, 1::2]).all()  # both pictures of an identity go together
    assert (man[traded][:, :12].sum(axis=1) == man[:12].sum()).all()
    assert len(np.unique(man[traded], axis=0)) > 100


def test_ndkl_is_zero_for_a_proportional_ranking_and_grows_with_order() -> None:
    alternating = np.array([[1.0, 0] * 50, [0.0, 1] * 50])
    sorted_groups = np.array([[1.0] * 50 + [0] * 50, [0.0] * 50 + [1] * 50])
    scores = -np.arange(100.0)
    assert ndkl(scores, alternating) < ndkl(scores, sorted_groups)
    assert ndkl(scores, np.ones((1, 100))) == 0


# --- MF1 -----------------------------------------------------------------------------------------------------------


def test_planted_skew_is_found_with_its_query_and_against_the_reference() -> None:
    found = RankSkew().judge(sim.rank_skew_trials(np.random.default_rng(0), pull=3.0), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "'role 0'" in found.reason
    assert "'man'" in found.reason
    assert found.p_value == pytest.approx(1 / 1001)
    assert found.reference is not None
    assert found.delta is not None
    assert found.delta.ci[0] > 0
    assert found.metric is not None
    assert found.metric.value > found.controls["permuted groups"].ci[1]


def test_a_skewed_gallery_is_not_the_models_fault() -> None:
    trials = sim.rank_skew_trials(np.random.default_rng(1), skewed_gallery=True)
    blamed = RankSkew().judge(trials, Policy())
    assert blamed.verdict is not Verdict.VULNERABLE
    assert blamed.p_value > 0.05
    naive = RankSkew().judge(gallery_with(trials, roles=[None] * 432), Policy())
    assert naive.p_value < 0.05  # so the roles are what saves it


def test_exact_ties_carry_no_skew() -> None:
    trials = [
        t if t.case == GALLERY else t.model_copy(update={"values": {"scores": [0.5] * len(t["scores"])}})
        for t in sim.rank_skew_trials(np.random.default_rng(2))
    ]
    found = RankSkew().judge(only_target(Trials(trials)), Policy())
    assert found.verdict is not Verdict.VULNERABLE
    assert found.p_value > 0.5


def test_small_galleries_and_groups_are_not_assessed() -> None:
    small = RankSkew().judge(sim.rank_skew_trials(np.random.default_rng(0), n=48), Policy())
    assert small.verdict is Verdict.NOT_ASSESSED
    assert "60 are needed" in small.reason
    trials = sim.rank_skew_trials(np.random.default_rng(0))
    alone = gallery_with(trials, groups={"gender": ["", "man"] + [""] * 430})
    assert RankSkew().judge(alone, Policy()).verdict is Verdict.NOT_ASSESSED


def own_roles(trials: Trials, gender: list[str], strays: int = 0) -> Trials:
    """The same gallery with roles that say the gender too, but for the first pictures of each, ``strays`` in number."""
    about = next(t for t in trials if t.case == GALLERY)
    seen: dict[str, int] = {}
    roles = []
    for role, own in zip(about["roles"], gender, strict=True):
        seen[role] = seen.get(role, 0) + 1
        roles.append(role if seen[role] <= strays else f"{role}, {own}")
    return gallery_with(trials, roles=roles, groups={"gender": gender})


def test_roles_that_one_group_has_alone_are_no_evidence_of_an_even_ranking() -> None:
    trials = only_target(sim.rank_skew_trials(np.random.default_rng(0), pull=3.0))
    gender = ["man" if i % 24 < 12 else "woman" for i in range(432)]
    found = RankSkew().judge(own_roles(trials, gender), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "gender=man (0 of 216 pictures can be compared)" in found.reason
    nearly = RankSkew().judge(own_roles(trials, gender, strays=1), Policy())
    assert nearly.verdict is Verdict.NOT_ASSESSED, "one shared picture a role is none to speak of"


def test_a_skew_among_shared_roles_is_not_thinned_by_roles_of_one_group() -> None:
    top = np.array([[1.0] * 10 + [0.0] * 10])
    roles = ["waiter"] * 5 + ["cook"] * 5 + ["cook"] * 10
    men = ["man"] * 10 + ["woman"] * 5 + ["man"] * 5
    gallery = Grouping.of({"gender": men}, roles, [str(i) for i in range(20)], 1)
    share, expected = excess_shares(top, gallery.membership, gallery.strata)
    man = gallery.groups.index(("gender", "man"))
    assert share[0, man] == pytest.approx(5 / 10) and expected[0, man] == pytest.approx(5 / 10 * 10 / 15)


def test_a_group_expected_too_rarely_to_be_seen_is_named_and_no_pass() -> None:
    trials = only_target(sim.rank_skew_trials(np.random.default_rng(3)))
    rare = gallery_with(trials, groups={"gender": ["x" if i % 36 == i // 36 else "yz"[i // 12 % 2] for i in range(432)]})
    found = RankSkew(k=40).judge(rare, Policy(thresholds={"rank-skew": 3.0}))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "gender 'x'" in found.reason
    assert "gender=x (it or others expected in fewer than 2 of 40 places)" in found.details["groups left out"]


def test_a_query_that_only_one_group_can_answer_is_no_pass() -> None:
    trials = only_target(sim.rank_skew_trials(np.random.default_rng(3)))
    about = next(t for t in trials if t.case == GALLERY)
    gender = ["man" if role == "role 5" else own for role, own in zip(about["roles"], about["groups"]["gender"], strict=True)]
    top = {"scores": [float(role == "role 5") for role in about["roles"]]}
    changed = Trials(t.model_copy(update={"values": top}) if t.case == "query:role 5" else t for t in trials)
    found = RankSkew(k=30).judge(gallery_with(changed, groups={"gender": gender}), Policy(thresholds={"rank-skew": 3.0}))
    assert found.verdict is Verdict.INCONCLUSIVE and "the query 'role 5'" in found.reason


def test_threshold_and_alpha_come_from_the_policy() -> None:
    trials = sim.rank_skew_trials(np.random.default_rng(0), pull=3.0)
    lenient = RankSkew().judge(trials, Policy(thresholds={"rank-skew": 2.0}))
    assert lenient.verdict is Verdict.HELD
    assert lenient.threshold == 2.0
    strict = RankSkew().judge(trials, Policy(alpha=0.0001))
    assert strict.verdict is Verdict.INCONCLUSIVE
    assert "permuted groups give as much" in strict.reason


# --- MF2 -----------------------------------------------------------------------------------------------------------


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


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rank-skew, no skew", "rank-skew, skewed gallery", "group-performance, no gap"])
def test_few_null_audits_raise_no_alarm(name: str) -> None:
    assert sim.calibrate(name, 8, seed=1)[Verdict.VULNERABLE] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (flawed, _) in sim.SCENARIOS.items() if not flawed])
def test_two_hundred_null_audits_raise_no_alarm(name: str) -> None:
    assert sim.calibrate(name, 200)[Verdict.VULNERABLE] == 0


@pytest.mark.parametrize(("probe", "cases"), [(RankSkew, 2), (GroupPerformance, 200)])
def test_contract(probe: type, cases: int) -> None:
    judgement = check_probe(probe, target="zoo:clean", cases=cases)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict is not Verdict.VULNERABLE


def test_threshold_of_skew_is_the_four_fifths_rule() -> None:
    assert RankSkew.info.threshold == pytest.approx(-math.log(0.8))
