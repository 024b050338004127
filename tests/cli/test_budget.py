"""`--budget` from the command line: what is asked, what a dry run shows, and a plan that is kept when a scan goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.audit.journal import read_manifest
from vlaudit.families.matching import ImageTextMatcher

Command = Callable[..., int]
DEAR = '''"""A plugin for tests: a passes-hungry probe whose cases take as long as they say, and that shrinks to a budget."""

import time

from vlaudit.probe import Claim, Needs, Probe, probe
from vlaudit.records import Case, Cost, Family, Risk


@probe(id="dear", code="D1", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS}, threshold=0.5)
class Dear(Probe):
    cases_per_unit = 10

    def cases(self, ctx):
        return [Case(id=f"{i:03d}") for i in range(ctx.afford(400, "things", 10, searched=True))]

    def estimate(self, ctx, cases):
        return Cost(queries=10**9 * len(cases)) if ctx.seed == 1 else Cost(queries=len(cases))

    def attempt(self, ctx, cases):
        for case in cases:
            time.sleep(0.02)
            yield ctx.trial(case, {})

    def judge(self, trials, policy):
        return Claim(self.info, policy, "share").rate(0, len(trials.target)).says("nothing was found")
'''


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> list[str]:
    plugin = tmp_path / "dear.py"
    plugin.write_text(DEAR)
    return ["scan", f"hf:{tiny_clip}", "--data", str(picture_folder), "--plugin", str(plugin), "--probe", "dear"]


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a model was timed; each time it is found ten times slower."""
    measure, times = ImageTextMatcher.calibrate, list[int]()

    def calibrate(self: ImageTextMatcher, on: object) -> object:
        times.append(len(times))
        return measure(self, on).times(10 ** len(times))  # type: ignore[arg-type]

    monkeypatch.setattr(ImageTextMatcher, "calibrate", calibrate)
    return times


def test_what_is_no_time_is_a_usage_error(scan: list[str], vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("soon", "0", "-3m", "NONE"):
        assert vlaudit(*scan, "--budget", wrong) == 2
    assert "Write for example 90s, 10m or 1h" in capsys.readouterr().err


def test_a_dry_run_shows_the_design_and_what_is_left_out(scan: list[str], vlaudit: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert vlaudit(*scan, "--dry-run", "--seed", 1) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "its smallest design takes about" in shown and "the budget is 30m, and --budget" in shown
    assert vlaudit(*scan, "--dry-run", "--budget", "none") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "dear 400 1 400" in shown and "in all on cpu, no budget" in shown


def test_a_scan_that_goes_on_keeps_its_plan_and_its_calibration(
    scan: list[str], tmp_path: Path, vlaudit: Command, calibrated: list[int]
) -> None:
    out = tmp_path / "out"
    assert vlaudit(*scan, "--out", out, "--budget", "4s", "--max-time", "0.001s") == 3
    before = read_manifest(out)
    assert before.request.budget == 4 and before.whole is None
    (speed,) = before.speeds.values()
    assert speed.forward > 0
    assert vlaudit(*scan, "--out", out, "--budget", "4s") in (0, 1)
    assert len(calibrated) == 1, "a second calibration would have planned otherwise"
    assert read_manifest(out).planned == before.planned
    assert vlaudit(*scan, "--out", out, "--budget", "5s") == 2, "another budget is another audit"


def test_a_killed_scan_is_judged_and_reported_from_its_journal_alone(
    tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command
) -> None:
    out = tmp_path / "out"
    scan = ["scan", f"hf:{tiny_clip}", "--data", str(picture_folder), "--probe", "prompt-text-perturb", "--out", str(out)]
    assert vlaudit(*scan) in (0, 1, 3)
    lines = (out / "trials.jsonl").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"closed"' in line)
    (out / "trials.jsonl").write_text("".join(lines[: first + 3]))  # a unit, and a torn one
    for name in ("report.json", "report.html"):
        (out / name).unlink()
    assert vlaudit("report", out) == 0
    assert vlaudit("report", out, "--format", "json", "--output", tmp_path / "partial.json") == 0
    partial = json.loads((tmp_path / "partial.json").read_text())
    assert not partial["audit"]["complete"] and "units of work were not run" in partial["findings"][0]["reason"]
    assert not (out / "report.json").exists(), "the folder is only read"
    assert vlaudit("judge", out) == 3 and (out / "report.json").exists()
