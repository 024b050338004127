"""Run an audit: plan, resume from the journal, execute, judge, and write ``report.json``."""

from __future__ import annotations

import platform
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from vlaudit import __version__
from vlaudit.audit.context import ArtifactStore
from vlaudit.audit.executor import pick
from vlaudit.audit.journal import (
    Journal,
    Manifest,
    PlannedProbe,
    Unit,
    UnitResult,
    read_manifest,
)  # fmt: skip
from vlaudit.audit.judge import judge_audit, rounds_needed
from vlaudit.audit.plan import Plan
from vlaudit.audit.provenance import fingerprints, probe_sources, started_in
from vlaudit.cage import Phase, say
from vlaudit.errors import UsageError
from vlaudit.files import disk_error, write_atomically
from vlaudit.policy import Policy
from vlaudit.records import AuditInfo, Report, ToolInfo
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import report_json

REPORT = "report.json"
OVERHEAD = 0.05  # seconds that a unit takes beside its passes


class Observer(Protocol):
    """Told how the audit gets on; the command line shows it. Units weigh what they are estimated to take."""

    def start(self, total_units: float, estimate_seconds: float | None) -> None: ...
    def unit_started(self, label: str) -> None: ...
    def unit_done(self, seconds: float, weight: float = 1.0) -> None: ...
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
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    journal = Journal(out)
    if (out / "manifest.json").exists():
        manifest = read_manifest(out)
        if manifest.digest != plan.request.digest() or manifest.replays != replays:
            raise UsageError(
                f"'{out}' holds a different audit.", "Choose another --out, or repeat the command it was made with."
            )
        if (out / REPORT).exists() and read_report(out).audit.complete:
            raise UsageError(
                f"'{out}' holds this audit, finished.",
                "See it with vlaudit report, or choose another --out to scan again.",
            )
        if _signature(manifest.planned) != _signature(plan.planned):
            raise UsageError(f"'{out}' was planned from other data, models or versions.", "Choose another --out.")
        return journal, manifest
    if any(out.iterdir()) and not _holds_only_a_partial_report(out):
        raise UsageError(f"'{out}' is not empty and holds no audit.", "Choose another --out.")
    manifest = Manifest(
        version=__version__, id=uuid.uuid4().hex[:12], digest=plan.request.digest(), command=command, started=_now(),
        request=plan.request, targets=[subject.info for subject in plan.targets], planned=plan.planned,
        environment=environment, folder=started_in(out), batch_size=batch_size, probes=probe_sources(plan.probes),
        fingerprints={
            subject.id: fingerprints(subject, plan.references.get(subject.info.reference or ""))
            for subject in plan.targets
        },
        replays=replays,
    )  # fmt: skip
    journal.write_manifest(manifest)
    return journal, manifest


def _holds_only_a_partial_report(out: Path) -> bool:
    """Whether a scan was ended here before it had planned anything."""
    return all(path.stem == "report" for path in out.iterdir()) and not read_report(out).audit.complete


def _signature(planned: list[PlannedProbe]) -> list[tuple[str, str, list[str]]]:
    """What must agree to resume. Estimated seconds are timings and differ from run to run."""
    return [(item.target, item.probe, [unit.id for unit in item.units]) for item in planned]


