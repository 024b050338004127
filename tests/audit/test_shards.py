"""One plan in shards: the same findings as one process gives, whatever the order, whoever dies, whatever is run twice."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import save_tiny_clip
from vlaudit.audit.journal import MANIFEST, TRIALS, Journal, Manifest, PlannedProbe, Unit, UnitResult, read_manifest
from vlaudit.audit.merge import find_shards, merge
from vlaudit.audit.shards import SHARD, divide, parse_shard
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import UsageError, VlauditError
from vlaudit.records import Family, ModelInfo, PromptInfo, TargetInfo, Trial
from vlaudit.registry import ProbeRegistry

Command = Callable[..., int]
LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]

STAGED = '''"""A probe that stops after the round in which it has seen enough."""
import os, time
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict

@probe(id="staged", code="S1", risk=Risk.BIAS, families={Family.MATCHING})
class Staged(Probe):
    def cases(self, ctx): return [Case(id=str(i)) for i in range(8)]
    def rounds(self, cases): return [cases[i:i + 2] for i in range(0, 8, 2)]
    def shards(self, cases): return [[case] for case in cases]
    def decided(self, trials, policy): return len(trials.target) >= 4
    def attempt(self, ctx, cases):
        for case in cases:
            time.sleep(float(os.environ.get("MIRROR_SLEEP", "0")))
            yield ctx.trial(case, {"draw": int(ctx.rng(case).integers(1000))}, artifacts={"seen": ctx.artifacts.put_text(f"case {case.id}", "seen")})
    def judge(self, trials, policy):
        mean = sum(trial["draw"] for trial in trials.target) / 1000 / len(trials.target)
        return Judgement(verdict=Verdict.HELD, reason=f"{len(trials.target)} trials", metric=Metric(name="m", value=mean, ci=(mean, mean), n=4), threshold=1.0)
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny_clip(tmp_path_factory.mktemp(f"model-{seed}"), seed) for seed in (1, 2)]


@pytest.fixture
def asked(models: list[Path], picture_folder: Path, mirror_plugin: Path, tmp_path: Path) -> tuple[list[str], list[str]]:
    """What shapes a plan, and the plugins that each command must name."""
    staged = tmp_path / "staged.py"
    staged.write_text(STAGED)
    plugins = ["--plugin", str(mirror_plugin), "--plugin", str(staged)]
    words = [*(f"hf:{model}" for model in models), "--prompt", "the {}", "--prompt", "a photo of a {}", "--data", str(picture_folder),
             "--probe", "mirror", "--probe", "staged", "--probe", "unsafe-file"]  # fmt: skip
    return words, plugins


def findings(folder: Path, complete: bool = True) -> list[dict[str, Any]]:
    """Findings without what a clock measured, and without where the audit lies."""
    report = json.loads((folder / "report.json").read_text())
    assert report["audit"]["complete"] is complete
    for finding in report["findings"]:
        finding["cost"].pop("seconds")
    return report["findings"]


def test_shards_in_any_order_give_the_findings_of_one_process(asked: tuple[list[str], list[str]], tmp_path: Path, vlaudit: Command) -> None:
    words, plugins = asked
    assert vlaudit("scan", *words, *plugins, "--out", tmp_path / "whole") in (0, 1)
    plan = tmp_path / "plan"
    assert vlaudit("plan", *words, *plugins, "--out", plan) == 0
    for number in (3, 1, 2):
        assert vlaudit("scan", "--plan", plan, "--shard", f"{number}/3", *plugins) == 0
    folders = [plan / "shards" / f"{number}-of-3" for number in (1, 2, 3)]
    ran = [set(Journal(folder).results()) for folder in folders]
    assert all(ran) and not set.intersection(ran[0], ran[1]) | set.intersection(ran[1], ran[2])
    whole, trials = findings(tmp_path / "whole"), set()
    for place, order in enumerate(itertools.permutations(folders)):
        out = tmp_path / f"merged-{place}"
        assert vlaudit("merge", *order, *plugins, "--out", out) in (0, 1)
        assert findings(out) == whole
        trials.add((out / TRIALS).read_bytes())
    assert len(trials) == 1, "a merged journal is in the order of the plan"
    shown = [evidence["path"] for finding in whole for evidence in finding["evidence"]]
    assert shown and all((out / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in shown)
    assert vlaudit("merge", plan, *plugins, "--out", out) in (0, 1), "a plan's folder stands for its shards, and a merge may be made again"
    assert vlaudit("judge", out, *plugins) in (0, 1) and findings(out) == whole, "what was merged is an audit as any other"
