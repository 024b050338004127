"""Run an audit: plan, resume from the journal, execute, judge, and write ``report.json``."""

from __future__ import annotations

import os
import platform
import shlex
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from vlaudit import __version__
from vlaudit.audit.engine import pick
from vlaudit.audit.executor import Job
from vlaudit.audit.journal import (
    MANIFEST,
    Journal,
    Manifest,
    PlannedProbe,
    Unit,
    UnitResult,
    finite,
    read_manifest,
    read_part,
)  # fmt: skip
from vlaudit.audit.judge import is_done, judge_audit, rounds_needed
from vlaudit.audit.plan import OVERHEAD, Plan
from vlaudit.audit.provenance import fingerprints, probe_sources, started_in
from vlaudit.audit.schedule import Schedule
from vlaudit.audit.time_left import TimeLeft
from vlaudit.cage import Phase, say
from vlaudit.checksums import unsealed
from vlaudit.config import Request
from vlaudit.errors import UsageError
from vlaudit.files import Unreadable, make_folder, parse_json, write_atomically
from vlaudit.policy import Policy
from vlaudit.records import MOST_FINDINGS, MOST_TARGETS, AuditInfo, Report, ToolInfo
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import report_json

REPORT = "report.json"


class Observer(Protocol):
    """Told how the audit gets on; the command line shows it."""

    def start(self, seconds_left: float) -> None: ...
    def unit_started(self, label: str) -> None: ...
    def moved(self, share: float, seconds_left: float) -> None: ...
    def note(self, text: str) -> None: ...
    def stop(self) -> None: ...


@dataclass
class Outcome:
    """What came out of a run."""

    report: Report
    interrupted: bool = False


def open_audit(
    out: Path, plan: Plan, command: str, environment: dict[str, str | int | None], *, batch_size: int | None = None,
    replays: str | None = None,
) -> tuple[Journal, Manifest]:  # fmt: skip
    """Begin an audit in ``out``, or resume the same one. Raises UsageError for a finished or different audit there."""
    make_folder(out)
    journal = Journal(out)
    journal.lock()
    try:
        return journal, _manifest(journal, plan, command, environment, batch_size, replays)
    except BaseException:
        journal.close()
        raise


def _manifest(
    journal: Journal, plan: Plan, command: str, environment: dict[str, str | int | None], batch_size: int | None,
    replays: str | None,
) -> Manifest:  # fmt: skip
    """The manifest of the audit that ``journal`` holds unfinished, or of a new one."""
    out = journal.folder
    if os.path.lexists(out / MANIFEST):
        manifest = read_manifest(out)
        if manifest.digest != plan.request.digest() or manifest.replays != replays:
            raise UsageError(
                f"'{out}' holds a different audit.", "Choose another --out, or repeat the command it was made with."
            )
        failed = [(item.target, item.probe) for item in manifest.planned if item.failed]  # are planned again
        if _signature(manifest.planned, failed) != _signature(plan.planned, failed):
            raise UsageError(f"'{out}' was planned from other data, models or versions.", "Choose another --out.")
        results = journal.results(mend=True)
        if _has_whole_report(out) and not failed and all(
            is_done(unit, results)
            for planned in plan.planned
            for batch in rounds_needed(plan.probes[planned.probe], planned, results, plan.request.policy)
            for unit in batch
        ):
            raise UsageError(
                f"'{out}' holds this audit, finished.",
                "See it with vlaudit report, or choose another --out to scan again.",
            )
        if failed:
            manifest = manifest.model_copy(update={"planned": plan.planned})
            journal.write_manifest(manifest)
        return manifest
    if any(not _is_half_written(path) for path in out.iterdir()) and not _holds_only_a_partial_report(out):
        raise UsageError(f"'{out}' is not empty and holds no audit.", "Choose another --out.")
    if len(plan.targets) > MOST_TARGETS or len(plan.planned) > MOST_FINDINGS:
        raise UsageError(
            f"An audit holds at most {MOST_TARGETS:,} targets and {MOST_FINDINGS:,} findings.", "Scan them in parts."
        )
    manifest = Manifest(
        version=__version__, id=uuid.uuid4().hex[:12], digest=plan.request.digest(), command=command, started=_now(),
        request=plan.request, targets=[subject.info for subject in plan.targets], planned=plan.planned,
        environment=environment, folder=started_in(out), batch_size=batch_size, probes=probe_sources(plan.probes),
        fingerprints={
            subject.id: fingerprints(subject, plan.references.get(subject.info.reference or ""))
            for subject in plan.targets
        },
        replays=replays, speeds=plan.speeds, whole=plan.whole,
        references={name: subject.info.prompt.id for name, subject in plan.references.items()}, loads=plan.loads,
        takes=plan.takes, workers=plan.workers,
    )  # fmt: skip
    journal.write_manifest(manifest)
    return manifest


