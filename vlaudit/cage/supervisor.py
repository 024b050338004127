"""The parent of the process that does the work: it keeps time and memory, hands signals on, and decides the exit code.

The work runs in a forked process, in a group of its own, without network (see ``network.py``). 0 and 1 are given only where that
process said so itself after its last step: whatever else ends it, be it ``os._exit`` in a plugin, a crash, a signal or the kernel, is
another code. Where a scan ends without a report, the same command runs once more to write one of what is there: it loads no model
then (``cage.ended`` says why), and if it cannot end either, once more without any judge.

Without ``os.fork`` (Windows) the work runs in this process, and nothing bounds it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vlaudit import cage
from vlaudit.cage import Ended, Phase, memory, network

JUDGING = 4.0  # seconds after --max-time in which a scan judges what it has and writes its report
ORDER = 10.0  # seconds in which a process that was sent a signal ends by itself
AGAIN = 0.5  # seconds after which a signal that it has not noticed is sent once more
LAST = 4.5  # seconds that are left for a report without judges, and for a process that has said its code
MEMORY_SHARE = 0.9  # of the memory that is free at the start: what the work may take
GRACE = {Phase.RUN: 1.0, Phase.JUDGE: JUDGING}  # seconds after --max-time in which it may end in order
USAGE, UNFINISHED, NOT_LOADED, INTERRUPTED = 2, 3, 4, 130
PASSED_ON = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def supervise(work: Callable[[], int]) -> int:
    """Run ``work``, which returns an exit code, in a process of its own, and return the code to exit with."""
    if not hasattr(os, "fork"):
        network.close()
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    ceiling = int(MEMORY_SHARE * memory.free())
    with _Signals() as signals:
        first = _Child(work, ceiling)
        first.watch(signals)
        if first.settled:
            return first.code
        end = first.end(signals)
        if not first.has_said:
            _say(end.reason)
        if first.folder is not None:
            tries = ((False, JUDGING), (True, LAST)) if first.phase is not Phase.JUDGE else ((True, LAST),)
            for only_say, seconds in tries:
                signals.since = None
                ended = Ended(end.reason, first.folder, end.loading, end.interrupted, only_say, first.known)
                then = _Child(work, ceiling, ended, time.monotonic() + seconds)
                then.watch(signals)
                if then.report:
                    return then.code if then.settled else end.code
        return end.code


@dataclass(frozen=True)
class _End:
    """How a process ended that did not say its code, and the code for that."""

    reason: str
    code: int
    loading: bool
    interrupted: bool = False


class _Child:
    """A forked process that does the work, and what it has said."""

    def __init__(self, work: Callable[[], int], ceiling: int, ended: Ended | None = None, until: float | None = None) -> None:
        self.phase, self.what, self.folder = Phase.START, "", ended.folder if ended else None
        self.report, self.known = False, dict[str, str]()
        self._code: int | None = None
        self._limit: float | None = None  # end of what it is at
        self._until = until  # end of the whole
        self._firm = until is not None
        self._killed = ""  # why this process killed it
        self._sent, self._noticed = 0.0, False  # when it was last sent a signal, and whether it said so
        self._ceiling, self._status = ceiling, 0
        self._unread = b""
        self._pipe, end = os.pipe()
        parent = os.getpid()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what leaves its parent stays in this family (Linux)
        self._others = set(memory.family(parent))
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until each of the two has its handlers
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            memory.bounded(ceiling)
            _be_child(work, end, parent, ended)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.close(end)
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)  # here too: whichever comes first

    # --- what it said -------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether it ended by itself: it said a code, and a scan has written its report, unless it was used wrongly."""
        return self._code is not None and (self.folder is None or self.report or self._code in (USAGE, NOT_LOADED))

    @property
    def has_said(self) -> bool:
        """Whether it told the user itself how it ended."""
        return self._code is not None

    @property
    def code(self) -> int:
        assert self._code is not None
        return self._code

    def _hear(self, news: dict[str, Any]) -> None:
        if "phase" in news:
            self.phase, self.what = Phase(news["phase"]), str(news.get("what", ""))
            self._limit = time.monotonic() + float(news["limit"]) if news.get("limit") else None
        if news.get("folder"):
            self.folder = str(news["folder"])
        if news.get("until") and not self._firm:
            self._until = float(news["until"])
        self.known |= news.get("known", {})
        self.report = self.report or bool(news.get("report"))
        self._noticed = self._noticed or bool(news.get("noticed"))
        if "code" in news:
            self._code = int(news["code"])

    def _read(self) -> bool:
        """Take in what it says; False at the end of it."""
        with suppress(OSError):
            if not (content := os.read(self._pipe, 65536)):
                return False
            *lines, self._unread = (self._unread + content).split(b"\n")
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):  # a plugin may write anything here; that is no news
                    self._hear(json.loads(line))
        return True

    # --- its life -----------------------------------------------------------------------------------------------------

    def watch(self, signals: _Signals) -> None:
        """Until it has ended: hand signals on, and kill it when its time or its memory is up."""
        signals.child = self
        look = 0.0
        while True:
            ready, _, _ = select.select([self._pipe, signals.wakes], [], [], self._patience())
            if signals.wakes in ready:
                signals.drain()
            if self._pipe in ready:
                self._read()
            if self._has_ended():
                break
            now = time.monotonic()
            self._check_time(now, signals)
            if now >= look:
                look = now + 0.5
                self._check_memory()
        self._kill_all()  # what it has left behind
        while select.select([self._pipe], [], [], 0)[0] and self._read():
            pass
        os.close(self._pipe)

    def _patience(self) -> float:
        """Seconds until something is due; never more than one between two looks at its memory."""
        due = [moment for moment in (self._limit, self._until) if moment is not None]
        return min(0.5, max(0.05, min(due) - time.monotonic())) if due else 0.5

    def _has_ended(self) -> bool:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return True
        self._status = status if pid else 0
        return pid != 0

    def _check_time(self, now: float, signals: _Signals) -> None:
        if self._code is not None:  # it has nothing left to do
            self._limit = None
            self._until = min(self._until or now + LAST, now + LAST)
            self._firm = True
        if signals.since is not None and not self._noticed and now > self._sent + AGAIN:
            # It came before there was a child, or between two steps of its interpreter, where a call that waits would sleep on.
            self.send(signal.SIGINT)
        if signals.since is not None and now > signals.since + ORDER:
            self.kill("it was interrupted")
        elif self._limit is not None and now > self._limit:
            self.kill(f"{self.what} did not end in the time that it may take")
        elif self._until is not None:
            grace = 0.0 if self._firm else GRACE.get(self.phase, 0.0)
            if now > self._until + grace:
                self.kill("the time of --max-time is up" if not self._firm else "judging did not end")

    def _check_memory(self) -> None:
        sizes = {pid: memory.resident(pid) for pid in memory.family(self.pid)}
        if sum(sizes.values()) > self._ceiling:
            largest = max(sizes, key=lambda pid: sizes[pid])
            if largest == self.pid:
                self.kill(f"it took more than {self._ceiling / 1e9:.1f} GB of memory")
            else:  # a worker: its unit fails, the others go on
                with suppress(OSError):
                    os.kill(largest, signal.SIGKILL)

    def kill(self, why: str) -> None:
        self._killed = self._killed or why
        self._kill_all()

    def _kill_all(self) -> None:
        """Kill its group, and what has left the group."""
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in set(memory.family(os.getpid())) - self._others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def send(self, number: int) -> None:
        self._sent = time.monotonic()
        with suppress(OSError):
            os.kill(self.pid, number)

    def end(self, signals: _Signals) -> _End:
        """How it ended, where it did not settle."""
        loading = self.phase in (Phase.START, Phase.LOAD) and self.folder is not None
        at = f" while {self.what} was {'loaded' if loading else 'worked on'}" if self.what else ""
        if signals.since is not None or self._code == INTERRUPTED:
            return _End(f"interrupted{at}", INTERRUPTED, loading, interrupted=True)
        code = NOT_LOADED if loading else UNFINISHED
        if self._killed:
            return _End(f"{self._killed}{at if self.what not in self._killed else ''}", code, loading)
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            hint = ", as happens when memory runs out" if number == signal.SIGKILL else ""
            return _End(f"the process was killed by signal {number}{hint}{at}", code, loading)
        if self.has_said:
            return _End("the scan failed", code, loading)
        return _End(f"foreign code ended the process{at}", code, loading)


