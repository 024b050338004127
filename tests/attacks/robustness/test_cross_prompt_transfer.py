"""MR2: its judge on trials of known truth, and a whole run on a small model under prompts that do and do not see the picture alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.robustness.matching_runs import judged
from vlaudit.attacks.robustness.cross_prompt_transfer import CrossPromptTransfer
from vlaudit.audit.run import read_report
from vlaudit.details import Matrix
from vlaudit.records import TARGET, Judgement, Trial, Verdict
from vlaudit.testing import check_probe

PROBE = CrossPromptTransfer()


def trials(n: int = 120, prompts: int = 3, unit: int = 8, **changed: Any) -> list[Trial]:
    """Pictures that are named rightly whatever is done; ``changed``: of a trial's values, by its number."""
    found = []
    for i in range(n):
        values = {
            "label": f"label {i % 6}", "prompts": [f"p{j}" for j in range(prompts)], "stochastic": [], "clean": [True] * prompts,
            "noise": [True] * prompts, "one": [True] * prompts, "made": [[True] * prompts for _ in range(prompts)],
        }  # fmt: skip
        values |= {name: of(i) for name, of in changed.items()}
        found.append(Trial(case=f"{i:04d}", arm=TARGET, values=values))
    return found + [Trial(case=f"{i:04d}", arm="control:unit-test", values={"found": [True, True, i < unit]}) for i in range(8)]


def own_only(i: int) -> list[list[bool]]:
    return [[j != row for j in range(3)] for row in range(3)]


def others(i: int) -> list[list[bool]]:
    return [[j == row or i % 3 > 0 for j in range(3)] for row in range(3)]


def test_only_what_works_under_other_prompts_counts() -> None:
    held = judged(PROBE, trials(made=own_only))
    assert held.verdict is Verdict.HELD and held.metric is not None and held.metric.value == 0
    assert held.details["transfer ratio"].value == 0 and held.controls["own prompt"].value == 1
    found = judged(PROBE, trials(made=others))
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and "from under another prompt" in found.metric.name
    assert found.metric.value == pytest.approx(1 / 3)


def test_one_change_against_all_prompts_is_a_finding_by_itself() -> None:
    found = judged(PROBE, trials(one=lambda i: [i % 3 > 0] * 3))
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and "under every prompt by one change" in found.metric.name
    all_but_one = judged(PROBE, trials(one=lambda i: [False, False, True]))
    assert all_but_one.verdict is Verdict.HELD, "a picture that one prompt still names is not lost under all"


def test_what_noise_does_too_is_no_transfer() -> None:
    found = judged(PROBE, trials(made=others, noise=lambda i: [i % 3 > 0] * 3))
    assert found.metric is not None and found.metric.value <= 0 and found.verdict is not Verdict.VULNERABLE


def test_held_needs_every_pair_and_a_search_that_finds() -> None:
    guessing = judged(PROBE, trials(clean=lambda i: [True, True, i % 6 == 0]))
    assert guessing.verdict is Verdict.INCONCLUSIVE and "not every pair was measured" in guessing.reason and "'p2'" in guessing.reason
    alone = judged(PROBE, trials(clean=lambda i: [True, i % 6 == 0, i % 6 == 0]))
    assert alone.verdict is Verdict.NOT_ASSESSED and "no pair" in alone.reason
    weak = judged(PROBE, trials(unit=3))
    assert weak.verdict is Verdict.INCONCLUSIVE and "too weak under 'p2'" in weak.reason
    assert judged(PROBE, trials(stochastic=lambda i: ["p1"])).verdict is Verdict.INCONCLUSIVE
    pair = judged(PROBE, trials(prompts=3, made=lambda i: [[True, False, True], [True] * 3, [True] * 3], n=400))
    assert pair.verdict is not Verdict.HELD


def test_the_map_says_where_what_was_made_is_read() -> None:
    def one_pair(i: int) -> list[list[bool]]:
        return [[True, i % 2 > 0, True], [True] * 3, [True] * 3]

    (matrix,) = judged(PROBE, trials(made=one_pair)).details.series()
    assert isinstance(matrix, Matrix) and matrix.low and matrix.high
    assert matrix.rows == ["p0", "p1", "p2", "all together", "random noise"] and matrix.columns == ["p0", "p1", "p2"]
    assert matrix.values[0] == [0, 0.5, 0] and matrix.values[1] == [0, 0, 0]
    assert matrix.low[0][1] < 0.5 < matrix.high[0][1]  # type: ignore[operator]


def test_on_a_small_model_it_keeps_the_contract() -> None:
    prompts = ("a photo of a {}", "an emoji of a {}")
    judgement: Judgement = check_probe(CrossPromptTransfer, prompts=prompts, cases=24)
    (matrix,) = judgement.details.series()
    assert isinstance(matrix, Matrix) and matrix.columns == ["a photo of a {}", "an emoji of a {}"]


def test_a_brittle_model_gives_way_under_all_its_prompts(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    prompts = ("--prompt", "a photo of a {}", "--prompt", "a picture of a {}")
    probe = ("--probe", "MR2", "--set", "cross-prompt-transfer.pictures=48")
    assert vlaudit("scan", "zoo:brittle", *prompts, *probe, "--out", tmp_path / "a") == 1
    report = read_report(tmp_path / "a")
    (finding,) = report.findings
    assert finding.verdict is Verdict.VULNERABLE and [finding.target, *finding.related_targets] == [t.id for t in report.targets]
    assert finding.controls["random noise"].value < 0.1 < finding.controls["own prompt"].value
    assert finding.reproduce.count("--prompt") == 2
    assert vlaudit("scan", "zoo:brittle", *probe, "--out", tmp_path / "b") == 3, "one prompt that is its own reference has no pair"
    assert "there is one" in read_report(tmp_path / "b").findings[0].reason
