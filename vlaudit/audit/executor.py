"""Executors: how units of work are run.

The local one runs them in this process, one after the other. The process one forks workers of one thread each, which share the loaded
models: on a CPU, where more threads in one are slower. ``devices.py`` has a worker for each of several devices, ``ray_executor.py`` runs them
on a cluster.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vlaudit.audit.journal import Manifest, Unit, UnitResult
from vlaudit.audit.plan import Plan, compared_context, context
from vlaudit.cage import Phase, foreign_words, memory, say
from vlaudit.device import ALL
from vlaudit.errors import UsageError, VlauditError, ran_out_of_memory
from vlaudit.families.base import work_clock
from vlaudit.files import disk_error
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Cost, Trial

if TYPE_CHECKING:
    import torch

    from vlaudit.families.base import Speed, Target

NextUnit = Callable[[], Unit | None]
OnStart = Callable[[Unit], None]
OnMove = Callable[[Mapping[str, float]], None]
LOOK = 1.0  # seconds between two looks at how far the units are that run

BATCH = 128  # cases that probes take at once; what passes at once is what fits
MOST_PROCESSES = 1_000
UNIT_SECONDS, UNIT_FACTOR = 3600.0, 100.0  # a unit may take an hour, or so many times its estimate


@dataclass(frozen=True)
class Job:
    """What an executor is made for. ``site``: what a machine elsewhere needs to plan the same again. ``let_go``: takes the models
    out of the memory; who needs one loads it again."""

    plan: Plan
    artifacts: ArtifactStore
    batch_size: int | None = None
    debug: bool = False
    site: Site | None = None
    let_go: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Site:
    """An audit, told to a machine that knows nothing of it: its manifest as JSON, and what flags said beside it."""

    manifest: str
    plugins: tuple[str, ...] = ()
    device: str = "auto"
    devices: tuple[str, ...] = ()  # of this machine, where each is to have a worker of its own
    spread: bool = False
    folder: str = "."  # where relative paths begin, if it is there too
    allow_network: bool = False
    allow_borrowed: bool = False

    @classmethod
    def of(cls, manifest: Manifest, plugins: Iterable[Path], named: str, devices: Sequence[torch.device], **allowed: bool) -> Site:
        """``named``: what ``--device`` says, which stands for ``devices`` here."""
        files, apart = tuple(str(path.absolute()) for path in plugins), tuple(map(str, devices)) if len(devices) > 1 else ()
        return cls(manifest.model_dump_json(), files, named, apart, named == ALL, os.getcwd(), **allowed)


class Executor(ABC):
    """Runs units. All executors give the same results: a unit is a pure function of (subject, probe, cases, seed)."""

    workers = 1

    @classmethod
    @abstractmethod
    def of(cls, job: Job, argument: str) -> Executor:
        """The executor that ``--executor NAME:ARGUMENT`` names; ``argument`` may be empty. Raises UsageError."""

    @abstractmethod
    def run(
        self, next_unit: NextUnit, on_start: OnStart, on_move: OnMove, deadline: float | None = None
    ) -> Generator[UnitResult, None, None]:
        """Yield each unit's result as it closes, until ``next_unit`` has none left, or ``deadline`` (on the clock of
        ``time.monotonic``) is past. ``on_move`` is told now and then what share of each running unit is done, by its id.

        ``next_unit`` also says None while what comes next depends on units that are running; it is asked again after
        each result.
        """


class LocalExecutor(Executor):
    """One process, one device."""

    def __init__(self, plan: Plan, artifacts: ArtifactStore, batch_size: int | None, *, debug: bool = False) -> None:
        self._plan, self._artifacts, self._batch_size, self._debug = plan, artifacts, batch_size, debug
        self._spent: Callable[[], float] = float

    @classmethod
    def of(cls, job: Job, argument: str) -> LocalExecutor:
        if argument:
            raise UsageError("--executor local takes nothing more.", "Write --executor process:4 for several processes.")
        return cls(job.plan, job.artifacts, job.batch_size, debug=job.debug)

    def run(
        self, next_unit: NextUnit, on_start: OnStart, on_move: OnMove, deadline: float | None = None
    ) -> Generator[UnitResult, None, None]:
        while unit := next_unit():
            on_start(unit)
            say(phase=Phase.RUN, what=f"{unit.probe} on {unit.subject}", limit=longest(unit))  # nothing here can end it
            with _watched(partial(self._tell, unit.id, on_move)):
                result = self.close(unit)
            yield result

    def _tell(self, unit: str, on_move: OnMove) -> None:
        on_move({unit: self.share})

    def close(self, unit: Unit) -> UnitResult:
        """Run one unit."""
        target = self._plan.subject(unit).target
        self._spent = partial(_spent, target, target.meter.passed() if target else Cost(), self._plan.speed(unit), unit.weight)
        clock, then = work_clock(target.model if target else None), time.perf_counter()
        begun, before = clock(), self._passed(unit)
        trials, error = self._attempt(unit)
        work, seconds = round(clock() - begun, 3), round(time.perf_counter() - then, 3)
        return UnitResult(unit=unit.id, trials=trials, seconds=seconds, work=work, error=error, passed=self._passed(unit) - before)

    def _passed(self, unit: Unit) -> Cost:
        """What has passed through all that a unit looks at."""
        party = self._plan.parties.get(unit.id) or (self._plan.subject(unit),)
        targets = {id(subject.target): subject.target for subject in party if subject.target is not None}
        return sum((target.meter.passed() for target in targets.values()), Cost())

    @property
    def share(self) -> float:
        """Of the unit that runs, what is done: by the passes that its target has counted, against the estimate."""
        return self._spent()

    def _attempt(self, unit: Unit) -> tuple[list[Trial], str | None]:
        """Run a unit, and say why it failed where it did."""
        try:
            return self._trials(unit), None
        except VlauditError as error:
            return [], str(error)
        except ValidationError as error:
            return [], error.errors()[0]["msg"].removeprefix("Value error, ")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EROFS):
                raise disk_error(error, self._artifacts.folder) from error
            return [], f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a probe may raise anything, SystemExit too; it spoils only itself
            if ran_out_of_memory(error):
                return [], "out of memory beside the model's passes; give it a smaller --batch-size"
            if self._debug:
                raise
            return [], foreign_words(error)

    def _trials(self, unit: Unit) -> list[Trial]:
        subject = self._plan.subject(unit)
        party = self._plan.parties.get(unit.id, (subject,))
        for one in party:
            if one.target is not None and (one is subject or one.target.loaded):
                one.target.model.cut.most = self._batch_size
        share, size = self._plan.shares.get(unit.id, 1.0), self._batch_size or BATCH
        if len(party) > 1:
            ctx = compared_context(self._plan.request, party, unit.probe, self._artifacts, size, share)
        else:
            ctx = context(self._plan.request, subject, unit.probe, unit.arm, self._artifacts, size, share)
        ctx.start_clock()
        return list(self._plan.probes[unit.probe].attempt(ctx, self._plan.cases[unit.id]))


def _spent(target: Target | None, before: Cost, speed: Speed | None, weight: float) -> float:
    if target is None or speed is None or weight <= 0:
        return 0.0
    return min(speed.seconds(target.meter.passed() - before) / weight, 0.99)


@contextlib.contextmanager
def _watched(look: Callable[[], None]) -> Iterator[None]:
    """Look every second, in a thread of its own, while a unit runs in this one."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def longest(unit: Unit) -> float:
    """Seconds after which a unit is taken to hang."""
    return max(UNIT_SECONDS, UNIT_FACTOR * unit.weight)


