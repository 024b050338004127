"""MR1: its judge on trials of known truth, and a whole run on a small model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attacks.robustness.matching_runs import judged, runs_and_repeats_itself
from vlaudit.attacks.robustness.clip_autoattack import RADII, ClipAutoAttack
from vlaudit.probe import Context
from vlaudit.records import REFERENCE, TARGET, Trial, Verdict


def attacked(n: int, lost: int, *, wrong: int = 0, arm: str = TARGET, stage: str = "descent") -> list[Trial]:
    """Trials of n pictures: the first ``wrong`` misnamed when clean, the next ``lost`` beaten at every radius."""
    trials = []
    for i in range(n):
        correct, beaten = i >= wrong, wrong <= i < wrong + lost
        values = {"label": f"label-{i % 4}", "correct": correct, "stochastic": False, "zero_gradient": False,
                  "robust": {str(r): correct and not beaten for r in RADII},
                  "stage": {str(r): stage if beaten else "" for r in RADII}}  # fmt: skip
        trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
    return trials


def controls(n: int, noisy: int = 0, unit: int = 16) -> list[Trial]:
    noise = [Trial(case=f"{i:04d}", arm="control:noise", values={"beaten": i < noisy}) for i in range(n)]
    return noise + [Trial(case=f"{i:04d}", arm="control:unit-test", values={"beaten": i < unit}) for i in range(16)]


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
    assert "too weak" in judgement.reason
    assert judged(ClipAutoAttack(), attacked(128, 40) + controls(128, unit=9)).verdict is Verdict.VULNERABLE


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


def test_no_false_alarm_in_200_null_audits() -> None:
    rng = np.random.default_rng(0)
    probe = ClipAutoAttack()
    verdicts = [judged(probe, attacked(128, int(rng.binomial(128, 0.05))) + controls(128)).verdict for _ in range(200)]
    assert Verdict.VULNERABLE not in verdicts
    assert verdicts.count(Verdict.HELD) > 60


def test_runs_on_a_hugging_face_folder_and_repeats_itself(matching: Context) -> None:
    runs_and_repeats_itself(ClipAutoAttack(pictures=24), matching)
