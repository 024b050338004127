"""The plan: targets x probes to units of work, or the reason why a probe cannot run. Cheap, and the same every time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from vlaudit import cage
from vlaudit.audit.journal import PlannedProbe, Unit
from vlaudit.audit.targets import USELESS, Subject
from vlaudit.cage import Phase
from vlaudit.config import Request
from vlaudit.errors import ModelError, NotAssessed, VlauditError, foreign
from vlaudit.families.base import Speed
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Case, Cost
from vlaudit.registry import ProbeRegistry

PLAN_SECONDS = 900.0  # that the cases of one probe may take


@dataclass
class Plan:
    """All units of an audit, with what a worker needs to run them."""

    request: Request
    targets: list[Subject]
    references: dict[str, Subject]
    probes: dict[str, Probe]
    planned: list[PlannedProbe]
    cases: dict[str, list[Case]] = field(default_factory=dict)  # by unit id
    costs: dict[str, Cost] = field(default_factory=dict)  # estimated, by unit id

    @property
    def units(self) -> list[Unit]:
        """Every unit once, in order: a reference unit that several targets share stands where it is first needed."""
        return list({unit.id: unit for planned in self.planned for unit in planned.units}.values())

    def subject(self, unit: Unit) -> Subject:
        """What a unit loads."""
        if unit.arm == REFERENCE:
            return self.references[unit.subject]
        return next(target for target in self.targets if target.id == unit.subject)


def make_plan(
    request: Request, registry: ProbeRegistry, targets: list[Subject], references: dict[str, Subject]
) -> Plan:
    """Plan every probe on every target. The reference arm is planned once a model and shared between its prompts."""
    probes = {name: registry.make(name, request.params.get(name)) for name in request.probes}
    plan = Plan(request, targets, references, probes, [])
    speeds: dict[str, Speed] = {}
    for subject in targets:
        if subject.target is not None and subject.spec.model not in speeds:
            ctx = context(request, subject, "calibration", TARGET, ArtifactStore(Path()))
            try:
                with foreign(f"'{subject.spec.model}' cannot be used", USELESS):
                    speeds[subject.spec.model] = subject.target.calibrate(ctx)
            except ModelError as error:
                subject.lose(error)
        for name, probe in probes.items():
            if _is_for_others(probe, subject, targets):
                continue
            plan.planned.append(_plan_probe(plan, subject, name, probe, speeds.get(subject.spec.model)))
    return plan


def _plan_probe(plan: Plan, subject: Subject, name: str, probe: Probe, speed: Speed | None) -> PlannedProbe:
    reason = missing(probe, subject)
    if reason is not None:
        return PlannedProbe(target=subject.id, probe=name, reason=reason)
    ctx = context(plan.request, subject, name, TARGET, ArtifactStore(Path()))
    cage.say(phase=Phase.LOAD, what=f"the plan of {name}", limit=PLAN_SECONDS)
    try:
        return _cut(plan, subject, name, probe, speed, ctx)
    except NotAssessed as error:
        return PlannedProbe(target=subject.id, probe=name, reason=str(error))
    except (KeyboardInterrupt, VlauditError):
        raise
    except BaseException as error:  # noqa: BLE001 (a plugin may raise anything; it spoils only itself)
        reason = f"the probe failed: {cage.foreign_words(error)}"
        return PlannedProbe(target=subject.id, probe=name, reason=reason, failed=True)


def _cut(plan: Plan, subject: Subject, name: str, probe: Probe, speed: Speed | None, ctx: Context) -> PlannedProbe:
    """The cases of a probe, cut into units of work by the probe itself."""
    cases = probe.cases(ctx)
    if not cases:
        return PlannedProbe(target=subject.id, probe=name, reason="the probe finds nothing to try on these data")
    arms = [(subject.id, TARGET)]
    note = subject.info.reference_note
    if probe.wants_reference() and subject.info.reference is not None:
        arms.append((subject.info.reference, REFERENCE))
    elif not probe.wants_reference():
        note = "this probe has no reference arm"
    units: list[Unit] = []
    for number, batch in enumerate(probe.rounds(cases)):
        for subject_id, arm in arms:
            for shard in probe.shards(batch):
                identity = [subject_id, arm, name, probe.info.version, probe.model_dump(mode="json"), plan.request.seed,
                            plan.request.effort, subject.info.data and subject.info.data.model_dump(mode="json", exclude={"notes"}),
                            [case.model_dump(mode="json") for case in shard]]  # fmt: skip
                unit_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
                cost = probe.estimate(ctx, shard)
                weight = speed.seconds(cost) if speed else 0.0
                units.append(
                    Unit(id=unit_id, subject=subject_id, probe=name, arm=arm, cases=[c.id for c in shard], round=number,
                         weight=round(weight, 4))
                )  # fmt: skip
                plan.cases[unit_id] = list(shard)
                plan.costs[unit_id] = cost
    return PlannedProbe(target=subject.id, probe=name, units=units, reference_note=note)


def _is_for_others(probe: Probe, subject: Subject, targets: list[Subject]) -> bool:
    """Whether the probe is made for other targets of this audit and not for this one."""
    families = probe.info.families
    return subject.info.family not in families and any(other.info.family in families for other in targets)


def missing(probe: Probe, subject: Subject) -> str | None:
    """Why a probe cannot run on a target, or None."""
    needs = probe.info.needs
    if subject.target is None:
        if needs == {Needs.FILES} and subject.files:
            return None
        return f"the target could not be loaded: {subject.error}"
    if subject.info.family not in probe.info.families:
        return (
            f"the probe is for {' and '.join(sorted(probe.info.families))}, the target is {subject.info.family.value}"
        )
    have = set(subject.target.capabilities)
    data = subject.data
    have |= {Needs.IMAGES} if data.examples else set()
    have |= {Needs.LABELS} if data.labels else set()
    have |= {Needs.GROUPS} if data.groups else set()
    have |= {Needs.MEMBERS} if data.has_members else set()
    have |= {Needs.CAPTIONS} if data.captions else set()
    have |= {Needs.CAPTIONED_PICTURES} if data.captioned else set()
    have |= {Needs.QUESTIONS} if data.questions else set()
    have |= {Needs.PAIRS} if data.pairs else set()
    if not subject.files:
        have.discard(Needs.FILES)
    lacking = sorted(need.value for need in needs - have - {Needs.SCORER})
    if lacking:
        return f"needs {', '.join(lacking)}"
    return subject.scorer_doubt() if Needs.SCORER in needs else None


def context(
    request: Request, subject: Subject, probe: str, arm: str, artifacts: ArtifactStore, batch_size: int = 128
) -> Context:
    """The context of one probe on one arm."""
    return Context(
        probe=probe, arm=arm, data=subject.data, labels=subject.labels, artifacts=artifacts, seed=request.seed,
        effort=request.effort, batch_size=batch_size, files=subject.files, _target=subject.target, _pixels=subject.pixels,
        _scorer=subject.scorer,
    )  # fmt: skip