class ProcessExecutor(Executor):
    """Workers forked from this process. Only the parent writes the journal; a worker that dies spoils only its unit."""

    def __init__(self, local: LocalExecutor, workers: int) -> None:
        self._local, self.workers = local, workers
        self._crew: list[Worker] = []

    @classmethod
    def of(cls, job: Job, argument: str) -> ProcessExecutor:
        """``argument``: how many processes."""
        if argument and not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= MOST_PROCESSES):
            raise UsageError(f"'{argument}' is no number of processes.", "Write for example --executor process:4.")
        subjects = [*job.plan.targets, *job.plan.references.values()]
        if not hasattr(os, "fork") or any(subject.target is not None and subject.target.device.type != "cpu" for subject in subjects):
            raise UsageError("Processes can share models only on the CPU of a Unix system.", "Leave --executor out, or add --device cpu.")
        return cls(LocalExecutor.of(job, ""), int(argument or job.plan.workers))

    def run(
        self, next_unit: NextUnit, on_start: OnStart, on_move: OnMove, deadline: float | None = None
    ) -> Generator[UnitResult, None, None]:
        say(phase=Phase.RUN)
        try:
            while True:
                for worker, unit in self._assigned(next_unit):
                    on_start(unit)
                    worker.begin(unit)
                if not self._busy:
                    return
                due = min(worker.until for worker in self._crew if worker.unit)
                until = due if deadline is None else min(due, deadline)
                ready = wait(
                    [worker.connection for worker in self._crew if worker.unit], min(LOOK, max(0.0, until - time.monotonic()))
                )
                if not ready:
                    on_move({worker.unit.id: worker.share.value for worker in self._crew if worker.unit})
                if not ready and deadline is not None and time.monotonic() >= deadline:
                    return
                for worker in self._crew:
                    if worker.unit and worker.until <= time.monotonic() and worker.connection not in ready:
                        worker.process.kill()  # what is read of it below is that it ended
                        ready.append(worker.connection)
                for worker in [worker for worker in self._crew if worker.connection in ready]:
                    result = worker.result()
                    if not worker.process.is_alive():
                        self._crew.remove(worker)
                    yield result
        finally:
            for worker in self._crew:
                worker.process.kill()
            for worker in self._crew:
                worker.process.join()
            self._crew.clear()

    @property
    def _busy(self) -> int:
        return sum(worker.unit is not None for worker in self._crew)

    def _assigned(self, next_unit: NextUnit) -> Iterator[tuple[Worker, Unit]]:
        """Units that can start, each with a worker that has nothing to do."""
        while self._busy < self.workers and (unit := next_unit()):
            yield self._idle(), unit

    def _idle(self) -> Worker:
        """A worker with nothing to do, forked if there is none yet."""
        for worker in self._crew:
            if worker.unit is None and worker.process.is_alive():
                return worker
        self._crew = [worker for worker in self._crew if worker.unit]
        worker = Worker("fork", _work, self._local, [other.connection for other in self._crew], self.workers)
        self._crew.append(worker)
        return worker