def run_audit(
    plan: Plan, journal: Journal, manifest: Manifest, registry: ProbeRegistry, observer: Observer, *,
    batch_size: int = 128, deadline: float | None = None, debug: bool = False,
) -> Outcome:  # fmt: skip
    """Run what is not in the journal yet, judge, and write ``report.json``.

    Ctrl-C and ``deadline`` (on the clock of ``time.monotonic``) end in order: what is done is judged, and the report says that it
    is partial.
    """
    results = journal.results()
    executor = pick(plan, ArtifactStore(journal.folder), batch_size, debug=debug)
    left = [unit for unit in plan.units if unit.id not in results]
    weights = {unit.id: unit.weight + OVERHEAD for unit in left}
    observer.start(sum(weights.values()), sum(weights.values()) / executor.workers)
    if results:
        observer.note(f"resuming: {len(plan.units) - len(left)} of {len(plan.units)} units of work are in the journal")
    due = _Due(plan, results, deadline)
    interrupted = False
    try:
        with closing(executor.run(due.next, lambda unit: observer.unit_started(_label(unit)), deadline)) as closed:
            for result in closed:
                journal.append(result)
                results[result.unit] = result
                observer.unit_done(result.seconds / executor.workers, weights[result.unit])
                if result.error:
                    observer.note(f"a unit failed: {result.error}")
        if deadline is not None and time.monotonic() >= deadline:
            observer.note("the time of --max-time is up; the rest is not assessed")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        observer.stop()
    say(phase=Phase.JUDGE, what="judging")
    report = make_report(manifest, results, registry, plan.request.policy)
    write_report(journal.folder, report)
    return Outcome(report, interrupted)


class _Due:
    """Units still to run, in order: round after round of each probe, until it is decided or the time is up."""

    def __init__(self, plan: Plan, results: dict[str, UnitResult], deadline: float | None) -> None:
        self._plan, self._results, self._deadline = plan, results, deadline
        self._left = list(plan.planned)
        self._handed: set[str] = set()

    def next(self) -> Unit | None:
        """The next unit that can start; None where none is left, or none before one that runs has closed."""
        for planned in list(self._left):
            needed = rounds_needed(self._plan.probes[planned.probe], planned, self._results, self._plan.request.policy)
            undone = [unit for batch in needed for unit in batch if unit.id not in self._results]
            if not undone:
                self._left.remove(planned)
            for unit in undone:
                if unit.id not in self._handed:
                    return self._hand(unit)
        return None

    def _hand(self, unit: Unit) -> Unit | None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._left.clear()
            return None
        self._handed.add(unit.id)
        return unit


def make_report(manifest: Manifest, results: dict[str, UnitResult], registry: ProbeRegistry, policy: Policy) -> Report:
    """Judge the trials and assemble the report."""
    findings = judge_audit(manifest, results, registry, policy)
    complete, errors = True, []
    for planned in manifest.planned:
        if planned.failed:
            errors.append(f"{planned.probe} on {planned.target}: {planned.reason}")
        probe = registry.make(planned.probe, manifest.request.params.get(planned.probe))
        for unit in (unit for batch in rounds_needed(probe, planned, results, policy) for unit in batch):
            result = results.get(unit.id)
            complete = complete and result is not None
            if result is not None and result.error:
                errors.append(f"{planned.probe} on {planned.target} ({unit.arm}): {result.error}")
    return Report(
        tool=ToolInfo(version=__version__),
        audit=AuditInfo(
            id=manifest.id, started=manifest.started, finished=_now() if complete else None, complete=complete,
            seed=manifest.request.seed, effort=manifest.request.effort, command=manifest.command,
            environment=dict(manifest.environment), policy=policy.model_dump(mode="json"),
            fail_on=policy.fail_on, strict=policy.strict,
            errors=list(dict.fromkeys(errors)),
        ),
        targets=manifest.targets,
        findings=findings,
    )  # fmt: skip


def judge_folder(folder: Path, policy: Policy | None = None, plugin_files: list[Path] | None = None) -> Report:
    """Judge an audit folder again, without its models. The policy defaults to the one it was scanned with."""
    manifest = read_manifest(folder)
    registry = ProbeRegistry.load(plugin_files or [])
    return make_report(manifest, Journal(folder).results(), registry, policy or manifest.request.policy)


def write_report(folder: Path, report: Report) -> None:
    write_atomically(folder / REPORT, report_json(report, indent=1))


def read_report(folder: Path) -> Report:
    """``report.json`` of an audit folder. Raises UsageError when there is none or it cannot be read."""
    from pydantic import ValidationError

    try:
        return Report.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"'{folder}' has no {REPORT}.",
            "Give an audit folder; an audit that was killed needs its scan run again first.",
        ) from error
    except ValidationError as error:
        raise UsageError(f"'{folder / REPORT}' is not a report this vlaudit can read.") from error


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
