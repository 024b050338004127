"""Which unit runs next: model after model, round after round of each probe, until it is decided or the time is up.

Who runs units asks for the next one and says when one has closed. Both take a time that does not hang on how many units there are.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from vlaudit.audit.journal import PlannedProbe, Unit, UnitResult
from vlaudit.audit.judge import is_decided, rounds_of
from vlaudit.audit.plan import Plan
from vlaudit.audit.time_left import TimeLeft


@dataclass
class _Course:
    """One probe on one target on its way through its rounds."""

    planned: PlannedProbe
    rounds: list[list[Unit]]
    at: int = -1
    waiting: set[str] = field(default_factory=set)  # units of this round that have not closed
    unhanded: deque[Unit] = field(default_factory=deque)  # those of them that nobody was given, as far as is known


class Schedule:
    """Units still to run. ``results``: of those that have closed, by id; whoever adds to it says so with :meth:`close`."""

    def __init__(self, plan: Plan, results: dict[str, UnitResult], deadline: float | None, clock: TimeLeft) -> None:
        self._plan, self._results, self._deadline, self._clock = plan, results, deadline, clock
        models = {target.id: target.spec.model for target in plan.targets}
        places = {model: place for place, model in reversed(list(enumerate(models.values())))}

        def turn(planned: PlannedProbe) -> tuple[int, float]:
            """Model after model; what takes longest first, so that workers end together, but where time may run out what takes least."""
            return places[models[planned.target]], sum(unit.weight for unit in planned.units) * (-1 if deadline is None else 1)

        self._courses = [_Course(planned, rounds_of(planned)) for planned in sorted(plan.planned, key=turn)]
        self._handed: set[str] = set()
        self._ready: list[int] = []  # heap: places of courses that have units to hand out
        self._waiters: dict[str, list[int]] = defaultdict(list)  # places of the courses that wait for a unit
        self._needed = Counter(unit.id for course in self._courses for unit in course.planned.units)  # by how many courses
        for place in range(len(self._courses)):
            self._go_on(place)

    def next(self) -> Unit | None:
        """The next unit that can start; None where none is left, or none before one that runs has closed."""
        while self._ready:
            course = self._courses[self._ready[0]]
            while course.unhanded:
                unit = course.unhanded.popleft()
                if unit.id in self._handed or unit.id in self._results:
                    continue
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._ready.clear()
                    return None
                self._handed.add(unit.id)
                return unit
            heapq.heappop(self._ready)
        return None

    def close(self, unit: str) -> None:
        """A unit has closed, and its result is there."""
        for place in self._waiters.pop(unit, ()):
            course = self._courses[place]
            course.waiting.discard(unit)
            if not course.waiting:
                self._go_on(place)

    def _go_on(self, place: int) -> None:
        """To the next round of a course in which something is left to run, or to its end."""
        course = self._courses[place]
        while not course.waiting:
            if (course.at >= 0 and self._ends(course)) or course.at + 1 == len(course.rounds):
                over = [unit.id for unit in course.planned.units]
                self._needed.subtract(over)
                self._clock.drop(unit for unit in over if not self._needed[unit])
                return
            course.at += 1
            left = [unit for unit in course.rounds[course.at] if unit.id not in self._results]
            course.waiting, course.unhanded = {unit.id for unit in left}, deque(left)
        for unit in course.waiting:
            self._waiters[unit].append(place)
        heapq.heappush(self._ready, place)

    def _ends(self, course: _Course) -> bool:
        """Whether no round counts after this one, all of whose units have closed."""
        probe, rounds = self._plan.probes[course.planned.probe], course.rounds[: course.at + 1]
        failed = any(self._results[unit.id].error for unit in rounds[-1])
        return failed or (len(rounds) < len(course.rounds) and is_decided(probe, course.planned, rounds, self._results, self._plan.request.policy))
