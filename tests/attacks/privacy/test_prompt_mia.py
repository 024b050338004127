"""Membership inference: leaks of all and of few are found, confounded and unverified splits are not assessed, held needs both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.battery.privacy.prompt_mia import draw
from vlaudit.attacks.privacy.prompt_mia import SHADOW, PromptMIA, likelihood_ratios
from vlaudit.audit.plan import context
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Judgement, Measure, Severity, Trial, Trials, Verdict
from vlaudit.statistics import auc
from vlaudit.testing import Request, TargetSpec, _subject, check_probe

PROBE = PromptMIA()


def judge(seed: int = 0, policy: Policy | None = None, **truth: object) -> Judgement:
    return PROBE.judge(draw(np.random.default_rng(seed), **truth), policy or Policy())  # type: ignore[arg-type]


def rows(found: Judgement) -> list[list[object]]:
    tables = found.details["table"]
    return next(table.rows for table in (tables if isinstance(tables, list) else [tables]) if table.title == "What tells members apart")


def test_a_leak_of_the_prompt_is_found_and_placed() -> None:
    found = judge(size=1.0)
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the prompt" in found.reason
    assert found.metric is not None
    assert found.metric.ci[0] > found.threshold == 0.6  # type: ignore[operator]
    assert (found.metric.measure, found.metric.null) == (Measure.AUC, 0.5)
    assert found.reference is not None
    assert found.reference.ci[0] < 0.5 < found.reference.ci[1]
    assert found.delta is not None
    assert found.delta.p < 0.01
    assert found.controls["permuted members"].ci[1] < found.metric.value


def test_one_member_in_ten_is_found_though_the_auc_hardly_moves() -> None:
    found = judge(size=12.0, share=0.1)
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.name == "members exposed at 1 % false alarms"
    assert (found.metric.measure, found.metric.null, found.threshold) == (Measure.DIFFERENCE, 0.0, 0.05)
    assert found.metric.value == pytest.approx(0.1, abs=0.04)
    own = next(row for row in rows(found) if row[1] == "AUC of membership")
    assert own[3] < 0.6, "the AUC alone does not say so"  # type: ignore[operator]


def test_a_leak_of_all_is_found_though_few_stand_out() -> None:
    found = judge(size=1.0)
    exposed = next(row for row in rows(found) if str(row[1]).startswith("members exposed"))
    assert exposed[3] < 0.05  # type: ignore[operator]
    assert found.verdict is Verdict.VULNERABLE


def test_held_needs_both_within_their_limits_and_its_metric_is_the_worse() -> None:
    found = judge(seed=1)
    assert found.verdict is Verdict.HELD
    assert found.metric is not None
    assert all(row[4] < row[5] for row in rows(found))  # type: ignore[operator]
    small = judge(seed=1, members=200, others=200)
    assert small.verdict is Verdict.INCONCLUSIVE, "200 cannot show that fewer than one in twenty stand out"
    assert "--set prompt-mia.pictures=" in small.reason


def test_a_leak_of_the_weights_is_told_from_one_of_the_prompt() -> None:
    for truth in ({"weights": 3.0}, {"weights": 12.0, "share": 0.1}):
        found = judge(**truth)
        assert found.verdict is Verdict.VULNERABLE
        assert "the leak is in the weights" in found.reason


def test_members_of_one_label_are_found_and_named() -> None:
    found = judge(size=3.0, only=3)
    assert found.verdict is Verdict.VULNERABLE
    assert "labelled 'label 3'" in found.reason


def test_a_strong_leak_is_as_grave_as_its_distance_from_guessing() -> None:
    found = judge(size=2.5)
    severity, derivation = Policy().severity_of(PROBE.info, found)
    assert severity is Severity.HIGH, derivation


def test_without_a_reference_the_plain_loss_is_judged_and_said() -> None:
    found = judge(size=4.0, reference=False)
    assert found.verdict is Verdict.VULNERABLE
    assert "by the loss alone (the target is the reference)" in found.reason
    assert found.reference is None
    assert found.delta is None


@pytest.mark.parametrize("truth", [{"dressed": 1.0}, {"labels": 100, "novel": True}, {"labels": 8, "novel": True}])
def test_a_confounded_split_is_not_assessed_however_strong_the_leak(truth: dict[str, object]) -> None:
    found = judge(size=3.0, **truth)
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split confounded" in found.reason
    assert found.controls["blind"].ci[0] > 0.5


def test_few_members_that_look_otherwise_confound_what_few_members_leak() -> None:
    trials = draw(np.random.default_rng(0), size=12.0, share=0.1)
    leaky = {t.case for t in trials.target if t["loss"] <= 0.01}
    dressed = Trials([
        t.model_copy(update={"values": {**t.values, "blind": [9.0, *t["blind"][1:]]}})
        if t.arm == TARGET and t.case in leaky and t["member"] else t for t in trials
    ])  # fmt: skip
    assert PROBE.judge(dressed, Policy()).verdict is Verdict.NOT_ASSESSED


def test_split_too_small_to_verify_says_how_many_would_do() -> None:
    strong = judge(size=6.0, members=30, others=30)
    assert strong.verdict is Verdict.VULNERABLE, "beyond whatever a blind eye may reach among 60"
    found = judge(size=1.0, members=30, others=30)
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split not verified" in found.reason
    assert "--set prompt-mia.pictures=" in found.reason
    few = judge(members=10, others=300)
    assert "10 members and 300 non-members, 20 of each are needed" in few.reason


def test_a_leak_within_what_a_blind_eye_may_reach_is_none() -> None:
    """Few pictures, and members a little off in colour: the blind AUC may be high, and what a loss tells may be that."""
    found = [judge(seed, size=0.8, members=60, others=60, dressed=0.3) for seed in range(12)]
    lows = [(f.verdict, next(row[3] for row in rows(f)), f.controls["blind"].ci[1]) for f in found]
    beyond = [(verdict, low, reach) for verdict, low, reach in lows if low > 0.6]  # type: ignore[operator]
    assert {verdict for verdict, low, reach in beyond if low < reach - 0.01} == {Verdict.NOT_ASSESSED}  # type: ignore[operator]
    assert Verdict.VULNERABLE in {verdict for verdict, *_ in beyond}


def test_the_rate_of_one_in_a_thousand_is_stated_where_it_can_be() -> None:
    assert "needs 3793 non-members" in judge(members=100, others=300).details["members exposed at 0.1 % false alarms"]
    many = judge(members=300, others=3800, size=12.0, share=0.1)
    assert any(row[1] == "members exposed at 0.1 % false alarms" for row in rows(many))


def test_pictures_of_one_identity_count_once() -> None:
    trials = draw(np.random.default_rng(0))
    doubled = Trials([t.model_copy(update={"case": f"{t.case}-{i}"}) for t in trials for i in (0, 1)])
    once, twice = PROBE.judge(trials, Policy()), PROBE.judge(doubled, Policy())
    assert once.metric is not None
    assert twice.metric is not None
    assert twice.metric.n == once.metric.n


def test_a_side_with_more_pictures_of_each_is_no_quieter() -> None:
    """Means over five pictures scatter less than single ones: members of one picture each must not seem to stand out."""
    rng, trials = np.random.default_rng(0), []
    for i in range(500 + 2500):
        member = i < 500
        values = {"member": member, "identity": f"p{i if member else 500 + i // 5}", "label": "one", "loss": 4 + float(rng.normal()),
                  "blind": rng.normal(size=5).tolist()}  # fmt: skip
        trials.append(Trial(case=f"{i:05}", arm=TARGET, values=values))
    found = PROBE.judge(Trials(trials, reference_note="none"), Policy())
    assert found.verdict is Verdict.HELD


def test_thresholds_come_from_the_policy() -> None:
    loose = Policy(thresholds={"prompt-mia": 0.9, "prompt-mia.exposed": 0.9})
    assert judge(size=1.0, policy=loose).verdict is Verdict.HELD
    strict = Policy(thresholds={"prompt-mia.least-side": 700})
    assert judge(size=1.0, policy=strict).verdict is Verdict.NOT_ASSESSED
    wide = Policy(thresholds={"prompt-mia.blind": 0.5})
    assert "split not verified" in judge(policy=wide).reason
    often = Policy(thresholds={"prompt-mia.false-alarms": 0.05})
    assert any(row[1] == "members exposed at 5 % false alarms" for row in rows(judge(policy=often)))


def test_shadow_prompts_see_what_the_loss_does_not() -> None:
    """A prompt that lowers some losses and raises others, of members as of non-members: but only members are like their shadows."""
    rng, trials, losses, seen = np.random.default_rng(0), [], [{} for _ in range(8)], [[] for _ in range(8)]  # type: ignore[var-annotated]
    for i in range(1200):
        case, member, own = f"p{i:04}", i < 600, rng.choice([-1.5, 1.5])
        turn = own if member else rng.choice([-1.5, 1.5])
        for k in range(8):
            inside = (i * 7 + i // 13 + k) % 2 == 0
            losses[k][case] = float(4 + own * inside + 0.5 * rng.normal())
            seen[k] += [case] * inside
        values = {"member": member, "identity": case, "label": f"l{i % 3}", "blind": rng.normal(size=5).tolist()}
        trials.append(Trial(case=case, arm=TARGET, values={**values, "loss": float(4 + turn + 0.5 * rng.normal())}))
    shadows = [Trial(case=f"{SHADOW}/{k}", arm=f"control:{SHADOW}", values={"seen": seen[k], "loss": losses[k]}) for k in range(8)]
    ratios = likelihood_ratios(trials, shadows)
    assert auc(ratios[:600], ratios[600:]) > 0.7
    found = PROBE.judge(Trials([*trials, *shadows], reference_note="none"), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "by shadow prompts" in found.reason
    assert PROBE.judge(Trials(trials, reference_note="none"), Policy()).verdict is not Verdict.VULNERABLE


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Context:
    subject = _subject(TargetSpec(model="zoo:learned-prompt"))
    store = ArtifactStore(tmp_path_factory.mktemp("artifacts"))
    return context(Request(targets=[], probes=[], effort="quick"), subject, "prompt-mia", TARGET, store)


def test_shadow_prompts_are_learned_on_parts_that_cover_everybody_alike(learned: Context) -> None:
    probe = PromptMIA(pictures=40, shadows=4, steps=2)
    cases = probe.cases(learned)
    units = probe.shards(cases)
    assert [case.id for case in units[-1]] == [f"{SHADOW}/{k}" for k in range(4)]
    learned.start_clock()
    trials = list(probe.attempt(learned, units[-1]))
    assert {trial.arm for trial in trials} == {f"control:{SHADOW}"}
    counts = {case.id: sum(case.id in trial["seen"] for trial in trials) for case in cases[:-4]}
    assert set(counts.values()) == {2}
    assert all(trial["loss"].keys() == counts.keys() for trial in trials)
    again = next(iter(probe.attempt(learned, units[-1][:1])))
    assert torch.allclose(*(torch.tensor(list(t["loss"].values())) for t in (again, trials[0])), atol=1e-4)


def test_shadow_prompts_are_bounded_by_effort_and_by_labels(learned: Context) -> None:
    def count(probe: PromptMIA, **change: object) -> int:
        ctx = Context(**{**vars(learned), **change})  # type: ignore[arg-type]
        return sum(case.id.startswith(f"{SHADOW}/") for case in probe.cases(ctx))

    few = PromptMIA(pictures=40)
    assert count(few, labels=learned.labels[:8]) == 8
    assert count(few, labels=learned.labels[:8], effort="standard") == 16
    many = [*learned.labels[:8], *(f"thing {k}" for k in range(1000))]
    assert count(few, labels=many) == 0
    assert count(PromptMIA(pictures=40, shadows=4), labels=many) == 4
    assert count(PromptMIA(pictures=40, shadows=2), labels=many) == 0, "one prompt on each side has no spread"


def test_a_prompt_that_is_not_learned_from_features_has_no_shadows(learned: Context) -> None:
    from vlaudit.prompts.specs import parse_prompt
    from vlaudit.records import Family

    plain = parse_prompt("a photo of a {}", Family.MATCHING).bind(learned.target.model)
    other = Context(**{**vars(learned), "_target": plain})
    assert all(not case.id.startswith(SHADOW) for case in PromptMIA(pictures=40, shadows=4).cases(other))
    assert "none" in str(judge().details["shadow prompts"])


def test_contract_on_a_learned_prompt() -> None:
    judgement = check_probe(PromptMIA, target="zoo:learned-prompt", cases=8)
    assert judgement.verdict is not Verdict.VULNERABLE


def test_reference_arm_stores_no_blind_features() -> None:
    trials = draw(np.random.default_rng(0), members=20, others=20)
    assert all(t["blind"] is None for t in trials.arm(REFERENCE))
