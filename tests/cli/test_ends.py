"""However a scan ends, its code says so and a report is there: foreign code that exits, hangs, takes memory or asks for the network."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import patience

LAUNCH = [sys.executable, "-c", "import joblib; joblib.cpu_count = lambda: CORES; from vlaudit.cli import main; main()"]

PLUGIN = '''"""A probe that does something foreign in one of its places."""
import os, sys, time
def at(place):
    if os.environ.get("AT") == place:
        exec(os.environ["DO"])
at("import")
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Cost, Family, Judgement, Metric, Risk, Verdict

@probe(id="foreign", code="F1", title="A probe", risk=Risk.ROBUSTNESS, families=set(Family), threshold=0.1)
class Foreign(Probe):
    def cases(self, ctx):
        at("cases")
        return [Case(id=str(number)) for number in range(4)]
    def estimate(self, ctx, cases): return Cost(queries=4)
    def attempt(self, ctx, cases):
        for case in cases:
            at("attempt")
            yield ctx.trial(case, {"v": 1.0})
    def judge(self, trials, policy):
        at("judge")
        return Judgement(verdict=Verdict.HELD, reason="ok", metric=Metric(name="m", value=0.0, ci=(0.0, 0.0), n=4), threshold=0.1)
'''


class Scan:
    """A scan of a tiny model with the plugin, in a process of its own."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        (folder / "foreign.py").write_text(PLUGIN)
        self.out = folder / "out"
        self.command = ["scan", f"hf:{model}", "--data", str(data), "--plugin", str(folder / "foreign.py"), "--out", str(self.out)]

    def __call__(self, place: str, do: str, *flags: str, cores: int = 1) -> subprocess.CompletedProcess[str]:
        launch = [word.replace("CORES", str(cores)) for word in LAUNCH]
        environment = os.environ | {"AT": place, "DO": do}
        command = [*launch, *self.command, "--probe", "foreign", "--probe", "unsafe-file", *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @property
    def report(self) -> dict:
        return json.loads((self.out / "report.json").read_text())

    @property
    def verdicts(self) -> dict[str, str]:
        return {finding["probe"]: finding["verdict"] for finding in self.report["findings"]}


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> Scan:
    return Scan(tiny_clip, picture_folder, tmp_path)


@pytest.mark.parametrize("place", ["cases", "attempt", "judge"])
def test_an_exit_of_foreign_code_spoils_only_itself(scan: Scan, place: str) -> None:
    assert scan(place, "sys.exit(0)").returncode == 3
    assert scan.verdicts == {"foreign": "not-assessed", "unsafe-file": "held"}
    assert any("SystemExit" in error for error in scan.report["audit"]["errors"])


@pytest.mark.parametrize("place", ["import", "cases", "attempt", "judge"])
def test_an_end_of_the_process_is_no_zero(scan: Scan, place: str) -> None:
    done = scan(place, "os._exit(0)")
    assert done.returncode in (3, 4) and "foreign code ended the process" in done.stderr
    assert scan.report["audit"]["complete"] is False and "held" not in scan.verdicts.get("foreign", "")


@pytest.mark.parametrize("cores", [1, 2])
def test_a_probe_that_hangs_ends_with_max_time(scan: Scan, cores: int) -> None:
    then = time.monotonic()
    done = scan("attempt", "9 ** 9 ** 9", "--max-time", "8s", cores=cores)
    assert time.monotonic() - then < 8 + patience(10)
    assert done.returncode in (3, 4) and scan.verdicts["foreign"] == "not-assessed"
    assert scan.report["audit"]["complete"] is False and (scan.out / "report.html").exists()


def test_the_same_command_goes_on_after_it_was_ended(scan: Scan) -> None:
    assert scan("cases", "9 ** 9 ** 9", "--max-time", "6s").returncode == 4
    assert "the time of --max-time is up" in scan.report["targets"][0]["error"]
    assert scan("", "").returncode == 0
    assert scan.verdicts == {"foreign": "held", "unsafe-file": "held"} and scan.report["audit"]["complete"] is True


def test_a_plugin_finds_no_network(scan: Scan) -> None:
    assert scan("attempt", "import socket; socket.create_connection(('192.0.2.1', 80), 3)").returncode == 3
    assert "network is closed" in next(f["reason"] for f in scan.report["findings"] if f["probe"] == "foreign")


def test_output_that_nobody_reads_is_no_zero(scan: Scan) -> None:
    launch = [word.replace("CORES", "1") for word in LAUNCH]
    process = subprocess.Popen([*launch, *scan.command, "--probe", "unsafe-file"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stderr.read()  # type: ignore[union-attr]
    assert process.wait(60) == 3


def test_a_reader_that_went_away_is_no_bug() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    launch = [word.replace("CORES", "1") for word in LAUNCH]
    done = subprocess.run([*launch, "list", "specimens"], stdout=writes, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")
