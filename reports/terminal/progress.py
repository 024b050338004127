"""Progress of a scan: a live bar with the time left on a terminal, a few plain lines in a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from vlaudit.reporting import duration, log_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_SECONDS = 30.0  # a log gets a line after this time or after a tenth of the work, whichever comes first


class ScanProgress(Protocol):
    """What a scan reports while it runs."""

    def start(self, seconds_left: float) -> None:
        """The scan begins, and is estimated to take so long."""

    def unit_started(self, label: str) -> None:
        """A unit of work begins; ``label`` names its target, probe and arm."""

    def moved(self, share: float, seconds_left: float) -> None:
        """So much of all work is done: told when a unit ends, and now and then within one."""

    def note(self, text: str) -> None:
        """Something the user should see now: a smaller batch, a resumed journal."""

    def stop(self) -> None:
        """The scan ended, in whatever way."""


def scan_progress(console: Console, task: str = "scan") -> ScanProgress:
    """The live display on a terminal, else lines that begin with the ``task``."""
    return LiveProgress(console) if console.is_terminal else LineProgress(console, task)


def _left(seconds: float) -> str:
    return f"about {duration(max(seconds, 1.0))} left"


class LiveProgress:
    """A bar, the unit at work and the time left, on the last line of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, seconds_left: float) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.description}", markup=False, style="dim"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("preparing", total=1.0, left=_left(seconds_left))
        self._bar.start()

    def unit_started(self, label: str) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=log_line(label, 60))

    def moved(self, share: float, seconds_left: float) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=share, left=_left(seconds_left))

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(log_line(text)))

    def stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class LineProgress:
    """A line at the start, now and then, and at the end."""

    def __init__(self, console: Console, task: str = "scan") -> None:
        self._console, self._task = console, task
        self._label = ""
        self._started = self._last_line = time.monotonic()
        self._last_tenth = 0

    def start(self, seconds_left: float) -> None:
        self._started = self._last_line = time.monotonic()
        self.note(f"{self._task}: started, {_left(seconds_left)}")

    def unit_started(self, label: str) -> None:
        self._label = label

    def moved(self, share: float, seconds_left: float) -> None:
        now, tenth = time.monotonic(), int(10 * share + 1e-9)
        if now - self._last_line >= LINE_SECONDS or tenth > self._last_tenth:
            self._last_line, self._last_tenth = now, tenth
            self.note(f"{self._task}: {share:.0%}, {_left(seconds_left)}; last begun: {self._label}")

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(log_line(text)), soft_wrap=True)

    def stop(self) -> None:
        self.note(f"{self._task}: ended after {duration(time.monotonic() - self._started)}")
