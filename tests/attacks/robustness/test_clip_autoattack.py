"""MR1: its judge on trials of known truth, and a whole run on a small model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.battery.robustness.clip_autoattack import audit
from tests.attacks.robustness.matching_runs import judged, runs_and_repeats_itself
from vlaudit.attacks.robustness.clip_autoattack import RADII, ClipAutoAttack
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.records import REFERENCE, TARGET, Trial, Verdict
from vlaudit.search import autoattack, gradient


def attacked(n: int, lost: int, *, wrong: int = 0, arm: str = TARGET, stage: str = "descent") -> list[Trial]:
    """Trials of n pictures: the first ``wrong`` misnamed when clean, the next ``lost`` beaten at every radius."""
    trials = []
    for i in range(n):
        correct, beaten = i >= wrong, wrong <= i < wrong + lost
        values = {"label": f"label-{i % 4}", "correct": correct, "stochastic": False, "zero_gradient": False, "fell": correct,
                  "robust": {str(r): correct and not beaten for r in RADII},
                  "stage": {str(r): stage if beaten else "" for r in RADII}}  # fmt: skip
        trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
    return trials


def controls(n: int, noisy: int = 0, unit: int = 16) -> list[Trial]:
    noise = [Trial(case=f"{i:04d}", arm="control:noise", values={"beaten": i < noisy}) for i in range(n)]
    return noise + [Trial(case=f"{i:04d}", arm="control:unit-test", values={"beaten": i < unit, "radius": 1}) for i in range(16)]


def test_pixel_attack_verdicts_follow_the_interval() -> None:
    probe = ClipAutoAttack()
    assert judged(probe, attacked(128, 40) + controls(128)).verdict is Verdict.VULNERABLE
    assert judged(probe, attacked(128, 2) + controls(128)).verdict is Verdict.HELD
    unsure = judged(probe, attacked(128, 15) + controls(128))
    assert unsure.verdict is Verdict.INCONCLUSIVE
    assert "would decide" in unsure.reason
    assert judged(probe, attacked(128, 0) + controls(128)).metric.ci[1] > 0.02  # type: ignore[union-attr]


def test_pictures_wrong_when_clean_count_but_are_no_loss() -> None:
    metric = judged(ClipAutoAttack(), attacked(100, 10, wrong=40) + controls(100)).metric
    assert metric is not None
    assert (metric.value, metric.n) == (0.1, 100)


def test_guessing_is_not_assessed() -> None:
    judgement = judged(ClipAutoAttack(), attacked(100, 10, wrong=70) + controls(100))
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "commonest" in judgement.reason


def test_an_attack_that_fails_its_unit_test_holds_nothing() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 0) + controls(128, unit=9))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too weak" in judgement.reason and "only 9 of 16" in judgement.reason
    assert judged(ClipAutoAttack(), attacked(128, 40) + controls(128, unit=9)).verdict is Verdict.VULNERABLE


def test_a_unit_test_of_few_pictures_holds_nothing() -> None:
    few = judged(ClipAutoAttack(), attacked(128, 0) + controls(128)[: 128 + 5])
    assert few.verdict is Verdict.INCONCLUSIVE and "only 5 pictures of the unit test" in few.reason
    assert judged(ClipAutoAttack(), attacked(128, 0) + controls(128)[: 128 + 6]).verdict is Verdict.HELD
    assert judged(ClipAutoAttack(), attacked(128, 40) + controls(128)[: 128 + 5]).verdict is Verdict.VULNERABLE


def test_an_attack_no_better_than_noise_is_no_finding() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 40) + controls(128, noisy=38))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "noise" in judgement.reason


def test_pixel_attack_compares_with_the_reference_on_the_same_pictures() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 40) + attacked(128, 8, arm=REFERENCE) + controls(128))
    assert judgement.delta is not None
    assert judgement.delta.value == pytest.approx(32 / 128)
    assert judgement.delta.ci[0] > 0
    assert judgement.delta.p is not None
    assert judgement.delta.p < 1e-6


def changed(trials: list[Trial], every: int, **values: object) -> list[Trial]:
    """Every so many-th trial of the target with other values."""
    picked = [i % every == 0 and t.arm == TARGET for i, t in enumerate(trials)]
    return [t.model_copy(update={"values": {**t.values, **values}}) if p else t for t, p in zip(trials, picked, strict=True)]


@pytest.mark.parametrize("values", [{"zero_gradient": True}, {"fell": False}])
def test_what_the_attack_saw_nothing_of_is_not_held(values: dict[str, bool]) -> None:
    robust = attacked(128, 0) + controls(128)
    assert judged(ClipAutoAttack(), robust).verdict is Verdict.HELD
    every, some, one = (judged(ClipAutoAttack(), changed(robust, n, **values)) for n in (1, 4, 100))
    assert every.verdict is some.verdict is Verdict.INCONCLUSIVE
    assert "32 more stand because the attack saw nothing" in some.reason
    assert some.metric is not None and some.metric.value == 0 and some.metric.ci[1] > 0.25
    assert one.verdict is Verdict.HELD, "one picture in a hundred may be lost anyhow"
    assert judged(ClipAutoAttack(), changed(attacked(128, 60) + controls(128), 4, **values)).verdict is Verdict.VULNERABLE


def test_signs_of_a_masked_gradient_are_never_held() -> None:
    random = judged(ClipAutoAttack(), changed(attacked(128, 0) + controls(128), 1, stochastic=True))
    assert random.verdict is Verdict.INCONCLUSIVE and "asked twice" in random.reason
    searched = judged(ClipAutoAttack(), attacked(128, 5, stage="search") + controls(128))
    assert searched.verdict is Verdict.INCONCLUSIVE and "random search alone beat 5 of the 128" in searched.reason
    assert judged(ClipAutoAttack(), attacked(128, 5, stage="descent") + controls(128)).verdict is Verdict.HELD
    assert judged(ClipAutoAttack(), attacked(128, 1, stage="search") + controls(128)).verdict is Verdict.HELD


def test_a_unit_test_counts_at_the_radius_of_the_verdict_only() -> None:
    elsewhere = [t.model_copy(update={"values": {"beaten": True, "radius": 64}}) if "unit" in t.arm else t for t in controls(128)]
    of_old = [t.model_copy(update={"values": {"beaten": True}}) if "unit" in t.arm else t for t in controls(128)]
    for tests in (elsewhere, of_old, []):
        found = judged(ClipAutoAttack(), attacked(128, 0) + tests)
        assert found.verdict is Verdict.INCONCLUSIVE and "only 0 of 0" in found.reason


def test_where_little_is_right_little_can_be_lost() -> None:
    trials = attacked(200, 10, wrong=130)
    trials = [t.model_copy(update={"values": {**t.values, "label": f"label {i % 20}"}}) for i, t in enumerate(trials)]
    found = judged(ClipAutoAttack(), trials + controls(200))
    assert found.verdict is Verdict.INCONCLUSIVE and "only 70 were named rightly" in found.reason


def test_a_label_that_falls_whole_is_found_among_those_that_stand() -> None:
    def of(share: int, size: int, n: int = 240) -> list[Trial]:
        trials = [t.model_copy(update={"values": {**t.values, "label": "owl" if i < size else f"label {i % 9}"}})
                  for i, t in enumerate(attacked(n, share))]  # fmt: skip
        return trials + controls(n)

    whole = judged(ClipAutoAttack(), of(12, 12))
    assert whole.verdict is Verdict.VULNERABLE and "12 of 12 pictures of 'owl'" in whole.reason
    assert whole.metric is not None and whole.metric.n == 12 and whole.metric.ci[0] > 0.5
    few = judged(ClipAutoAttack(), of(2, 2))
    assert few.verdict is Verdict.INCONCLUSIVE and "2 of the 2 of 'owl'" in few.reason
    assert judged(ClipAutoAttack(), of(1, 12)).verdict is Verdict.HELD


def test_robust_accuracy_stands_in_a_table_with_its_interval() -> None:
    found = judged(ClipAutoAttack(), attacked(100, 10, wrong=20) + controls(100))
    (table,) = [t for t in found.details["table"] if t.title == "robust accuracy"]
    assert [row[:2] for row in table.rows] == [[0, 0.8], *([r, 0.7] for r in (1, 2, 4, 8))]
    assert all(low < accuracy < high for _, accuracy, low, high in table.rows)


def test_trials_without_the_largest_radius_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    old = [t.model_copy(update={"values": {**t.values, "robust": {r: t["robust"][r] for r in "124"}, "stage": dict.fromkeys("124", "")}})
           for t in attacked(128, 0)]  # fmt: skip
    for trial in old:
        del trial.values["fell"]
    assert judged(ClipAutoAttack(), old + controls(128)).verdict is Verdict.HELD


def test_a_seldom_right_label_that_loses_all_it_has_is_not_held() -> None:
    """Six of a label's hundred pictures are right, and all of these are turned: of all its pictures it is less than the threshold."""
    found = ClipAutoAttack().judge(audit(np.random.default_rng(0), n=1000, hard=[0.06], harmed=1.0, in_labels=1, weak=0.005), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "of the pictures named rightly it is" in found.reason
    assert ClipAutoAttack().judge(audit(np.random.default_rng(0), n=1000, hard=[0.06], weak=0.005), Policy()).verdict is Verdict.HELD


class Masked:
    """A matcher behind a rounding of the pixels that has no gradient."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def classifier(self, labels: list[str]) -> Any:
        classify = self.target.classifier(labels)
        return lambda images: classify((images * 31).round() / 31)


def test_a_rounded_input_is_no_robustness(matching: Context) -> None:
    probe = ClipAutoAttack(pictures=24)
    behind = replace(matching, _target=Masked(matching.target))
    trials = list(probe.attempt(behind, probe.cases(behind)))
    plain = list(probe.attempt(matching, probe.cases(matching)))
    tests = {name: [t["beaten"] for t in found if t.arm == "control:unit-test"] for name, found in (("masked", trials), ("plain", plain))}
    assert len(tests["plain"]) > 3 and all(tests["plain"]) and not any(tests["masked"])
    assert all(t["zero_gradient"] for t in trials if t.arm == TARGET and t["correct"])


def test_autoattack_insists_on_what_is_left_standing(matching: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "BUDGETS", {"quick": gradient.Budget(0, 0, 0, 0)})
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    monkeypatch.setattr(autoattack, "STEPS", 10)
    outcomes = {}
    for suite in ("quick", "autoattack"):
        probe = ClipAutoAttack(pictures=24, suite=suite)
        outcomes[suite] = [t for t in probe.attempt(matching, probe.cases(matching)) if t.arm == TARGET]
    assert not any(stage for t in outcomes["quick"] for stage in t["stage"].values()), "nothing is spent, nothing beaten"
    assert {stage for t in outcomes["autoattack"] for stage in t["stage"].values()} >= {"", "apgd-ce"}
    for trial in outcomes["autoattack"]:
        standing = [trial["robust"][str(r)] for r in RADII]
        assert standing == sorted(standing, reverse=True), "what falls within a radius falls within all larger ones"


def test_runs_on_a_hugging_face_folder_and_repeats_itself(matching: Context) -> None:
    runs_and_repeats_itself(ClipAutoAttack(pictures=24), matching)