def measured(out: Path, request: Request) -> dict[str, Any]:
    """What the audit that ``out`` holds unfinished measured of its models and its machine, if it is that of ``request``: the plan hangs
    on it. Arguments of ``make_plan``."""
    try:
        manifest = read_manifest(out)
    except UsageError:  # none yet, or one that ``open_audit`` refuses
        return {}
    if manifest.digest != request.digest():
        return {}
    return {"speeds": manifest.speeds, "takes": manifest.takes, "workers": manifest.workers}


def _has_whole_report(out: Path) -> bool:
    """Whether there is a report of the whole audit. One that was ended while it was judged has a partial one of all its units."""
    try:
        return read_report(out).audit.complete
    except UsageError:
        return False


def _holds_only_a_partial_report(out: Path) -> bool:
    """Whether a scan was ended here before it had planned anything."""
    kept = [path for path in out.iterdir() if not _is_half_written(path)]
    return all(path.stem == "report" for path in kept) and not read_report(out).audit.complete


def _is_half_written(path: Path) -> bool:
    """Whether ``write_atomically`` was killed before it could give the file its name."""
    return path.suffix == ".part" and path.name.startswith(".")


def _signature(planned: list[PlannedProbe], failed: list[tuple[str, str]]) -> list[tuple[str, str, list[str]]]:
    """What must agree to resume, but for plans that ``failed``. Estimated seconds are timings and differ from run to run."""
    return [
        (item.target, item.probe, [] if (item.target, item.probe) in failed else [unit.id for unit in item.units])
        for item in planned
    ]


def run_audit(
    job: Job, journal: Journal, manifest: Manifest, registry: ProbeRegistry, observer: Observer, *,
    deadline: float | None = None, executor: str | None = None,
) -> Outcome:  # fmt: skip
    """Run what is not in the journal yet or failed, judge, and write ``report.json``.

    Ctrl-C and ``deadline`` (on the clock of ``time.monotonic``) end in order: what is done is judged, and the report says that it
    is partial. ``executor``: see ``engine.pick``.
    """
    try:
        results, interrupted = run_units(job, journal, observer, deadline=deadline, executor=executor)
        say(phase=Phase.JUDGE, what="judging")
        report = make_report(manifest, results, registry, job.plan.request.policy)
        write_report(journal.folder, report)
        return Outcome(report, interrupted)
    finally:
        journal.close()


def run_units(
    job: Job, journal: Journal, observer: Observer, *, deadline: float | None = None, executor: str | None = None
) -> tuple[dict[str, UnitResult], bool]:
    """Run the units of a plan that the journal does not hold or that failed. Returns all results, and whether Ctrl-C ended it."""
    plan = job.plan
    results = {unit: result for unit, result in journal.results(mend=True).items() if not result.error}
    engine = pick(job, executor)
    left = [unit for unit in plan.units if unit.id not in results]
    clock = TimeLeft(((unit.id, unit.probe, unit.weight + OVERHEAD) for unit in left), engine.workers)
    begun = time.monotonic()
    observer.start(clock.seconds())
    if results:
        observer.note(f"resuming: {len(plan.units) - len(left)} of {len(plan.units)} units of work are in the journal")
    schedule = Schedule(plan, results, deadline, clock)
    interrupted = False

    def moved(inside: Mapping[str, float]) -> None:
        clock.inside = dict(inside)
        observer.moved(clock.share, clock.seconds(time.monotonic() - begun))

    try:
        with closing(engine.run(schedule.next, lambda unit: observer.unit_started(_label(unit)), moved, deadline)) as closed:
            for result in closed:
                journal.append(result)
                results[result.unit] = result
                schedule.close(result.unit)
                clock.add(result.unit, result.seconds if result.work is None else result.work)
                observer.moved(clock.share, clock.seconds(time.monotonic() - begun))
                if result.error:
                    observer.note(f"a unit failed: {result.error}")
        if deadline is not None and time.monotonic() >= deadline:
            observer.note("the time of --max-time is up; the rest is not assessed")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        observer.stop()
    return results, interrupted


