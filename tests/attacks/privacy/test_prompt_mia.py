"""Membership inference: leaks are found, confounded and unverified splits are not assessed, null audits stay silent."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attacks import calibration
from vlaudit.attacks.privacy.prompt_mia import PromptMIA
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Trial, Trials, Verdict
from vlaudit.testing import check_probe

sim = calibration.load()
PROBE = PromptMIA()


def changed(trials: Trials, arm: str, **change: object) -> Trials:
    """The trials of one arm with their values passed through functions of the trial."""
    kept = []
    for trial in trials:
        values = {key: make(trial) for key, make in change.items()} if trial.arm == arm else {}
        kept.append(trial.model_copy(update={"values": {**trial.values, **values}}))
    return Trials(kept)


def test_a_leak_of_the_prompt_is_found_and_placed() -> None:
    found = PROBE.judge(sim.prompt_mia_trials(np.random.default_rng(0), leak=1.5), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the prompt" in found.reason
    assert found.metric is not None
    assert found.metric.ci[0] > 0.6
    assert found.reference is not None
    assert found.reference.ci[0] < 0.5 < found.reference.ci[1]
    assert found.delta is not None
    assert found.delta.p < 0.01
    assert found.details["TPR at 1 % FPR"].endswith("%)")
    assert found.controls["permuted members"].ci[1] < found.metric.value


def test_a_leak_of_the_weights_is_told_from_one_of_the_prompt() -> None:
    quiet = sim.prompt_mia_trials(np.random.default_rng(0))
    leaky = Trials([
        t.model_copy(update={"values": {**t.values, "loss": t["loss"] - 1.5 * t["member"]}}) for t in quiet
    ])  # fmt: skip
    found = PROBE.judge(leaky, Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the weights" in found.reason
    assert found.reference is not None
    assert found.reference.ci[0] > 0.6


def test_without_a_reference_the_plain_loss_is_judged_and_said() -> None:
    trials = sim.prompt_mia_trials(np.random.default_rng(0), leak=4.0)
    alone = Trials([t for t in trials if t.arm == TARGET], reference_note="the target is the reference")
    found = PROBE.judge(alone, Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "by their plain loss (the target is the reference)" in found.reason
    assert found.reference is None
    assert found.delta is None


def test_confounded_split_is_not_assessed_however_strong_the_leak() -> None:
    found = PROBE.judge(sim.prompt_mia_trials(np.random.default_rng(0), leak=3.0, confounded=1.0), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split confounded" in found.reason
    assert found.controls["blind"].ci[0] > 0.5


def test_confounded_labels_are_seen() -> None:
    trials = sim.prompt_mia_trials(np.random.default_rng(0), leak=1.0)
    rng = np.random.default_rng(1)

    def label(trial: Trial) -> str:
        return f"l{rng.integers(0, 6) + 3 * trial['member']}"

    found = PROBE.judge(changed(trials, TARGET, label=label), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split confounded" in found.reason


def test_split_too_small_to_verify_says_how_many_would_do() -> None:
    found = PROBE.judge(sim.prompt_mia_trials(np.random.default_rng(0), leak=3.0, members=30, others=30), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split not verified" in found.reason
    assert "pictures, half of them members" in found.reason
    few = PROBE.judge(sim.prompt_mia_trials(np.random.default_rng(0), members=10, others=300), Policy())
    assert "10 members and 300 non-members, 20 of each are needed" in few.reason


def test_low_false_positive_rate_needs_enough_non_members() -> None:
    found = PROBE.judge(sim.prompt_mia_trials(np.random.default_rng(3), members=250, others=250), Policy())
    assert "needs 300 non-members" in found.details["TPR at 1 % FPR"]


def test_pictures_of_one_identity_count_once() -> None:
    trials = sim.prompt_mia_trials(np.random.default_rng(0))
    doubled = Trials([t.model_copy(update={"case": f"{t.case}-{i}"}) for t in trials for i in (0, 1)])
    once, twice = PROBE.judge(trials, Policy()), PROBE.judge(doubled, Policy())
    assert once.metric is not None
    assert twice.metric is not None
    assert twice.metric.n == once.metric.n
    assert twice.metric.ci == pytest.approx(once.metric.ci)


def test_threshold_comes_from_the_policy() -> None:
    trials = sim.prompt_mia_trials(np.random.default_rng(0), leak=1.0)
    assert PROBE.judge(trials, Policy(thresholds={"prompt-mia": 0.9})).verdict is Verdict.HELD


def test_few_null_audits_raise_no_alarm() -> None:
    assert sim.calibrate("prompt-mia, no leak", 2, seed=1)[Verdict.VULNERABLE] == 0


def test_contract_on_a_learned_prompt() -> None:
    judgement = check_probe(PromptMIA, target="zoo:learned-prompt", cases=8)
    assert judgement.verdict is not Verdict.VULNERABLE


def test_reference_arm_stores_no_blind_features() -> None:
    trials = sim.prompt_mia_trials(np.random.default_rng(0))
    assert all(t["blind"] is None for t in trials.arm(REFERENCE))
