"""The newcomer's first command: `vlaudit scan` audits a specimen of each family within its time and memory, and finds
what is planted in each."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patience
from vlaudit.cli.asked import read_flags
from vlaudit.cli.scan import scan_command
from vlaudit.registry import ProbeRegistry
from vlaudit.zoo import DEFAULTS, FIRST_LOOK, get

REGISTRY = ProbeRegistry.load()
LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]
PLANTED = [probe for name in DEFAULTS for probe, said in get(name).expects.items() if said == "vulnerable"]


def scan(folder: Path, *flags: str) -> tuple[str, dict[str, dict[str, Any]], str]:
    """What the command prints, the findings by specimen and probe, and the page."""
    done = subprocess.run(
        [*LAUNCH, "scan", "--out", "out", *flags], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((folder / "out" / "report.json").read_text())
    specimens = {target["id"]: target["model"]["spec"].removeprefix("zoo:") for target in report["targets"]}
    assert sorted(specimens.values()) == sorted(DEFAULTS)
    found: dict[str, dict[str, Any]] = {name: {} for name in DEFAULTS}
    for finding in report["findings"]:
        found[specimens[finding["target"]]][finding["probe"]] = finding
    return done.stdout, found, (folder / "out" / "report.html").read_text()


@pytest.mark.timeout(1800)  # minutes even on free cores
def test_the_default_scan_finds_what_is_planted_in_each_family(tmp_path: Path) -> None:
    printed, found, html = scan(tmp_path)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "No target given" in printed and "Expect exit code 1: encoder-trigger-scan, " in printed
    assert printed.count(f"A first look: {len(FIRST_LOOK)} of ") == 2 and "shortened: encoder-trigger-scan (words = 400);" in printed
    assert printed.count("--effort quick runs all in full") == 2, "before and after"
    assert f"Of {len(PLANTED)} planted flaws {len(PLANTED)} were found" in printed
    assert {one["risk"] for own in found.values() for one in own.values()} == {"robustness", "backdoor", "bias", "privacy"}
    for name in DEFAULTS:
        for probe, said in get(name).expects.items():
            if probe in PLANTED and said == "vulnerable":
                assert found[name][probe]["verdict"] == "vulnerable", (name, probe)
                assert found[name][probe]["evidence"]
    assert {probe for own in found.values() for probe in own} == set(FIRST_LOOK)
    assert found["tiny-backdoor"]["prompt-trigger-inversion"]["severity"] in ("critical", "high")
    assert "data:image/" in html and "Content-Security-Policy" in html
    assert usage.ru_maxrss < 4 * 1024 * 1024, "under 4 GB (ru_maxrss is in kB)"


@pytest.mark.slow  # a time says something on free cores only
@pytest.mark.timeout(1800)
def test_a_first_scan_within_ninety_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    then = time.monotonic()
    scan(tmp_path)
    assert time.monotonic() - then < patience(90)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_probes_on_the_default_specimens_within_eight_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    then = time.monotonic()
    _, found, _ = scan(tmp_path, "--effort", "quick")
    assert time.monotonic() - then < patience(480)
    for name in DEFAULTS:
        for probe, said in get(name).expects.items():
            assert said in ("any", found[name][probe]["verdict"]), (name, probe)
        assert {finding["risk"] for finding in found[name].values()} == {"robustness", "backdoor", "bias", "privacy"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("specimen", DEFAULTS)
def test_one_specimen_within_three_minutes(tmp_path: Path, specimen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    then = time.monotonic()
    subprocess.run([*LAUNCH, "scan", f"zoo:{specimen}"], cwd=tmp_path, capture_output=True, check=False)
    assert time.monotonic() - then < patience(180)


@pytest.mark.parametrize(
    "flags, probes, words",
    [
        ([], len(FIRST_LOOK), 400),
        (["--set", "encoder-trigger-scan.words=900"], len(FIRST_LOOK), 900),  # the user's own wins
        (["--skip", "encoder-trigger-scan"], len(FIRST_LOOK) - 1, None),
        (["--effort", "quick"], len(REGISTRY.classes), None),
        (["--probe", "encoder-trigger-scan"], 1, None),
        (["zoo:t2i-backdoor-encoder"], len(REGISTRY.classes), None),
    ],
)
def test_only_a_first_look_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], probes: int, words: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = read_flags(scan_command.make_context("scan", list(flags)).params).request(REGISTRY)
    assert len(asked.probes) == probes
    assert asked.params.get("encoder-trigger-scan", {}).get("words") == words and (words is not None or "--skip" in flags or not asked.params)


def test_nothing_planted_is_announced_that_no_chosen_probe_looks_for(
    tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vlaudit("scan", "--dry-run", "--probe", "unsafe-file", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "Expect" not in printed and "A first look" not in printed
