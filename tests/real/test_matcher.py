"""The quick scan of a matcher that people could ship: a web-scale image tower at 224 pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(4 * 3600)]
MINUTES = 30


@pytest.fixture(scope="module")
def scanned(real_matcher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """Findings by probe, and the seconds that the scan took."""
    out = tmp_path_factory.mktemp("real") / "out"
    command = [sys.executable, "-m", "vlaudit", "scan", f"hf:{real_matcher / 'model'}", "--data", str(real_matcher / "data")]
    command += ["--group", "gender", "--group", "tone", "--budget", f"{MINUTES}m", "--fail-on", "none", "--out", str(out)]
    then = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {finding["probe"]: finding for finding in report["findings"]}, time.monotonic() - then


def test_the_scan_ends_in_its_time(scanned: tuple[dict[str, Any], float]) -> None:
    assert scanned[1] < 1.5 * 60 * MINUTES


def test_weights_that_nobody_poisoned_are_not_accused(scanned: tuple[dict[str, Any], float]) -> None:
    for probe in ("prompt-trigger-inversion", "encoder-trigger-inversion", "unsafe-file"):
        assert scanned[0][probe]["verdict"] != "vulnerable", scanned[0][probe]["reason"]


def test_it_is_not_robust_and_bias_is_measured(scanned: tuple[dict[str, Any], float]) -> None:
    found = scanned[0]
    assert found["clip-autoattack"]["verdict"] in ("vulnerable", "inconclusive")
    for probe in ("rank-skew", "group-performance"):
        assert found[probe]["metric"] is not None or found[probe]["verdict"] == "inconclusive", found[probe]["reason"]


def test_what_was_not_reached_is_named(scanned: tuple[dict[str, Any], float]) -> None:
    assert all(finding["reason"] for finding in scanned[0].values() if finding["verdict"] in ("inconclusive", "not-assessed"))
