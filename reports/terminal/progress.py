"""Progress of a scan: a live bar with the time left on a terminal, a few plain lines in a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from vlaudit.reporting import duration, log_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PRIOR_SHARE = 0.05  # the estimate before the start counts like this share of the work, measured
LINE_SECONDS = 30.0  # a log gets a line after this time or after a tenth of the work, whichever comes first


class ScanProgress(Protocol):
    """What a scan reports while it runs. Units may carry a weight, such as the seconds each is estimated to take;
    ``total_units`` is then the sum of the weights."""

    def start(self, total_units: float, estimate_seconds: float | None) -> None:
        """The scan begins; ``estimate_seconds`` is the whole scan's, from a calibration, or None."""

    def unit_started(self, label: str) -> None:
        """A unit of work begins; ``label`` names its target, probe and arm."""

    def unit_done(self, seconds: float, weight: float = 1.0) -> None:
        """A unit ended after ``seconds``."""

    def note(self, text: str) -> None:
        """Something the user should see now: a smaller batch, a resumed journal."""

    def stop(self) -> None:
        """The scan ended, in whatever way."""


def scan_progress(console: Console, task: str = "scan") -> ScanProgress:
    """The live display on a terminal, else lines that begin with the ``task``."""
    return LiveProgress(console) if console.is_terminal else LineProgress(console, task)


class TimeLeft:
    """Seconds left, from the measured seconds per weight and the estimate before, which fades as units end."""

    def __init__(self, total: float, estimate_seconds: float | None) -> None:
        self.total = total
        self.done = 0.0
        self._seconds = 0.0
        self._prior = estimate_seconds / total if estimate_seconds is not None and total > 0 else None

    def add(self, seconds: float, weight: float) -> None:
        self.done += weight
        self._seconds += seconds

    @property
    def seconds(self) -> float | None:
        """None while nothing is known."""
        worth = PRIOR_SHARE * self.total if self._prior is not None else 0.0
        if self.done + worth == 0:
            return None
        rate = (self._seconds + worth * (self._prior or 0.0)) / (self.done + worth)
        return rate * max(self.total - self.done, 0.0)

    def __str__(self) -> str:
        return "time left unknown" if self.seconds is None else f"about {duration(max(self.seconds, 1.0))} left"


class LiveProgress:
    """A bar, the unit at work and the time left, on the last line of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._left = TimeLeft(0, None)

    def start(self, total_units: float, estimate_seconds: float | None) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._left = TimeLeft(total_units, estimate_seconds)
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
        self._task = self._bar.add_task("preparing", total=total_units, left=str(self._left))
        self._bar.start()

    def unit_started(self, label: str) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=log_line(label, 60))

    def unit_done(self, seconds: float, weight: float = 1.0) -> None:
        self._left.add(seconds, weight)
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=weight, left=str(self._left))

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
        self._left = TimeLeft(0, None)
        self._label = ""
        self._started = self._last_line = time.monotonic()
        self._last_tenth = 0

    def start(self, total_units: float, estimate_seconds: float | None) -> None:
        self._left = TimeLeft(total_units, estimate_seconds)
        self._started = self._last_line = time.monotonic()
        self.note(f"{self._task}: started, {self._left}")

    def unit_started(self, label: str) -> None:
        self._label = label

    def unit_done(self, seconds: float, weight: float = 1.0) -> None:
        self._left.add(seconds, weight)
        share = self._left.done / self._left.total if self._left.total else 1.0
        now, tenth = time.monotonic(), int(10 * share + 1e-9)
        if now - self._last_line >= LINE_SECONDS or tenth > self._last_tenth:
            self._last_line, self._last_tenth = now, tenth
            self.note(f"{self._task}: {share:.0%}, {self._left}; last done: {self._label}")

    def note(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(log_line(text)), soft_wrap=True)

    def stop(self) -> None:
        self.note(f"{self._task}: ended after {duration(time.monotonic() - self._started)}")