def _be_child(work: Callable[[], int], pipe: int, parent: int, ended: Ended | None) -> None:
    """The child's whole life."""
    code = UNFINISHED
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        _end_with(parent)
        for number in (signal.SIGTTOU, signal.SIGTTIN):
            signal.signal(number, signal.SIG_IGN)  # it is no part of the terminal's own group, and may write there
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTSTP):
            signal.signal(number, signal.SIG_DFL)
        interrupt = _interrupt_once()
        for number in PASSED_ON:
            signal.signal(number, interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        cage.connect(pipe)
        cage.ended = ended
        network.close()
        code = work()
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        cage.say(code=code)
        os._exit(code)


def _interrupt_once() -> Callable[[int, object], None]:
    """A handler that raises KeyboardInterrupt for the first signal. Later ones are that signal sent again, to a process that had no
    turn in the meantime: they would interrupt what ends it in order. (A second one of the user's kills, and is never passed on.)"""
    noticed = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal noticed
        if not noticed:
            noticed = True
            cage.say(noticed=True)
            raise KeyboardInterrupt

    return interrupt


def _end_with(parent: int) -> None:
    """Be killed when the parent is, so that nothing works on in an audit folder that nobody waits for (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(UNFINISHED)


class _Signals:
    """Signals to this process go on to the child; a second one kills it. SIGTERM and SIGHUP count as Ctrl-C."""

    def __init__(self) -> None:
        self.child: _Child | None = None
        self.since: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.wakes, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self.wakes, False)
        self._fd = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background
                self._before[number] = signal.signal(number, self._pass_on)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._pause)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.wakes)
        os.close(self._wake)

    def drain(self) -> None:
        with suppress(OSError):
            os.read(self.wakes, 4096)

    def _pass_on(self, number: int, _frame: object) -> None:
        again, self.since = self.since is not None, self.since or time.monotonic()
        if self.child is not None:
            self.child.kill("it was interrupted") if again else self.child.send(number)

    def _pause(self, _number: int, _frame: object) -> None:
        group = self.child.pid if self.child is not None else None
        for number in (signal.SIGSTOP, signal.SIGCONT):
            with suppress(OSError):
                if group is not None:
                    os.killpg(group, number)
            if number == signal.SIGSTOP:
                os.kill(os.getpid(), number)  # goes on here after SIGCONT


def _say(reason: str) -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h\n")  # a progress bar that was killed had hidden the cursor
        sys.stdout.flush()
    sys.stderr.write(f"Stopped: {reason[:600]}.\n")
    sys.stderr.flush()
