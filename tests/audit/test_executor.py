"""Workers: the same findings as one process gives, rounds in order, and deaths that spoil only their unit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest

from tests.audit.reported import findings, same
from vlaudit.audit.journal import Journal

Command = Callable[..., int]
LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]

PROBES = '''"""Probes that tell where they ran, run in rounds, or kill the process they run in."""
import os
import signal
import time

from vlaudit.cage import memory
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict


class Rounds(Probe):
    def cases(self, ctx):
        return [Case(id=f"{number}", params={"round": number // 4}) for number in range(12)]
    def rounds(self, cases):
        return [[case for case in cases if case.params["round"] == number] for number in range(3)]
    def shards(self, cases):
        return [[case] for case in cases]
    def decided(self, trials, policy):
        return max(t["round"] for t in trials.target) == 1
    def attempt(self, ctx, cases):
        for case in cases:
            time.sleep(float(os.environ.get("WORK", "0.02")))
            yield ctx.trial(case, {"round": case.params["round"], "draw": int(ctx.rng(case).integers(1000)),
                                   "process": os.getpid() if "PROCESS" in os.environ else 0,
                                   "sharers": memory.sharers if "PROCESS" in os.environ else 0})
    def judge(self, trials, policy):
        return Judgement(verdict=Verdict.HELD, reason=f"{sum(t['draw'] for t in trials.target)}", metric=Metric(name="m", value=0.0, ci=(0.0, 0.0), n=4), threshold=0.1)


class Deadly(Rounds):
    def attempt(self, ctx, cases):
        if cases[0].id == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().attempt(ctx, cases)


KIND = {"risk": Risk.PRIVACY, "families": {Family.MATCHING}}
probe(id="rounds", code="R1", **KIND)(Rounds)
probe(id="deadly", code="R2", **KIND)(Deadly)
'''


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> list[str]:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PROBES)
    return ["scan", f"hf:{tiny_clip}", "--data", str(picture_folder), "--plugin", str(plugin)]


def processes(folder: Path) -> set[int]:
    return {trial["process"] for result in Journal(folder).results().values() for trial in result.trials}


def test_workers_and_one_process_give_the_same_findings(
    scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESS", "")
    for cores in (1, 3):
        monkeypatch.setattr(joblib, "cpu_count", lambda cores=cores: cores)
        assert (
            vlaudit(*scan, "--probe", "rounds", "--probe", "prompt-text-perturb", "--out", tmp_path / str(cores)) == 0
        )
    assert same(tmp_path / "1", tmp_path / "3")
    assert "held" in {finding["verdict"] for finding in findings(tmp_path / "3")}


def test_rounds_follow_one_another_and_end_where_decided(
    scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESS", "")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    assert vlaudit(*scan, "--probe", "rounds", "--out", tmp_path / "out") == 0
    rounds = [trial["round"] for result in Journal(tmp_path / "out").results().values() for trial in result.trials]
    assert rounds == sorted(rounds)
    assert set(rounds) == {0, 1}, "the third round is not needed"
    assert len(processes(tmp_path / "out")) == 3
    assert os.getpid() not in processes(tmp_path / "out")
    sharers = {trial.values["sharers"] for result in Journal(tmp_path / "out").results().values() for trial in result.trials}
    assert sharers == {3}, "each takes a third of the memory that is left"


def test_a_worker_that_is_killed_spoils_only_its_unit(
    scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    assert vlaudit(*scan, "--probe", "deadly", "--probe", "rounds", "--out", tmp_path / "out") == 3
    verdicts = {finding["probe"]: finding for finding in findings(tmp_path / "out", complete=False)}
    assert verdicts["rounds"]["verdict"] == "held"
    assert verdicts["deadly"]["verdict"] == "not-assessed"
    assert "killed by signal 9" in verdicts["deadly"]["reason"]


def test_a_killed_scan_leaves_no_worker_behind(scan: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"import joblib; joblib.cpu_count = lambda: 2; {LAUNCH[2]}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *scan, "--probe", "rounds", "--out", str(out)],
        env=os.environ | {"PROCESS": "", "WORK": "1"},
    )
    deadline = time.time() + 90
    while not (out / "trials.jsonl").exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = processes(out)
    assert workers
    assert all(_gone(worker, deadline) for worker in workers)


def _gone(process: int, deadline: float) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    while time.time() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
