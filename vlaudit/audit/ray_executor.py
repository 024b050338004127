"""Units on a cluster of Ray (https://docs.ray.io): ``--executor ray[:ADDRESS]``.

Actors are stations (see ``station.py``); a unit's evidence comes back with its trials. An actor whose machine vanishes is started
elsewhere by Ray, and its unit is tried there again. The journal is written here alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vlaudit.audit.executor import LOOK, Executor, Job, NextUnit, OnMove, OnStart, Site, longest
from vlaudit.audit.journal import Unit, UnitResult
from vlaudit.audit.station import Station, Waiting
from vlaudit.cage import Phase, foreign_words, say
from vlaudit.errors import UsageError, VlauditError, first_line
from vlaudit.files import write_atomically
from vlaudit.probe.artifacts import place_for

TRIES = 5  # that an actor is started again when a machine vanishes, and with it the unit that it was at
SMALL = 1_000_000_000  # bytes of the largest model up to which actors share a GPU
SHARED = 0.25  # of a GPU, for an actor of small models
IDLE = 5.0  # seconds after which an actor with nothing to do gives its place to one that Ray starts again
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # set to 0, Ray binds to 127.0.0.1 alone


class Actor:
    """A station whose evidence comes back with its results."""

    def __init__(self, site: Site, batch_size: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vlaudit-")
        self._station = Station(site, Path(self._folder.name), batch_size)

    def run(self, model: str, unit: Unit) -> tuple[str, dict[str, bytes]]:
        """A unit's result as JSON, and its evidence by path."""
        try:
            result = self._station.of(model).close(unit)
        except VlauditError as error:
            result = UnitResult(unit=unit.id, error=str(error))
        folder = Path(self._folder.name)
        found = {path.relative_to(folder).as_posix(): path for path in folder.glob("artifacts/*/*")}
        evidence = {name: path.read_bytes() for name, path in found.items()}
        for path in found.values():
            path.unlink()
        return result.model_dump_json(), evidence


@dataclass
class _Actor:
    """This end of an actor."""

    handle: Any
    model: str = ""
    unit: Unit | None = None
    until: float = 0.0  # when its unit is taken to hang
    idle: float = 0.0  # since when it has had nothing to do


class RayExecutor(Executor):
    """Actors of Ray, as many as the cluster has room for."""

    def __init__(self, job: Job, address: str) -> None:
        if job.site is None:
            raise UsageError("--executor ray does not go with this command.", "Leave it out.")
        self._job, self._site = job, job.site
        self._waiting = Waiting(job.site)
        self._ray = _connected(address)
        subjects = [subject for subject in job.plan.targets if subject.target is not None]
        gpu = any(subject.target.device.type == "cuda" for subject in subjects if subject.target)
        largest = max((sum(path.stat().st_size for path in subject.files if path.is_file()) for subject in subjects), default=0)
        self._takes = {"num_cpus": 1.0, "num_gpus": (SHARED if largest <= SMALL else 1.0) if gpu else 0.0}
        there = self._ray.cluster_resources()
        places = [int(there.get(kind, 0) / self._takes[f"num_{kind.lower()}s"]) for kind in ("CPU", "GPU") if self._takes[f"num_{kind.lower()}s"]]
        self.workers = min(*places, len(job.plan.units), 10_000)
        if self.workers < 1:
            self._ray.shutdown()
            raise UsageError(f"The cluster of Ray has no room for an actor ({self._takes}).", "Add nodes, or choose another --device.")
        self._actors: list[_Actor] = []

    @classmethod
    def of(cls, job: Job, argument: str) -> RayExecutor:
        return cls(job, argument)

    def run(
        self, next_unit: NextUnit, on_start: OnStart, on_move: OnMove, deadline: float | None = None
    ) -> Generator[UnitResult, None, None]:
        say(phase=Phase.RUN)
        ray, running = self._ray, dict[Any, _Actor]()
        try:
            while True:
                while unit := next_unit():
                    self._waiting.add(unit)
                for actor, unit in self._assigned():
                    on_start(unit)
                    running[actor.handle.run.remote(actor.model, unit)] = actor
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=LOOK)
                now = time.monotonic()
                if not ready:
                    on_move({})
                if deadline is not None and now >= deadline and not ready:
                    return
                for reference, actor in list(running.items()):
                    if reference in ready or now >= actor.until:
                        del running[reference]
                        yield self._result(reference, actor, late=reference not in ready)
                self._give_way(now, bool(running))
        finally:
            for actor in self._actors:
                with contextlib.suppress(Exception):
                    ray.kill(actor.handle)
            ray.shutdown()

    def _assigned(self) -> Iterator[tuple[_Actor, Unit]]:
        """Give units to actors that have none."""
        idle = [actor for actor in self._actors if actor.unit is None]
        while self._waiting and (idle or len(self._actors) < self.workers):
            actor = next((one for one in idle if self._waiting.of(one.model)), None)
            if actor is None:
                actor = self._started() if len(self._actors) < self.workers else idle[0]
            if actor in idle:
                idle.remove(actor)
            actor.model, unit = self._waiting.take(actor.model, [one.model for one in self._actors if one is not actor])
            actor.unit, actor.until = unit, time.monotonic() + longest(unit)
            yield actor, unit

    def _started(self) -> _Actor:
        remote = self._ray.remote(Actor).options(max_restarts=TRIES, max_task_retries=-1, **self._takes)
        actor = _Actor(remote.remote(self._site, self._job.batch_size))
        self._actors.append(actor)
        return actor

    def _give_way(self, now: float, waits: bool) -> None:
        """Let go of actors that have had nothing to do for a while, so that one which Ray wants to start again finds room."""
        for actor in [actor for actor in self._actors if waits and actor.unit is None and now - actor.idle > IDLE]:
            self._ray.kill(actor.handle)
            self._actors.remove(actor)

    def _result(self, reference: Any, actor: _Actor, *, late: bool) -> UnitResult:
        unit, actor.unit, actor.idle = actor.unit, None, time.monotonic()
        assert unit is not None
        if late:
            self._drop(actor)
            return UnitResult(unit=unit.id, error=f"it did not end within {longest(unit):.0f} s")
        try:
            said, evidence = self._ray.get(reference)
        except KeyboardInterrupt:
            raise
        except Exception as error:  # noqa: BLE001 (whatever ended the actor spoils only this unit)
            self._drop(actor)
            return UnitResult(unit=unit.id, error=f"its actor failed: {foreign_words(error)}")
        for name, content in evidence.items():
            write_atomically(place_for(self._job.artifacts.folder, name), content)
        return UnitResult.model_validate_json(said)

    def _drop(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)


def _connected(address: str) -> ModuleType:
    """Ray, connected to the cluster at an address; without one, to a cluster of this machine that ends with the scan. Raises UsageError."""
    if not address or address.startswith("127.0.0.1"):
        os.environ.setdefault(LOOPBACK, "0")  # before it is imported
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ImportError as error:
        raise UsageError("--executor ray needs Ray, which is not installed.", 'Install it: pip install "ray>=2.50".') from error
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
    except KeyboardInterrupt:
        raise
    except Exception as error:  # Ray's own, for no cluster there, another version of Ray or of Python
        where = f" at '{address}'" if address else ""
        raise UsageError(f"The cluster of Ray{where} cannot be used: {first_line(error)[:300]}.", "See ray status there.") from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray
