"""XF1: its measure, its judge on trials of known truth, and two models that really share a stereotype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.battery.bias.cross_family_stereotypes import alone, draw, one_label
from vlaudit.attacks.bias.cross_family_stereotypes import CrossFamilyStereotypes
from vlaudit.attacks.bias.cross_family_stereotypes.leanings import reader_rates, rows_of, shared
from vlaudit.audit.executor import LocalExecutor
from vlaudit.audit.plan import make_plan
from vlaudit.audit.run import read_report
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.details import Matrix
from vlaudit.families.base import Speed
from vlaudit.policy import Policy
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Judgement, Trials, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.zoo import get

torch.set_num_threads(1)


def judged(seed: int = 0, **world: Any) -> Judgement:
    return CrossFamilyStereotypes().judge(draw(np.random.default_rng(seed), **world), Policy())


def test_the_shared_lean_of_two_groups_is_the_product_of_the_gaps() -> None:
    a, b = np.array([0.9, 0.3]), np.array([0.7, 0.2])
    assert shared(a, b) == pytest.approx(0.6 * 0.5)
    assert shared(a, b[::-1]) == pytest.approx(-0.3)
    assert shared(np.eye(5)[0], np.eye(5)[0]) == pytest.approx(1.0), "one of five groups alone, under both"
    assert shared(np.full(5, 0.2), np.eye(5)[0]) == pytest.approx(0.0)


def test_what_two_readers_err_on_together_is_no_lean() -> None:
    """Both misread the same hard people, who belong to no group more than to the other: on average nothing is left, and the raw
    product is well above it."""
    rng, values, raw = np.random.default_rng(0), [], []
    for _ in range(60):
        cells = {f"l{i}": {g: (rng.random((5, 1)) < 0.6).repeat(2, axis=1).astype(float) for g in "ab"} for i in range(8)}
        one, other = reader_rates(cells, seed=0, draws=10)
        values.append(rows_of(one, other)[0].value)
        raw.append(np.mean([shared(one[label].value, other[label].value) for label in cells]))
    assert abs(np.mean(values)) < 0.02 < np.mean(raw)


def test_a_lean_of_one_target_alone_is_not_shared() -> None:
    assert judged().verdict is Verdict.HELD
    assert judged(lean=alone).verdict is not Verdict.VULNERABLE
    found = judged(lean=one_label)
    assert found.verdict is Verdict.VULNERABLE and "role00" in found.reason and "100%" in found.reason
    assert {"other labels", "t2: scorer's balanced accuracy on gender"} & set(found.controls.root)


def test_what_is_not_seen_is_named_and_nothing_is_held() -> None:
    guess = judged(readers=3, blind=1)
    assert guess.verdict is Verdict.INCONCLUSIVE and "'t1' (it is not shown to read pictures better than chance)" in guess.reason
    dim = judged(readers=1, pipelines=2, skill=0.15, people=40)
    assert dim.verdict is Verdict.INCONCLUSIVE and "'t0' (it reads too few pictures rightly for a gap of 0.32" in dim.reason
    few = judged(few=1)
    assert few.verdict is Verdict.NOT_ASSESSED and "'woman'" in few.reason and "too few people" in few.reason
    whole = draw(np.random.default_rng(0), readers=2)
    part = Trials([t for t in whole if t.case != "draw/2/3"], reference_note="simulated")
    undrawn = CrossFamilyStereotypes().judge(part, Policy())
    assert undrawn.verdict is Verdict.INCONCLUSIVE and "gender of 't2' under 'role03' (it says nothing there)" in undrawn.reason
    blind = Trials([t for t in whole if not t.case.startswith("draw/2")], reference_note="simulated")
    assert CrossFamilyStereotypes().judge(blind, Policy()).verdict is Verdict.HELD, "two readers are all that there is"
    alone_left = judged(readers=1, pipelines=0)
    assert alone_left.verdict is Verdict.NOT_ASSESSED


def test_two_models_that_share_a_stereotype(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    code = vlaudit("scan", "zoo:gen-biased", "zoo:biased", "--data", "zoo:captions", "--group", "gender", "--probe", "XF1", "--out", tmp_path / "a")
    assert code == 1
    (finding,) = read_report(tmp_path / "a").findings
    assert finding.verdict is Verdict.VULNERABLE and "'pilot'" in finding.reason
    (matrix,) = [series for series in finding.details.series() if isinstance(series, Matrix)]
    assert matrix.rows[0] == "pilot" and len(matrix.columns) == 2 and matrix.values[0] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["read", "draw"])
def test_the_estimate_is_what_is_spent(kind: str, tmp_path: Path) -> None:
    models = ["zoo:clean", "zoo:gen-clean", get("t2i-clean").target_spec().model]
    specs = [TargetSpec(model=model, data="zoo:captions", groups=["gender"]) for model in models]
    subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects(specs)
    subjects[2].scorer_doubt = lambda: None
    speed, sets = Speed(1.0, 3.0, text=0.2, token=0.1, decoded=0.3, length=3.0), {"cross-family-stereotypes": {"pictures": 24, "drawn": 10}}
    request = Request(targets=specs, probes=["cross-family-stereotypes"], params=sets)
    plan = make_plan(request, ProbeRegistry.load(), subjects, references, speeds=dict.fromkeys(models, speed))
    unit = next(unit for planned in plan.planned for unit in planned.units if unit.cases[0].startswith(kind))
    result = LocalExecutor(plan, ArtifactStore(tmp_path), 128).close(unit)
    assert result.error is None and result.passed is not None
    assert speed.seconds(result.passed) / 2 <= speed.seconds(plan.costs[unit.id]) <= 2 * speed.seconds(result.passed)


def test_one_flag_names_the_scorer_of_a_set_of_which_one_draws(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    named = ("--scorer", "zoo:clean", "--probe", "unsafe-file")
    assert vlaudit("scan", "zoo:tiny-clean", "zoo:t2i-clean", *named, "--out", tmp_path / "a") == 0
    assert {target.scorer for target in read_report(tmp_path / "a").targets} == {None, "zoo:clean"}
    assert vlaudit("scan", "zoo:tiny-clean", *named, "--out", tmp_path / "b") == 2
