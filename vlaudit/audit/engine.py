"""Which executor an audit runs on."""

from __future__ import annotations

from vlaudit.audit.devices import DevicesExecutor
from vlaudit.audit.executor import Executor, Job, LocalExecutor, ProcessExecutor
from vlaudit.audit.plan import side_by_side
from vlaudit.errors import UsageError
from vlaudit.plugins import plugin


def pick(job: Job, named: str | None = None) -> Executor:
    """The executor that is ``named``; by default a worker for each device where there are several, workers where processes can share
    models on a CPU with several cores, else this process. Raises UsageError."""
    several = job.site is not None and len(job.site.devices) > 1
    if named is not None:
        if several:
            raise UsageError("--device with several devices has a worker for each.", "Leave --executor out, or name one device.")
        name, _, argument = named.partition(":")
        chosen: type[Executor] = plugin("executors", name)
        return chosen.of(job, argument)
    local = LocalExecutor.of(job, "")
    units = len(job.plan.units)
    if job.debug or units < 2:
        return local
    if several:
        return DevicesExecutor(job)
    workers = min(job.plan.workers, side_by_side(job.plan), units)
    return ProcessExecutor(local, workers) if workers > 1 else local
