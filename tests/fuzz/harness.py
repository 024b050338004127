"""How many inputs the fuzz tests try, and what must hold of each."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from unittest import mock

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from vlaudit.cli import run
from vlaudit.errors import VlauditError

TOTAL = int(os.environ.get("VLAUDIT_FUZZ", "400"))  # inputs of all kinds together
SECONDS = 20.0  # longest time for one input
SEEDS = st.integers(0, 2**64 - 1)  # of one input each


def share(part: float) -> settings:
    """A test of this part of all inputs, the same ones every time."""
    return settings(
        max_examples=max(round(part * TOTAL), 3), derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


class TooSlow(BaseException):
    """Raised into an input that does not end."""


@contextlib.contextmanager
def little_memory(more: int = 6 * 2**30) -> Iterator[None]:
    """No more address space than now and ``more`` bytes: what asks for terabytes is refused, not given by and by."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def hostile(seed: int) -> Iterator[tuple[Random, Path]]:
    """The randomness of one input, an empty folder, and an end."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"not done within {SECONDS:g} s")

    place, start = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Random(seed), place
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(place, ignore_errors=True)
    assert time.monotonic() - start < SECONDS, "an input took too long, and what stopped it was caught"


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What a reader may raise: one sentence, with code 2 or 4."""
    try:
        yield
    except VlauditError as error:
        assert error.exit_code in (2, 4) and error.message, error


def command(*words: object, codes: tuple[int, ...] = (0, 1, 2, 3, 4)) -> int:
    """The exit code of a command line, run in this process. It is a documented one, and nothing printed is a traceback."""
    arguments, said = [str(word) for word in words], io.StringIO()
    with (
        contextlib.redirect_stdout(said), contextlib.redirect_stderr(said),
        mock.patch.object(sys, "argv", ["vlaudit", *arguments]),
    ):  # fmt: skip
        code = run(arguments)
    text = said.getvalue()
    assert code in codes and "This is a bug" not in text and "Traceback" not in text, f"code {code}: {text[-3_000:]}"
    assert code not in (2, 4) or "Error: " in text or "not-assessed" in text or "not assessed" in text, text[-3_000:]
    return code
