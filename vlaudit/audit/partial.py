"""The report of a scan that was ended from outside: what its journal holds is judged, all else is named as not assessed.

No model is loaded. A scan that was ended before it had planned anything gets a report too, whose targets say what they lack.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

from vlaudit import __version__
from vlaudit.audit.journal import MANIFEST, Journal, Manifest, PlannedProbe, read_manifest
from vlaudit.audit.naming import target_id
from vlaudit.audit.run import make_report
from vlaudit.cage import Ended
from vlaudit.config import Request, TargetSpec
from vlaudit.prompts.specs import HARD
from vlaudit.records import Family, ModelInfo, PromptInfo, Report, TargetInfo
from vlaudit.registry import ProbeRegistry


def partial_report(ended: Ended, folder: Path, request: Request, registry: ProbeRegistry, command: str) -> Report:
    """What can be said of the audit in ``folder``, or of ``request`` where nothing was planned there yet."""
    if (folder / MANIFEST).is_file():
        manifest, results = read_manifest(folder), Journal(folder).results(mend=False)
    else:
        manifest, results = _unplanned(ended, request, registry, command), {}
    lost = sorted({item.probe for item in manifest.planned} - set(registry.classes))
    planned = [item for item in manifest.planned if item.probe in registry.classes]
    if ended.only_say:
        reason = "the scan was ended before this was judged"
        planned = [PlannedProbe(target=item.target, probe=item.probe, reason=item.reason or reason) for item in planned]
    manifest = manifest.model_copy(update={"planned": planned})
    report = make_report(manifest, results, registry, request.policy)
    errors = [*report.audit.errors, ended.reason, *(f"{name} was not judged: its plugin was not read again" for name in lost)]
    return report.model_copy(
        update={"audit": report.audit.model_copy(update={"complete": False, "finished": None, "errors": errors})}
    )


def _unplanned(ended: Ended, request: Request, registry: ProbeRegistry, command: str) -> Manifest:
    """A manifest in which nothing is planned, for the reason that ended the scan."""
    targets = [_unloaded(spec, ended) for spec in request.targets]
    planned = [
        PlannedProbe(target=target.id, probe=name, reason=f"the target could not be loaded: {ended.reason}")
        for target in targets
        for name in request.probes
        if name not in registry.classes or target.family in registry.get(name).info.families
    ]
    return Manifest(
        version=__version__, id=uuid.uuid4().hex[:12], digest=request.digest(), command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"), request=request, targets=targets, planned=planned,
    )  # fmt: skip


def _unloaded(spec: TargetSpec, ended: Ended) -> TargetInfo:
    family = Family(ended.known.get(spec.model, Family.MATCHING))
    named = spec.prompt[0] if spec.prompt else HARD[family][1]
    return TargetInfo(
        id=target_id(spec.model, named), family=family, model=ModelInfo(spec=spec.model),
        prompt=PromptInfo(id=named, method="unknown"), declared=spec.declared, error=ended.reason,
    )  # fmt: skip
