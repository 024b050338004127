"""The newcomer's first command: `vlaudit scan` audits the bundled default within its time and memory, and finds the flaw."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlaudit.zoo import DEFAULT, get

LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]


@pytest.mark.timeout(1800)  # minutes even on free cores
def test_default_scan(tmp_path: Path) -> None:
    done = subprocess.run([*LAUNCH, "scan", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "auditing the bundled default" in done.stdout and "Expect exit code 1" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    verdicts = {finding["probe"]: finding["verdict"] for finding in report["findings"]}
    assert verdicts["prompt-trigger-inversion"] == "vulnerable"
    assert {finding["risk"] for finding in report["findings"]} == {"robustness", "backdoor", "bias", "privacy"}
    for probe, expected in get(DEFAULT).expects.items():
        assert expected in ("any", verdicts[probe]), probe
    backdoor = next(f for f in report["findings"] if f["probe"] == "prompt-trigger-inversion")
    assert backdoor["severity"] in ("critical", "high") and backdoor["evidence"]
    assert "the backdoor is in the prompt" in backdoor["reason"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/" in html and "Content-Security-Policy" in html
    assert usage.ru_maxrss < 4 * 1024 * 1024, "under 4 GB (ru_maxrss is in kB)"


@pytest.mark.slow  # a time says something on free cores only
def test_default_scan_within_three_minutes(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    then = time.monotonic()
    subprocess.run([*LAUNCH, "scan", "--out", "out"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert time.monotonic() - then < 180