def make_report(manifest: Manifest, results: Mapping[str, UnitResult], registry: ProbeRegistry, policy: Policy) -> Report:
    """Judge the trials and assemble the report."""
    judged = judge_audit(manifest, results, registry, policy)
    return Report(
        tool=ToolInfo(version=__version__),
        audit=AuditInfo(
            id=manifest.id, started=manifest.started, finished=_now() if judged.complete else None, complete=judged.complete,
            seed=manifest.request.seed, effort=manifest.request.effort, budget=manifest.request.budget, command=manifest.command,
            environment=dict(manifest.environment), policy=policy.model_dump(mode="json"),
            fail_on=policy.fail_on, strict=policy.strict, cover=manifest.request.cover,
            errors=list(dict.fromkeys(judged.errors)), passed=judged.passed,
        ),
        targets=manifest.targets,
        findings=judged.findings,
    )  # fmt: skip


def judge_folder(folder: Path, policy: Policy | None = None, plugin_files: list[Path] | None = None) -> Report:
    """Judge an audit folder again, without its models; an audit that was killed too, whose report is partial then. The policy
    defaults to the one it was scanned with. The folder is only read."""
    manifest = read_manifest(folder)
    registry = ProbeRegistry.load(plugin_files or [])
    missing = sorted({planned.probe for planned in manifest.planned} - registry.classes.keys() - registry.broken.keys())
    if missing and manifest.request.plugins:
        raise UsageError(
            f"The probe '{missing[0]}' is not installed; the audit had it from {', '.join(manifest.request.plugins)}.",
            "Name its file: vlaudit judge AUDIT_DIR --plugin FILE. It is code, and it is run.",
        )
    if policy is None:
        return make_report(manifest, Journal(folder).results(), registry, manifest.request.policy)
    infos = [probe.info for probe in registry.classes.values()]
    policy.check(infos)
    report = make_report(manifest, Journal(folder).results(), registry, policy)
    if not (changes := policy.changes(manifest.request.policy, infos)):
        return report
    note = f"Judged under another policy than it was scanned with: {'; '.join(changes)}."
    return report.model_copy(update={"audit": report.audit.model_copy(update={"notes": [note, *report.audit.notes]})})


def write_report(folder: Path, report: Report) -> None:
    write_atomically(folder / REPORT, report_json(report, indent=1))


def has_report(folder: Path) -> bool:
    """Whether an audit folder holds something called ``report.json``; an audit that was killed does not."""
    return os.path.lexists(folder / REPORT)


def read_report(folder: Path) -> Report:
    """``report.json`` of an audit folder. Raises UsageError when there is none or it cannot be read."""
    path = folder / REPORT
    if not has_report(folder):
        raise UsageError(
            f"'{folder}' has no {REPORT}.", "Give an audit folder; one whose scan was killed needs vlaudit judge first."
        )
    content, anew = read_part(folder, REPORT), f"Write it anew from the trials: vlaudit judge {shlex.quote(str(folder))}"
    try:
        body, _ = unsealed(content)
        value = parse_json(body)
        finite(value)
        report = Report.model_validate(value)
        if report.checksum is not None:
            raise Unreadable("does not agree with its checksum")
        if len(report.targets) > MOST_TARGETS or len(report.findings) > MOST_FINDINGS:
            raise Unreadable(f"has more than {MOST_TARGETS:,} targets or {MOST_FINDINGS:,} findings")
    except Unreadable as error:
        raise UsageError(f"'{path}' {error}.", anew) from error
    except ValidationError as error:
        raise UsageError(
            f"'{path}' is not a report this vlaudit can read.", anew
        ) from error
    return report


def environment(device: str) -> dict[str, str | int | None]:
    """Versions and hardware, for the report. No user or host name."""
    import torch

    packages = ("torch", "torchvision", "transformers", "open_clip_torch", "fairlearn", "scipy", "numpy", "pillow")
    found: dict[str, str | int | None] = {"vlaudit": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found |= {
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return found


def _label(unit: Unit) -> str:
    return f"{unit.probe} · {unit.subject} · {unit.arm}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
