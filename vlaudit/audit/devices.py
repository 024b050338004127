"""One worker for each of several devices of this machine: ``--device cuda:0,cuda:1``.

A process that has used a GPU cannot be forked, so workers start anew: each sees its own device alone, plans the part of a model again
when its first unit is due, and lets it go for the next one.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vlaudit.audit.executor import Job, LocalExecutor, NextUnit, ProcessExecutor, Site, Worker, serve
from vlaudit.audit.journal import Unit
from vlaudit.audit.station import Station, Waiting
from vlaudit.errors import VlauditWarning

VISIBLE = "CUDA_VISIBLE_DEVICES"


class DevicesExecutor(ProcessExecutor):
    """A worker for each of the devices of ``job.site``, as far as there are units."""

    def __init__(self, job: Job) -> None:
        assert job.site is not None
        super().__init__(LocalExecutor.of(job, ""), min(len(job.site.devices), len(job.plan.units)))
        self._job, self._site, self._waiting = job, job.site, Waiting(job.site)
        self._places: dict[Worker, int] = {}  # which of the devices each has

    def _assigned(self, next_unit: NextUnit) -> Iterator[tuple[Worker, Unit]]:
        while unit := next_unit():
            self._waiting.add(unit)
        self._crew = [worker for worker in self._crew if worker.unit or worker.process.is_alive()]
        while self._waiting and self._busy < self.workers:
            idle = [worker for worker in self._crew if worker.unit is None]
            worker = next((one for one in idle if self._waiting.of(one.model)), None)
            if worker is None:
                worker = self._started() if len(self._crew) < self.workers else idle[0]
            worker.model, unit = self._waiting.take(worker.model, [one.model for one in self._crew if one is not worker])
            yield worker, unit

    def _started(self) -> Worker:
        self._job.let_go()  # what the plan was made with is in the way of those that work
        taken = {self._places[worker] for worker in self._crew}
        place = next(place for place in range(self.workers) if place not in taken)
        device, visible = _alone(self._site.devices[place])
        site = replace(self._site, device=device, devices=(), spread=False)
        with _environment(visible):
            worker = Worker("spawn", _work, site, self._job.artifacts.folder, self._job.batch_size, self.workers)
        self._places[worker] = place
        self._crew.append(worker)
        return worker


def _alone(name: str) -> tuple[str, dict[str, str]]:
    """What a device is called where it is the only one, and the variables that make it so."""
    kind, _, number = name.partition(":")
    if kind != "cuda":
        return name, {}
    seen = [one.strip() for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    return "cuda", {VISIBLE: seen[int(number or 0)] if seen else number or "0"}


@contextlib.contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    """Variables of processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        for name in changed:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _work(connection: Connection, share: Any, site: Site, folder: Path, batch_size: int | None, sharers: int) -> None:
    """The life of a worker with a device of its own."""

    @cache
    def station() -> Station:
        return Station(site, folder, batch_size)

    warnings.simplefilter("ignore", VlauditWarning)  # they were said when the plan was made
    serve(connection, share, sharers if site.device == "cpu" else 1, lambda model: station().of(model))
