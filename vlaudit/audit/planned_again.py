"""A part of a plan, planned a second time by who runs it: what differs there in data, weights, versions or hardware is refused."""

from __future__ import annotations

from collections.abc import Sequence

from vlaudit import __version__
from vlaudit.audit.journal import Manifest, PlannedProbe
from vlaudit.audit.plan import Plan, make_plan
from vlaudit.audit.provenance import changes, fingerprints, probe_sources
from vlaudit.audit.subjects import Subject, resolve_zoo
from vlaudit.audit.targets import Loader
from vlaudit.errors import UsageError
from vlaudit.probe import Probe
from vlaudit.records import TargetInfo
from vlaudit.registry import ProbeRegistry


def plan_again(manifest: Manifest, registry: ProbeRegistry, loader: Loader, part: Sequence[PlannedProbe], devices: int = 1) -> Plan:
    """The plan of a part of ``manifest``, with its models loaded and no others. Raises UsageError where something is not as it was
    planned, ModelError where a model that was there cannot be loaded. ``devices``: that have a worker each."""
    request, targets = manifest.request, {info.id: info for info in manifest.targets}
    models = {resolve_zoo(manifest.specs[name]).model for item in part for name in (item.target, *item.related)}
    specs = [spec for spec in request.targets if resolve_zoo(spec).model in models]  # with all prompts: they share references
    again = {
        (item.probe, manifest.specs[item.target].model): min(
            other.share for other in manifest.planned
            if other.probe == item.probe and manifest.specs[other.target].model == manifest.specs[item.target].model
        )
        for item in part
    }  # fmt: skip
    probes = [name for name in request.probes if any(item.probe == name for item in part)]
    _same_probes(manifest, {name: registry.make(name, request.params.get(name)) for name in probes})
    subjects, references = loader.subjects(specs)
    then = {spec.model_dump_json(): targets[name] for name, spec in manifest.specs.items()}
    references = _named(subjects, references, [then[subject.spec.model_dump_json()] for subject in subjects], manifest)
    for subject in subjects:
        _as_planned(manifest, subject, references.get(subject.info.reference or ""))
    own = request.model_copy(update={"targets": specs, "probes": probes})
    plan = make_plan(own, registry, subjects, references, speeds=manifest.speeds, takes=manifest.takes, again=again, devices=devices)
    lacking = [unit for item in part for unit in item.units if unit.id not in plan.cases]
    if lacking:
        raise UsageError(
            f"{lacking[0].probe} on {lacking[0].subject} is planned otherwise here: the data, a library or the hardware differs.",
            "Run shards where the same versions are installed as where the plan was made.",
        )
    plan.planned = list(part)
    return plan


def _same_probes(manifest: Manifest, probes: dict[str, Probe]) -> None:
    for name, source in probe_sources(probes).items():
        if name in manifest.probes and source != manifest.probes[name]:
            raise UsageError(f"The probe '{name}' is not the one that was planned.", "Install the version that made the plan.")


def _named(subjects: list[Subject], references: dict[str, Subject], infos: list[TargetInfo], manifest: Manifest) -> dict[str, Subject]:
    """Give everything the name that it has in the whole plan; by itself it may have a shorter one. Returns the references by it."""
    named: dict[str, Subject] = {}
    for subject, then in zip(subjects, infos, strict=True):
        if subject.error is not None and then.error is None:
            raise subject.error
        _call(subject, then.id, then.prompt.id)
        reference = references.get(subject.info.reference or "")
        if reference is not None and then.reference is not None:
            _call(reference, then.reference, manifest.references.get(then.reference, reference.info.prompt.id))
            named[then.reference] = reference
            subject.info = subject.info.model_copy(update={"reference": then.reference})
    return named


def _call(subject: Subject, name: str, prompt: str) -> None:
    subject.rename(name)
    subject.info = subject.info.model_copy(update={"prompt": subject.info.prompt.model_copy(update={"id": prompt})})
    if subject.target is not None:
        subject.target.prompt.id = prompt


def _as_planned(manifest: Manifest, subject: Subject, reference: Subject | None) -> None:
    then = next(info for info in manifest.targets if info.id == subject.id)
    differs = changes(then, subject.info, manifest.fingerprints.get(then.id, {}), fingerprints(subject, reference))
    if then.model.dtype != subject.info.model.dtype:
        differs.append(f"precision ({then.model.dtype} then, {subject.info.model.dtype} here)")
    if differs:
        raise UsageError(f"Of '{then.id}' this is not as it was planned: {', '.join(differs)}.", "Restore it, or plan anew.")


def same_version(manifest: Manifest, what: str) -> None:
    if manifest.version != __version__:
        raise UsageError(
            f"{what} was made by vlaudit {manifest.version}, and this is {__version__}: they may plan and judge differently.",
            "Use one version for a plan, its shards and their merge.",
        )
