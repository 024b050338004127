"""XR1: its judge on trials of known truth, and a matcher and a generator that read the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.robustness.matching_runs import judged
from vlaudit.attacks.robustness.cross_family_transfer import CrossFamilyTransfer
from vlaudit.audit.run import read_report
from vlaudit.details import Matrix
from vlaudit.records import TARGET, Trial, Verdict

PROBE = CrossFamilyTransfer()


def trials(n: int = 120, makers: tuple[int, ...] = (0,), **changed: Any) -> list[Trial]:
    """Three targets that read all pictures rightly; the change turns the first alone. ``changed``: of a trial's values, by picture."""
    found = []
    for i in range(n):
        for maker in makers:
            values = {
                "label": f"label {i % 6}", "picture": f"{i:04d}", "prompts": ["a", "b", "c"], "makers": [maker], "stochastic": [],
                "clean": [True] * 3, "noise": [True] * 3, "made": [[j != maker for j in range(3)]],
            }  # fmt: skip
            values |= {name: of(i) for name, of in changed.items()}
            found.append(Trial(case=f"{maker}/{i:04d}", arm=TARGET, values=values))
            if i < 8:
                found.append(Trial(case=f"{maker}/{i:04d}", arm="control:unit-test", values={"makers": [maker], "found": [True]}))
    return found


def test_what_turns_only_the_matcher_it_was_made_on_does_not_carry_over() -> None:
    held = judged(PROBE, trials())
    assert held.verdict is Verdict.HELD and held.metric is not None and held.metric.value == 0 and held.metric.n == 120
    (matrix,) = held.details.series()
    assert isinstance(matrix, Matrix) and matrix.rows == ["a", "random noise"] and matrix.values[0] == [1, 0, 0]


def test_what_turns_another_target_is_found_and_noise_is_subtracted() -> None:
    found = judged(PROBE, trials(made=lambda i: [[False, i % 3 > 0, True]]))
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None
    assert found.metric.value == pytest.approx(1 / 6), "a third of the pictures on one of two other targets"
    noisy = judged(PROBE, trials(made=lambda i: [[False, i % 3 > 0, True]], noise=lambda i: [True, i % 3 > 0, True]))
    assert noisy.verdict is not Verdict.VULNERABLE and noisy.metric is not None and noisy.metric.value == 0


def test_two_matchers_are_rows_of_one_map() -> None:
    both = judged(PROBE, trials(makers=(0, 2), n=60))
    (matrix,) = both.details.series()
    assert isinstance(matrix, Matrix) and matrix.rows == ["a", "c", "random noise"]
    assert matrix.values[:2] == [[1, 0, 0], [0, 0, 1]]
    assert both.metric is not None and both.metric.n == 60, "a picture counts once, however many changes were made of it"


def test_held_needs_every_target() -> None:
    guessing = judged(PROBE, trials(clean=lambda i: [True, True, i % 6 == 0]))
    assert guessing.verdict is Verdict.INCONCLUSIVE and "not every pair was measured" in guessing.reason


def test_a_generator_on_the_matchers_tower_inherits_its_weakness(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    probe = ("--probe", "XR1", "--data", "zoo:roles", "--set", "cross-family-transfer.pictures=24")
    assert vlaudit("scan", "zoo:clean", "zoo:gen-clean", *probe, "--out", tmp_path / "a") == 1
    report = read_report(tmp_path / "a")
    (finding,) = report.findings
    assert finding.verdict is Verdict.VULNERABLE and [finding.target, *finding.related_targets] == [t.id for t in report.targets]
    assert {t.family.value for t in report.targets} == {"image-text-matching", "multimodal-to-text"}
    (matrix,) = finding.details.series()
    assert isinstance(matrix, Matrix) and matrix.columns == [t.id for t in report.targets]
    assert matrix.values[0][1] > 0.4 > 0.2 > matrix.values[1][1]  # type: ignore[operator]
    assert vlaudit("scan", "zoo:gen-clean", *probe, "--out", tmp_path / "b") == 3
    assert "there is one: name more, on the same data" in read_report(tmp_path / "b").findings[0].reason
