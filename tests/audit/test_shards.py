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

from tests.audit.reported import findings, same
from tests.conftest import save_tiny_clip
from vlaudit.audit.division import Pile, divide, fill
from vlaudit.audit.journal import MANIFEST, TRIALS, Journal, Manifest, PlannedProbe, Unit, UnitResult, read_manifest
from vlaudit.audit.merge import find_shards, merge
from vlaudit.audit.shard import SHARD, parse_shard
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import UsageError, VlauditError
from vlaudit.records import Family, ModelInfo, PromptInfo, TargetInfo, Trial
from vlaudit.registry import ProbeRegistry

Command = Callable[..., int]
LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]

STAGED = '''"""A probe that stops after the round in which it has seen enough."""
import os, time
import torch
from vlaudit.probe import Needs, Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict

@probe(id="staged", code="S1", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Staged(Probe):
    def cases(self, ctx): return [Case(id=str(i)) for i in range(8)]
    def rounds(self, cases): return [cases[i:i + 2] for i in range(0, 8, 2)]
    def shards(self, cases): return [[case] for case in cases]
    def decided(self, trials, policy): return len(trials.target) >= 4
    def attempt(self, ctx, cases):
        for case in cases:
            time.sleep(float(os.environ.get("MIRROR_SLEEP", "0")))
            with torch.no_grad(), ctx.remembering():  # the first of an audit passes them, and all count them; others beside them, other last bits
                seen = ctx.target.image_features(ctx.images(ctx.examples[:8 + int(case.id)]))
            yield ctx.trial(case, {"draw": int(ctx.rng(case).integers(1000)), "seen": float(seen.double().sum())}, artifacts={"seen": ctx.artifacts.put_text(f"case {case.id}", "seen")})
    def judge(self, trials, policy):
        mean = sum(trial["draw"] + trial["seen"] / 1000 for trial in trials.target) / 10_000 / len(trials.target)
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


def test_shards_in_any_order_give_the_findings_of_one_process(asked: tuple[list[str], list[str]], tmp_path: Path, vlaudit: Command) -> None:
    words, plugins = asked
    for executor in ("local", "process:4"):
        assert vlaudit("scan", *words, *plugins, "--executor", executor, "--out", tmp_path / executor) in (0, 1)
    (tmp_path / "local").rename(tmp_path / "whole")
    plan = tmp_path / "plan"
    assert vlaudit("plan", *words, *plugins, "--out", plan) == 0
    for number in random.Random(0).sample((1, 2, 3), 3):
        assert vlaudit("scan", "--plan", plan, "--shard", f"{number}/3", *plugins) == 0
    folders = [plan / "shards" / f"{number}-of-3" for number in (1, 2, 3)]
    ran = [set(Journal(folder).results()) for folder in folders]
    assert all(ran) and not set.intersection(ran[0], ran[1]) | set.intersection(ran[1], ran[2])
    whole, trials = findings(tmp_path / "whole"), set()
    assert same(tmp_path / "whole", tmp_path / "process:4"), "what is remembered in one process and not in another counts alike"
    spared = [sum(trial.cost.queries for trial in result.trials) - result.passed.queries for result in Journal(tmp_path / "whole").results().values()]
    assert sum(spared) > 0, "something was remembered"
    for place, order in enumerate(itertools.permutations(folders)):
        out = tmp_path / f"merged-{place}"
        assert vlaudit("merge", *order, *plugins, "--out", out) in (0, 1)
        assert same(tmp_path / "whole", out)
        trials.add((out / TRIALS).read_bytes())
    assert len(trials) == 1, "a merged journal is in the order of the plan"
    shown = [evidence["path"] for finding in whole for evidence in finding["evidence"]]
    assert shown and all((out / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in shown)
    assert vlaudit("merge", plan, *plugins, "--out", out) in (0, 1), "a plan's folder stands for its shards, and a merge may be made again"
    assert vlaudit("judge", out, *plugins) in (0, 1) and findings(out) == whole, "what was merged is an audit as any other"


def test_a_shard_that_is_killed_goes_on_where_its_journal_ends(asked: tuple[list[str], list[str]], tmp_path: Path, vlaudit: Command) -> None:
    words, plugins = asked
    plan, draw = tmp_path / "plan", random.Random(0)
    assert vlaudit("scan", *words, *plugins, "--out", tmp_path / "whole") in (0, 1)
    assert vlaudit("plan", *words, *plugins, "--out", plan) == 0
    unlucky = draw.randrange(2) + 1
    folder = plan / "shards" / f"{unlucky}-of-2"
    command = [*LAUNCH, "scan", "--plan", str(plan), "--shard", f"{unlucky}/2", *plugins]
    process = subprocess.Popen(command, env=os.environ | {"MIRROR_SLEEP": "0.05"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, wanted = time.time() + 120, draw.randrange(2, 6)
    while time.time() < deadline and not ((folder / TRIALS).exists() and (folder / TRIALS).read_text().count('"closed"') >= wanted):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = (folder / TRIALS).read_text()
    assert vlaudit("merge", plan, *plugins, "--out", tmp_path / "early") == 3
    report = json.loads((tmp_path / "early" / "report.json").read_text())
    assert report["audit"]["complete"] is False and any("in no shard" in error for error in report["audit"]["errors"])
    for number in (1, 2):
        assert vlaudit("scan", "--plan", plan, "--shard", f"{number}/2", *plugins) == 0
    assert (folder / TRIALS).read_text().startswith(before[: before.rindex('"closed"')]), "what was closed is not run again"
    assert vlaudit("merge", plan, *plugins, "--out", tmp_path / "late") in (0, 1)
    assert findings(tmp_path / "late") == findings(tmp_path / "whole")


def test_bad_input_is_one_sentence(
    asked: tuple[list[str], list[str]], models: list[Path], tmp_path: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words, plugins = asked
    words = [words[0], *words[2:]]  # one model
    plan, other = tmp_path / "plan", tmp_path / "other"
    assert vlaudit("plan", *words, *plugins, "--out", plan) == 0
    assert vlaudit("plan", *words, *plugins, "--seed", 1, "--out", other) == 0

    def refused(said: str, *arguments: object, code: int = 2) -> None:
        capsys.readouterr()
        assert vlaudit(*arguments) == code
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error and "bug" not in error, error

    for shard in ("0/3", "4/3", "3", "1/0", "a/b", "1/1000000000"):
        refused("is no shard", "scan", "--plan", plan, "--shard", shard, *plugins)
    refused("a part of a plan", "scan", *words, *plugins, "--shard", "1/2")
    refused("--seed does not go with --plan", "scan", "--plan", plan, "--seed", 1, *plugins)
    refused("TARGET does not go with --plan", "scan", words[0], "--plan", plan, *plugins)
    refused("is not installed", "scan", "--plan", plan)
    refused("has no manifest.json", "scan", "--plan", tmp_path, *plugins)
    refused("no shard was run", "merge", plan, *plugins)
    for folder in (plan, other):
        assert vlaudit("scan", "--plan", folder, "--shard", "1/2", *plugins) == 0
    one, two = plan / "shards" / "1-of-2", other / "shards" / "1-of-2"
    refused("one has the seed 0, one 1", "merge", one, two, *plugins, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    refused("is one of the shards", "merge", one, *plugins, "--out", one)
    refused("holds shard 1/2", "scan", "--plan", plan, "--shard", "2/2", "--out", one, *plugins)
    refused("holds shard 1/2 of plan", "scan", "--plan", other, "--shard", "1/2", "--out", one, *plugins)
    refused("is not empty", "scan", "--plan", plan, "--shard", "2/2", "--out", models[0], *plugins)
    refused("is not empty", "merge", one, *plugins, "--out", models[0])
    weights = models[0] / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    refused("not as it was planned: weights", "scan", "--plan", plan, "--shard", "2/2", *plugins)
    weights.unlink()
    refused("", "scan", "--plan", plan, "--shard", "2/2", *plugins, code=4)
    weights.write_bytes(before)
    assert vlaudit("scan", "--plan", plan, "--shard", "1/2", *plugins) == 0, "a shard that is done is done"


# --- merging, without a model ---------------------------------------------------------------------------------------------


def made(folder: Path, units: int = 6, **fields: Any) -> Manifest:
    """A plan of one probe on one target, in ``folder``."""
    target = TargetInfo(id="t", family=Family.MATCHING, model=ModelInfo(spec="hf:m"), prompt=PromptInfo(id="p", method="hard"))
    planned = PlannedProbe(target="t", probe="typographic", units=[Unit(id=f"{i:016x}", subject="t", probe="typographic", arm="target", cases=[str(i)], weight=i) for i in range(units)])  # fmt: skip
    request = Request(targets=[TargetSpec(model="hf:m")], probes=["typographic"])
    from vlaudit import __version__

    given: dict[str, Any] = {"version": __version__, "id": "a", "digest": request.digest(), "command": "c", "started": "2026-01-01T00:00:00+00:00",
                             "request": request, "targets": [target], "planned": [planned]}  # fmt: skip
    manifest = Manifest(**given | fields)
    folder.mkdir()
    Journal(folder).write_manifest(manifest)
    return manifest


def shard(plan: Path, name: str, *results: UnitResult) -> Path:
    folder = plan.parent / name
    folder.mkdir()
    shutil.copy(plan / MANIFEST, folder)
    journal = Journal(folder)
    for result in results:
        journal.append(result)
    journal.close()
    return folder


def ran(number: int, value: float = 0.5, error: str | None = None) -> UnitResult:
    trials = [] if error else [Trial(case=str(number), arm="target", values={"x": value})]
    return UnitResult(unit=f"{number:016x}", trials=trials, seconds=1.0, error=error)


def merged(tmp_path: Path, *folders: Path) -> Any:
    return merge(find_shards(folders), tmp_path / "out", ProbeRegistry.load())


def test_what_nobody_ran_is_named_whatever_the_number_of_shards(tmp_path: Path) -> None:
    made(tmp_path / "plan")
    folders = [shard(tmp_path / "plan", f"s{number}", ran(number)) for number in (0, 1, 2, 4, 5)]
    got = merged(tmp_path, *folders, folders[0])
    assert [unit.id for unit in got.missing] == [f"{3:016x}"] and not got.report.audit.complete and got.twice == 0
    assert any(f"{3:016x}" in error for error in got.report.audit.errors)
    assert len(Journal(tmp_path / "out").results()) == 5


def test_a_unit_that_ran_twice_must_come_to_the_same(tmp_path: Path) -> None:
    made(tmp_path / "plan", 2)
    one = shard(tmp_path / "plan", "one", ran(0, 0.5), ran(1))
    same = shard(tmp_path / "plan", "same", ran(0, 0.5 + 1e-6))
    failed = shard(tmp_path / "plan", "failed", ran(0, error="out of memory"))
    other = shard(tmp_path / "plan", "other", ran(0, 0.6))
    assert merged(tmp_path, one, failed, same).twice == 1
    first = (tmp_path / "out" / TRIALS).read_bytes()
    merged(tmp_path, same, one, failed)
    assert (tmp_path / "out" / TRIALS).read_bytes() == first, "which of the two is kept does not hang on their order"
    with pytest.raises(VlauditError) as caught:
        merged(tmp_path, one, other)
    assert "one'" in str(caught.value) and "other'" in str(caught.value) and f"{0:016x}" in str(caught.value)
    assert caught.value.exit_code == 3 and (tmp_path / "out" / TRIALS).read_bytes() == first, "nothing was written"


def test_an_error_counts_where_nobody_succeeded(tmp_path: Path) -> None:
    made(tmp_path / "plan", 1)
    failed = shard(tmp_path / "plan", "failed", ran(0, error="out of memory"))
    got = merged(tmp_path, failed)
    assert not got.missing and not got.report.audit.complete and "out of memory" in got.report.findings[0].reason


@pytest.mark.parametrize(("fields", "said"), [
    ({"version": "0.0.1"}, "one of 0.0.1"), ({"fingerprints": {"t": {"pictures": "0"}}}, "other data or models"),
    ({"started": "2026-01-01T09:00:00+00:00"}, "was made at"), ({"digest": "0"}, "other targets, probes or parameters"),
])  # fmt: skip
def test_shards_of_different_plans_are_refused_by_what_differs(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    made(tmp_path / "plan")
    made(tmp_path / "other", **fields)
    one, two = shard(tmp_path / "plan", "one", ran(0)), shard(tmp_path / "other", "two", ran(1))
    with pytest.raises(UsageError) as caught:
        merged(tmp_path, one, two)
    assert said in str(caught.value) and not (tmp_path / "out").exists()


def test_a_damaged_or_hostile_shard_is_refused_by_its_line(tmp_path: Path) -> None:
    made(tmp_path / "plan")
    folder = shard(tmp_path / "plan", "one", ran(0), ran(1))
    whole = (folder / TRIALS).read_bytes()
    (folder / TRIALS).write_bytes(whole + b'{"unit": "torn')
    assert len(Journal(folder).results()) == 2 and not merged(tmp_path, folder).report.audit.complete, "a torn line is none"
    for bad, line in ((whole.replace(b"0.5", b"0.6", 1), 1), (whole[whole.index(b"\n") + 1 :], 1), (b"{}\n" + whole, 1)):
        (folder / TRIALS).write_bytes(bad)
        with pytest.raises(UsageError, match=f"line {line} "):
            merged(tmp_path, folder)
    (folder / TRIALS).unlink()
    (folder / TRIALS).symlink_to(tmp_path / "plan" / MANIFEST)
    with pytest.raises(UsageError, match="is a link"):
        merged(tmp_path, folder)
    foreign = shard(tmp_path / "plan", "foreign", ran(99))
    with pytest.raises(UsageError, match="does not know"):
        merged(tmp_path, foreign)
    (foreign / SHARD).write_text("{}")
    with pytest.raises(UsageError, match=r"shard\.json"):
        merged(tmp_path, foreign)


def test_a_folder_that_turns_read_only_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "plan")
    folder = shard(tmp_path / "plan", "one", ran(0))
    journal = Journal(folder)
    journal.results(mend=True)
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=f"Cannot write to '{folder}': Read-only file system") as caught:
        journal.append(ran(1))
    assert caught.value.exit_code == 2
    monkeypatch.setattr(os, "open", opened)
    journal.close()
    assert len(Journal(folder).results()) == 1


def test_no_clock_of_a_machine_is_read(tmp_path: Path) -> None:
    made(tmp_path / "plan", 2, started="2099-01-01T00:00:00+00:00")
    ahead, behind = (shard(tmp_path / "plan", name, ran(number)) for number, name in enumerate(("ahead", "behind")))
    for folder, seconds in ((ahead, 5 * 3600), (behind, -5 * 3600)):
        for path in folder.iterdir():
            os.utime(path, (time.time() + seconds,) * 2)
    got = merged(tmp_path, behind, ahead)
    assert not got.missing and got.report.audit.complete and got.report.audit.started == "2099-01-01T00:00:00+00:00"


def test_a_plan_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "plan")
    monkeypatch.setattr("vlaudit.audit.journal.TEXT_BYTES", 500)
    with pytest.raises(UsageError, match=r"no more than 0\.0005 MB are read") as caught:
        made(tmp_path / "other")
    assert caught.value.exit_code == 2 and not list((tmp_path / "other").iterdir())


def test_a_merge_that_cannot_write_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "plan")
    folder, opened = shard(tmp_path / "plan", "one", ran(0)), os.open
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_WRONLY and str(path).startswith(str(tmp_path / "out")):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match="Read-only file system"):
        merged(tmp_path, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- dividing ---------------------------------------------------------------------------------------------------------------


def plan_of(weights: dict[str, list[list[float]]], rounds: dict[str, int] | None = None) -> Manifest:
    """A plan of models with probes of units that take so long; ``rounds``: of probes of more than one."""
    names, planned = list(weights), []
    for model, probes in weights.items():
        for place, units in enumerate(probes):
            many = (rounds or {}).get(f"{model}{place}", 1)
            planned.append(PlannedProbe(target=model, probe=f"p{place}", units=[
                Unit(id=f"{model}-{place}-{number}", subject=model, probe=f"p{place}", arm="target", cases=["c"], weight=weight, round=number % many)
                for number, weight in enumerate(units)
            ]))  # fmt: skip
    targets = [TargetInfo(id=name, family=Family.MATCHING, model=ModelInfo(spec=f"hf:{name}"), prompt=PromptInfo(id="p", method="hard")) for name in names]
    return Manifest(
        version="0", id="a", digest="d", command="c", started="now", targets=targets, planned=planned,
        request=Request(targets=[TargetSpec(model=f"hf:{name}") for name in names], probes=["p0"]), loads={f"hf:{name}": 10.0 for name in names},
    )  # fmt: skip


def test_shards_are_balanced_and_load_few_models() -> None:
    draw = random.Random(0)
    manifest = plan_of({f"m{i}": [[draw.lognormvariate(2, 1) for _ in range(draw.randrange(20, 80))] for _ in range(4)] for i in range(12)})
    cost = {unit.id: unit.weight for item in manifest.planned for unit in item.units}
    for count in (1, 3, 8, 24):
        shards = divide(manifest, count)
        assert sorted(unit for units in shards for unit in units) == sorted(cost), "each unit once"
        loads = [{unit.split("-")[0] for unit in units} for units in shards]
        times = [sum(map(cost.__getitem__, units)) + 10 * len(models) for units, models in zip(shards, loads, strict=True)]
        assert max(times) <= 1.15 * sum(times) / count, "balanced"
        assert sum(map(len, loads)) <= 12 + 2 * count, "a model is loaded by few"
        assert shards == divide(Manifest.model_validate_json(manifest.model_dump_json()), count), "the same on every machine"


def test_a_probe_with_rounds_stays_in_one_shard() -> None:
    manifest = plan_of({"a": [[5.0] * 12, [30.0] * 12]}, {"a0": 3})
    for count in (2, 5, 40):
        holders = [units for units in divide(manifest, count) if any(unit.startswith("a-0-") for unit in units)]
        assert len(holders) == 1 and sum(unit.startswith("a-0-") for unit in holders[0]) == 12
    assert sum(bool(units) for units in divide(manifest, 5)) == 5, "the other is spread"


def test_a_model_that_fits_whole_is_loaded_once() -> None:
    manifest = plan_of({f"m{i}": [[1.0] * 10] for i in range(6)})
    shards = divide(manifest, 3)
    assert sorted(len({unit.split("-")[0] for unit in units}) for units in shards) == [2, 2, 2]


def test_a_shard_pays_for_the_models_that_it_loads() -> None:
    pile = Pile("m", 10, [(10, ["a"]), (10, ["b"])], [0, 10, 20])
    assert fill([pile], 2, 19) is None and fill([pile], 2, 20) == {(1, 0): [(0, 1), (2, 2)], (0, 0): [(1, 2), (2, 2)]}
    assert fill([pile], 1, 29) is None and fill([pile], 1, 30) == {(0, 0): [(0, 2), (2, 2)]}


def test_a_number_out_of_a_count() -> None:
    assert parse_shard("2/8") == (2, 8) and parse_shard(" 8 / 8 ") == (8, 8)
    for text in ("0/8", "9/8", "-1/8", "1/8/9", "", "1", "١/", "1e1/20"):
        with pytest.raises(UsageError):
            parse_shard(text)


def test_the_plan_is_an_audit_of_its_own_schema(tmp_path: Path) -> None:
    """Manifests of earlier versions say nothing of loads and references."""
    made(tmp_path / "plan")
    text = json.loads((tmp_path / "plan" / MANIFEST).read_text())
    del text["loads"], text["references"], text["checksum"]
    from vlaudit.checksums import sealed

    (tmp_path / "plan" / MANIFEST).write_text(sealed(json.dumps(text))[0])
    manifest = read_manifest(tmp_path / "plan")
    assert sum(map(len, divide(manifest, 2))) == 6
