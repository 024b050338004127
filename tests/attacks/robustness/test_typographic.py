"""MR4: its judge on trials of known truth, and a whole run on a small model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.attacks.robustness.matching_runs import judged, runs_and_repeats_itself
from vlaudit.attacks.robustness.typographic import Typographic
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.records import REFERENCE, TARGET, Trial, Verdict


def written(n: int, read: int, pseudo: int, arm: str = TARGET) -> list[Trial]:
    """Trials of n pictures: the first ``read`` named as the word, the last ``pseudo`` on the pseudo-word."""
    trials = []
    for i in range(n):
        values = {
            "label": f"label-{i % 4}",
            "correct": True,
            "word": f"label-{(i + 1) % 4}",
            "read": i < read,
            "read_pseudo": i >= n - pseudo,
        }
        trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
    return trials


def test_typographic_verdicts_follow_the_paired_difference() -> None:
    probe = Typographic()
    assert judged(probe, written(128, 50, 3)).verdict is Verdict.VULNERABLE
    assert judged(probe, written(128, 1, 1)).verdict is Verdict.HELD
    assert judged(probe, written(128, 50, 48)).verdict is not Verdict.VULNERABLE  # ink alone does it
    judgement = judged(probe, written(128, 50, 3) + written(128, 4, 3, REFERENCE))
    assert judgement.delta is not None
    assert judgement.delta.value == pytest.approx(46 / 128)
    assert judgement.delta.ci[0] > 0


def test_one_word_that_takes_over_is_not_held() -> None:
    trials = written(256, 0, 0)
    for trial in trials[:12]:
        trial.values.update(word="apple", read=True)
    found = judged(Typographic(), trials)
    assert found.verdict is Verdict.INCONCLUSIVE and "'apple' when it is written on them: 12 of 12" in found.reason


def test_few_pictures_decide_nothing() -> None:
    assert judged(Typographic(), written(20, 0, 6)).verdict is Verdict.INCONCLUSIVE


def test_runs_on_a_hugging_face_folder_and_repeats_itself(matching: Context) -> None:
    lenient = Policy(thresholds={"typographic.least-pictures": 10})
    runs_and_repeats_itself(Typographic(), replace(matching, policy=lenient))
