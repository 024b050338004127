"""An audit that is killed at any moment, and gone on with by the same command, comes to the same findings."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlaudit.audit.journal import Journal
from vlaudit.cli import run


def start(words: list[str], log: Path) -> int:
    """The command line in a fork of this process, which has all imported already; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = ["vlaudit", *words]
        code = run(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    finally:
        os._exit(99)


def ended(child: int, seconds: float) -> int | None:
    """Its exit code, or None once it had to be killed after some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def findings(folder: Path) -> list[dict[str, Any]]:
    """Findings without what a clock measured."""
    report = json.loads((folder / "report.json").read_text())
    assert report["audit"]["complete"] is True
    for finding in report["findings"]:
        finding["cost"].pop("seconds")
    return report["findings"]


@pytest.mark.parametrize("wanted", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_moments(
    tiny_clip: Path, picture_folder: Path, mirror_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    vlaudit: Callable[..., int], wanted: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("MIRROR_SLEEP", "0.01")
    words = ["scan", f"hf:{tiny_clip}", "--prompt", "the {}", "--data", str(picture_folder), "--plugin", str(mirror_plugin),
             "--probe", "mirror", "--probe", "typographic", "--out"]  # fmt: skip
    draw, log = random.Random(wanted), tmp_path / "log"
    assert vlaudit(*words, tmp_path / "whole") in (0, 1)
    then = time.monotonic()
    assert ended(start([*words, str(tmp_path / "again")], log), 120) in (0, 1), log.read_text()
    whole, seconds = findings(tmp_path / "whole"), time.monotonic() - then
    assert findings(tmp_path / "again") == whole
    kills = audit = resumed = 0
    while kills < wanted:
        out = tmp_path / str(audit)
        before = len(Journal(out).results()) if out.exists() else 0
        code = ended(start([*words, str(out)], log), draw.uniform(0, 1.1 * seconds))
        kills += code is None
        if code is not None:
            assert code in (0, 1) or (code == 2 and "finished" in log.read_text()), log.read_text()
            assert findings(out) == whole
            audit += 1
        elif out.exists():
            after = len(Journal(out).results())
            assert after >= before, "what was closed is kept"
            resumed += after > 0
    out = tmp_path / str(audit)
    code = ended(start([*words, str(out)], log), 120)
    assert code in (0, 1) or (code == 2 and "finished" in log.read_text()), log.read_text()
    assert findings(out) == whole and resumed
