"""The newcomer's first command: `vlaudit scan` audits the bundled default within its time and memory, and finds the flaw."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from vlaudit.zoo import DEFAULT, get

LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]


def test_default_scan(tmp_path: Path) -> None:
    then, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
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
    assert backdoor["severity"] == "critical" and backdoor["reference"] is not None and backdoor["evidence"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/" in html and "Content-Security-Policy" in html
    assert usage.ru_maxrss < 4 * 1024 * 1024, "under 4 GB (ru_maxrss is in kB)"
    seconds, cpu = time.monotonic() - then, usage.ru_utime - before
    assert min(seconds, cpu / min(2, os.cpu_count() or 1)) < 180, (
        "within 3 minutes on 2 cores, other work beside it left out"
    )
