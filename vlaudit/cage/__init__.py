"""Strangers' models, templates, patterns and plugins run in a process that has no network and can be killed.

``supervisor.py`` is the parent: it forks the process that does the work, keeps its time and its memory, and decides the exit code.
This module is what the work says to it. ``network.py`` closes the network in it, ``cell.py`` bounds a single call within it.
Nothing here imports anything heavy, and nothing here knows what the work is.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vlaudit.errors import VlauditError


class Phase(StrEnum):
    """What the work is at. Time may stop it at once in all but the last, in which it ends by itself."""

    START = "start"
    LOAD = "load"
    RUN = "run"
    JUDGE = "judge"


@dataclass(frozen=True)
class Ended:
    """Why the work was ended before it had ended itself, for the process that makes a report of what is left of it."""

    reason: str  # a sentence without its full stop
    folder: str | None  # of the audit that had begun
    loading: bool  # whether no model was ready yet
    interrupted: bool  # by a signal; the report ends with 130
    only_say: bool  # judging was ended too: no judge and no plugin may run again
    known: dict[str, str]  # what the work had found out: the family of each model


ended: Ended | None = None
"""In the process that follows one that was ended: why. Elsewhere null."""

_pipe: int | None = None


def connect(pipe: int) -> None:
    """From now on this process speaks to the parent that holds the other end."""
    global _pipe
    _pipe = pipe


def say(**news: Any) -> None:
    """Tell the parent, if there is one: ``phase``, ``what`` (is worked on), ``limit`` (seconds that may take), ``folder`` (of the
    audit), ``until`` (when it has to have ended, on the clock of ``time.monotonic``), ``known`` (see ``Ended``), ``report`` (one is
    written), ``code`` (to exit with)."""
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.write(_pipe, json.dumps(news).encode() + b"\n")


def foreign_words(error: BaseException) -> str:
    """What foreign code says when it fails, in one line: its class and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.rstrip('.')}" if first else type(error).__name__


class Stopped(VlauditError):
    """A call in a cell took too long or too much memory. The message completes a sentence that begins with what was called."""
