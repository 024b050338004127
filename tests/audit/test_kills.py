"""An audit that is killed at any moment, and gone on with by the same command, comes to the same findings."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.audit.reported import findings
from vlaudit.audit.journal import TRIALS, Journal
from vlaudit.cli import main

MAIN = "from vlaudit.cli import main; main()"


class Forked:
    """A supervised command in a fork of this process, which has imported all already: more of its time is work."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
                os.dup2(1, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                sys.argv = ["vlaudit", *words]
                main()
            except SystemExit as error:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(error.code if isinstance(error.code, int) else 99)
            finally:
                os._exit(99)

    def poll(self) -> int | None:
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    def wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("vlaudit", seconds)
            time.sleep(0.005)
        assert self.code is not None
        return self.code


def spawned(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command as a user starts it."""
    return subprocess.Popen([sys.executable, "-c", MAIN, *words], stdout=log.open("wb"), stderr=subprocess.STDOUT)


Start = Callable[[list[str], Path], Any]


def children(pid: int) -> list[int]:
    """The processes that one has started, and theirs."""
    with suppress(OSError, ValueError):
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return own + [each for child in own for each in children(child)]
    return []


def ends(process: Any, wait: float, journal: Path | None, draw: random.Random) -> tuple[int, bool]:
    """The exit code of a command of which some process is killed after some seconds, counted from the next unit in a journal if
    one is given: the supervisor, the one that does the work, or a worker of that. And whether one was killed."""
    before, deadline = size(journal), time.monotonic() + 120
    while journal and size(journal) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        return process.wait(wait), False
    killed = draw.choice([process.pid, *children(process.pid)])
    with suppress(ProcessLookupError):
        os.kill(killed, signal.SIGKILL)
    return process.wait(60), True


def size(journal: Path | None) -> int:
    return journal.stat().st_size if journal and journal.exists() else 0


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(
    ("start", "wanted"), [(spawned, 2), pytest.param(spawned, 20, marks=pytest.mark.slow), pytest.param(Forked, 100, marks=pytest.mark.slow)]
)
def test_kills_at_random_moments(
    tiny_clip: Path, picture_folder: Path, mirror_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start, wanted: int
) -> None:
    """Half of the moments are drawn from the whole time of a scan, half from the time in which it writes its journal."""
    monkeypatch.setenv("MIRROR_SLEEP", "0.05")
    words = ["scan", f"hf:{tiny_clip}", "--prompt", "the {}", "--data", str(picture_folder), "--plugin", str(mirror_plugin),
             "--probe", "mirror", "--probe", "typographic", "--out"]  # fmt: skip
    draw, log, then = random.Random(wanted), tmp_path / "log", time.monotonic()
    assert start([*words, str(tmp_path / "whole")], log).wait(120) in (0, 1), log.read_text()
    whole, seconds = findings(tmp_path / "whole"), time.monotonic() - then
    kills = audit = resumed = 0
    while kills < wanted or not audit:
        out = tmp_path / str(audit)
        before = len(Journal(out).results()) if out.exists() else 0
        writing = kills % 2 == 0
        wait = draw.uniform(0, 0.6 if writing else 1.1 * seconds) if kills < wanted else 120.0
        code, killed = ends(start([*words, str(out)], log), wait, out / TRIALS if writing else None, draw)
        kills, text = kills + killed, log.read_text()
        assert code in (0, 1, 2, 3, 4, -signal.SIGKILL) and "Traceback" not in text and "This is a bug" not in text, text
        assert code != 2 or "finished" in text, text
        if code in (0, 1, 2):
            assert findings(out) == whole
            audit += 1
        elif out.exists():
            after = len(Journal(out).results())
            assert after >= before, "what was closed is kept"
            resumed += after > 0
        if code == 3 and (out / "report.json").exists():  # none where the work was killed before it had said its folder
            assert json.loads((out / "report.json").read_text())["audit"]["complete"] is False
    print(f"{kills} kills, {audit} audits finished, {resumed} times with units kept, one scan {seconds:.1f} s")
    assert resumed
