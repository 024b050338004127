"""Executors: how units of work are run. The local one runs them in this process, one after the other."""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from pydantic import ValidationError

from vlaudit.audit.context import ArtifactStore
from vlaudit.audit.journal import Unit, UnitResult, disk_error
from vlaudit.audit.plan import Plan, context
from vlaudit.errors import VlauditError
from vlaudit.records import Trial

OnStart = Callable[[Unit], None]


class Executor(ABC):
    """Runs units. All executors give the same results: a unit is a pure function of (subject, probe, cases, seed)."""

    @abstractmethod
    def run(self, units: Iterable[Unit], on_start: OnStart) -> Iterator[UnitResult]:
        """Yield each unit's result as it closes."""


class LocalExecutor(Executor):
    """One process, one device."""

    def __init__(self, plan: Plan, artifacts: ArtifactStore, batch_size: int, *, debug: bool = False) -> None:
        self._plan, self._artifacts, self._batch_size, self._debug = plan, artifacts, batch_size, debug

    def run(self, units: Iterable[Unit], on_start: OnStart) -> Iterator[UnitResult]:
        for unit in units:
            on_start(unit)
            then = time.perf_counter()
            trials, error = self._attempt(unit)
            yield UnitResult(unit=unit.id, trials=trials, seconds=round(time.perf_counter() - then, 3), error=error)

    def _attempt(self, unit: Unit) -> tuple[list[Trial], str | None]:
        """Run a unit; when memory runs out, again with half the batch, down to one picture."""
        batch_size = self._batch_size
        while True:
            try:
                return self._trials(unit, batch_size), None
            except MemoryError as error:
                reason = f"out of memory with a batch of {batch_size}: {error}"
            except VlauditError as error:
                return [], str(error)
            except ValidationError as error:
                return [], error.errors()[0]["msg"].removeprefix("Value error, ")
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EROFS):
                    raise disk_error(error, self._artifacts.folder) from error
                return [], f"{type(error).__name__}: {error}"
            except Exception as error:  # a probe may raise anything; it spoils only itself
                if not _is_out_of_memory(error):
                    if self._debug:
                        raise
                    return [], f"{type(error).__name__}: {error}"
                reason = f"out of memory with a batch of {batch_size}"
            if batch_size == 1:
                return [], reason
            batch_size //= 2

    def _trials(self, unit: Unit, batch_size: int) -> list[Trial]:
        subject = self._plan.subject(unit)
        ctx = context(self._plan.request, subject, unit.probe, unit.arm, self._artifacts, batch_size)
        ctx.start_clock()
        return list(self._plan.probes[unit.probe].attempt(ctx, self._plan.cases[unit.id]))


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
