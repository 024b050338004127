"""XR2: its judge on trials of known truth, its three kinds of readers, and two matchers that read the same names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.attacks.robustness.matching_runs import judged
from vlaudit.attacks.robustness.cross_family_words import CrossFamilyWords
from vlaudit.attacks.shared.reading import reads
from vlaudit.audit.run import read_report
from vlaudit.data.example import Example
from vlaudit.details import Matrix
from vlaudit.families.text_to_image import Generated
from vlaudit.records import TARGET, Family, Trial, Verdict

torch.set_num_threads(1)
PROBE = CrossFamilyWords()
EXAMPLE = Example("one", np.zeros((8, 8, 3), np.uint8), "cook")


def trials(deaf: tuple[str, ...] = (), **changed: Any) -> list[Trial]:
    """Three targets that read all pictures rightly; the spelling turns the first alone. ``changed``: of a trial's values, by picture."""
    found = []
    for i in range(120):
        values = {
            "label": f"label {i % 6}", "picture": f"{i:04d}", "prompts": ["a", "b", "c"], "makers": [0], "stochastic": [], "deaf": list(deaf),
            "clean": [True] * 3, "noise": [True] * 3, "made": [[False, True, True]],
        }  # fmt: skip
        found.append(Trial(case=f"0/{i:04d}", arm=TARGET, values=values | {name: of(i) for name, of in changed.items()}))
        if i < 8:
            found.append(Trial(case=f"0/{i:04d}", arm="control:unit-test", values={"makers": [0], "found": [True]}))
    return found


def test_what_carries_over_is_told_from_what_any_typing_error_does() -> None:
    assert judged(PROBE, trials()).verdict is Verdict.HELD
    found = judged(PROBE, trials(made=lambda i: [[False, i % 2 > 0, True]]))
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and found.metric.value == 0.25
    (matrix,) = found.details.series()
    assert isinstance(matrix, Matrix) and matrix.rows == ["a", "ordinary letter"] and matrix.columns == ["a", "b", "c"]
    typing = judged(PROBE, trials(made=lambda i: [[False, i % 2 > 0, True]], noise=lambda i: [True, i % 2 > 0, True]))
    assert typing.verdict is not Verdict.VULNERABLE


def test_a_target_that_takes_no_other_words_leaves_it_open() -> None:
    found = judged(PROBE, trials(deaf=("learned",)))
    assert found.verdict is Verdict.INCONCLUSIVE and "'learned' takes no other words" in found.reason


def _reads(peer: Any, example: Example, text: str) -> bool:
    (right,) = reads(peer, [example], [text])
    return right


def peer(family: Family, **target: Any) -> Any:
    return SimpleNamespace(
        target=SimpleNamespace(family=family, **target), labels=["cook", "pilot"], batches=lambda items: [items], pictures=lambda examples: [torch.zeros(3, 8, 8)],
        seeds=lambda count, *parts: [0] * count, scorer=SimpleNamespace(name=lambda images, labels: [int(images.max() > 0.5)]),
    )  # fmt: skip


def test_a_generator_is_asked_for_the_name_and_for_another() -> None:
    def says(answer: Callable[[str], str]) -> Any:
        return peer(Family.GENERATION, generate=lambda pictures, questions, **_: [answer(question) for question in questions])

    knows = says(lambda question: "yes" if "cook" in question else "no")
    assert _reads(knows, EXAMPLE, "cook") and not _reads(knows, EXAMPLE, "cооk")
    assert not _reads(says(lambda question: "yes"), EXAMPLE, "cook"), "always yes is no reading"


def test_a_pipeline_is_read_by_what_it_draws() -> None:
    def drawing(texts: list[str], seeds: list[int]) -> Generated:
        return Generated(torch.full((1, 3, 8, 8), 0.0 if "cook" in texts[0] else 1.0), [blocked])

    blocked = False
    pipeline = peer(Family.TEXT_TO_IMAGE, generate=drawing)
    assert _reads(pipeline, EXAMPLE, "cook") and not _reads(pipeline, EXAMPLE, "cооk")
    blocked = True
    assert not _reads(pipeline, EXAMPLE, "cook"), "a blocked picture shows nothing"


def test_two_matchers_and_one_map(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    sets = ("--set", "cross-family-words.pictures=24", "--set", "cross-family-words.spellings=6")
    vlaudit("scan", "zoo:clean", "zoo:typo-proof", "--probe", "XR2", *sets, "--out", tmp_path / "a")
    report = read_report(tmp_path / "a")
    (finding,) = report.findings
    (matrix,) = finding.details.series()
    assert isinstance(matrix, Matrix) and matrix.columns == [t.id for t in report.targets] and len(matrix.rows) == 3
    assert finding.verdict is not Verdict.NOT_ASSESSED and "8 of 8" not in finding.reason
    assert "found on 16 of 16" in str(finding.controls.root["unit test"]), "8 pictures on each of two matchers"