class Worker:
    """The parent's end of one worker, a process that was started by ``method`` and lives as ``life`` says."""

    def __init__(self, method: str, life: Callable[..., None], *given: object) -> None:
        context: Any = multiprocessing.get_context(method)
        self.connection, end = context.Pipe()
        self.unit: Unit | None = None
        self.until = 0.0  # when its unit is taken to hang
        self.share = context.RawValue("d", 0.0)  # of its unit that is done
        self.model = ""  # that it holds, where it loads its own
        self.process: BaseProcess = context.Process(target=life, args=(end, self.share, *given), daemon=True)
        with _interrupts_wait():  # Ctrl-C may reach the whole group; the parent decides
            self.process.start()
        end.close()  # so that a read ends when the worker does

    def begin(self, unit: Unit) -> None:
        self.unit, self.until, self.share.value = unit, time.monotonic() + longest(unit), 0.0
        with contextlib.suppress(OSError):  # it has died, as reading its result will tell
            self.connection.send((unit, self.model))

    def result(self) -> UnitResult:
        """Of the unit that was begun. Raises what the worker raised."""
        assert self.unit is not None
        unit, self.unit = self.unit, None
        try:
            said: UnitResult | VlauditError = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            if time.monotonic() >= self.until:
                return UnitResult(unit=unit.id, error=f"it did not end within {longest(unit):.0f} s")
            code = self.process.exitcode or 0
            how = f"was killed by signal {-code}, as happens when memory runs out" if code < 0 else f"ended with {code}"
            return UnitResult(unit=unit.id, error=f"the process that worked on it {how}")
        if isinstance(said, VlauditError):
            raise said
        return said


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """A process that is started meanwhile is born without them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, share: Any, local: LocalExecutor, foreign: list[Connection], sharers: int) -> None:
    """The life of a forked worker."""
    for other in foreign:
        other.close()
    serve(connection, share, sharers, lambda _: local)


def serve(connection: Connection, share: Any, sharers: int, executor_of: Callable[[str], LocalExecutor]) -> None:
    """A worker's life: units in, with the model that each needs, and results out, until the parent has gone."""
    import torch
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads did not survive a fork
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    memory.sharers = sharers
    with threadpool_limits(1):
        while True:
            try:
                unit, model = connection.recv()
                connection.send(_closed(unit, model, share, executor_of))
            except VlauditError as error:  # a full disk
                connection.send(error)
            except (EOFError, OSError):
                return


def _closed(unit: Unit, model: str, share: Any, executor_of: Callable[[str], LocalExecutor]) -> UnitResult:
    try:
        local = executor_of(model)
    except VlauditError as error:  # it cannot be loaded here, or has changed
        return UnitResult(unit=unit.id, error=str(error))
    with _watched(partial(_show, local, share)):
        return local.close(unit)


def _show(local: LocalExecutor, share: Any) -> None:
    share.value = local.share


def _end_with_parent() -> None:
    """A killed parent leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
