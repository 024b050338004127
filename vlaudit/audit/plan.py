"""The plan: targets x probes to units of work, or the reason why a probe cannot run. Cheap, and the same every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from vlaudit import cage
from vlaudit.audit.budget import SHARES, divide
from vlaudit.audit.journal import PlannedProbe, Unit
from vlaudit.audit.judge import cure
from vlaudit.audit.targets import USELESS, Subject
from vlaudit.cage import Phase
from vlaudit.config import Request
from vlaudit.errors import ModelError, NotAssessed, VlauditError, foreign
from vlaudit.families.base import Speed
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Case, Cost
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import duration, time_text

PLAN_SECONDS = 900.0  # that the cases of one probe may take
OVERHEAD = 0.05  # seconds that a unit takes beside its passes
LONGEST = 60.0  # seconds that a unit may be estimated to take, where it can be cut
SMALL = 64_000_000  # bytes of model files up to which workers are forked
MOST_WORKERS = 4


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
    shares: dict[str, float] = field(default_factory=dict)  # of the design that a unit belongs to, by unit id
    speeds: dict[str, Speed] = field(default_factory=dict)  # by model
    whole: float | None = None  # seconds that all would take of which the budget left out a part
    workers: int = 1  # that run side by side, of one thread each

    @property
    def units(self) -> list[Unit]:
        """Every unit once, in order: a reference unit that several targets share stands where it is first needed."""
        return list({unit.id: unit for planned in self.planned for unit in planned.units}.values())

    def subject(self, unit: Unit) -> Subject:
        """What a unit loads."""
        if unit.arm == REFERENCE:
            return self.references[unit.subject]
        return next(target for target in self.targets if target.id == unit.subject)

    def speed(self, unit: Unit) -> Speed | None:
        return self.speeds.get(self.subject(unit).spec.model)


@dataclass
class _Design:
    """One probe on one target, at one rung of its ladder."""

    planned: PlannedProbe
    cases: dict[str, list[Case]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)


class _Draft:
    """One probe on the targets that share a model, whose designs are made as they are asked for. They get one share, so that prompts
    can be compared, and share their reference."""

    def __init__(self, plan: Plan, name: str, speed: Speed | None) -> None:
        self.plan, self.name, self.speed = plan, name, speed
        self.subjects: list[Subject] = []
        self._made: dict[float, list[_Design]] = {}

    def designs(self, share: float) -> list[_Design]:
        if share not in self._made:
            self._made[share] = [_design(self.plan, subject, self.name, self.speed, share) for subject in self.subjects]
        return self._made[share]

    def takes(self, share: float) -> float | None:
        """Seconds, with all workers at work; None where a target has a design of all, and none of this share."""
        designs = self.designs(share)
        if any(one.planned.reason and not all_.planned.reason for one, all_ in zip(designs, self.designs(1.0), strict=True)):
            return None
        weights = {unit.id: unit.weight + OVERHEAD for design in designs for unit in design.planned.units}
        return sum(weights.values()) / self.plan.workers


def make_plan(
    request: Request, registry: ProbeRegistry, targets: list[Subject], references: dict[str, Subject], *,
    speeds: Mapping[str, Speed] | None = None, shares: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    """Plan every probe on every target. The reference arm is planned once a model and shared between its prompts.

    ``speeds``: by model, of the audit that is resumed; they are measured where they are not given. ``shares``: by probe, in the place of
    what the budget would give it.
    """
    probes = {name: registry.make(name, request.params.get(name)) for name in request.probes}
    plan = Plan(request, targets, references, probes, [], speeds=dict(speeds or {}), workers=_workers([*targets, *references.values()]))
    drafts: dict[tuple[str, str], _Draft] = {}
    order: list[tuple[_Draft, int]] = []
    for subject in targets:
        _calibrate(plan, subject)
    for subject in references.values():
        if subject.target is not None:
            subject.target.speed = plan.speeds.get(subject.spec.model)
    for subject in targets:
        for name, probe in probes.items():
            if _is_for_others(probe, subject, targets):
                continue
            draft = drafts.setdefault((name, subject.spec.model), _Draft(plan, name, plan.speeds.get(subject.spec.model)))
            draft.subjects.append(subject)
            order.append((draft, len(draft.subjects) - 1))
    given = _share_out(plan, list(drafts.values()), shares or {})
    for draft, place in order:
        share = given[draft.name, draft.subjects[0].spec.model]
        design = draft.designs(share or 1.0)[place]
        if share is None and not design.planned.reason:
            design = _Design(PlannedProbe(target=draft.subjects[place].id, probe=draft.name, reason=_too_dear(plan, draft)))
        plan.planned.append(design.planned)
        plan.cases |= design.cases
        plan.costs |= design.costs
        plan.shares |= dict.fromkeys(design.cases, design.planned.share)
    return plan


def _calibrate(plan: Plan, subject: Subject) -> None:
    """Measure what passes of a model take, if that is not known. On a CPU with one thread, which other programs do not make wait for
    its like; what several will take is then less by as many."""
    if subject.target is None:
        return
    model = subject.spec.model
    if model not in plan.speeds:
        try:
            on = context(plan.request, subject, "calibration", TARGET, ArtifactStore(Path()))
            one = subject.target.device.type == "cpu" and bool(subject.target.model.files)
            with foreign(f"'{model}' cannot be used", USELESS), _one_thread(one) as threads:
                speed = subject.target.calibrate(on)
            plan.speeds[model] = speed.times(1 / threads if one and plan.workers == 1 else 1)
        except ModelError as error:
            subject.lose(error)
            return
    subject.target.speed = plan.speeds.get(model)


@contextlib.contextmanager
def _one_thread(one: bool) -> Iterator[int]:
    """How many threads torch has; while open, one where that is asked for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if one else before)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _share_out(plan: Plan, drafts: list[_Draft], shares: Mapping[str, float]) -> dict[tuple[str, str], float | None]:
    """The share of each draft, by probe and model; None where its least design does not fit the budget."""
    keys, budget = [(draft.name, draft.subjects[0].spec.model) for draft in drafts], plan.request.budget
    if shares or budget is None:
        return {key: shares.get(key[0], 1.0) for key in keys}
    if any(subject.target is not None and not subject.target.loaded for subject in plan.targets):
        for draft, share in product(drafts, SHARES):  # while its model is in memory, which makes room for the next draft's
            draft.takes(share)
    whole = sum(draft.takes(1.0) or 0.0 for draft in drafts)
    plan.whole = whole if whole > budget else None
    return dict(zip(keys, divide([draft.takes for draft in drafts], budget), strict=True))


def _too_dear(plan: Plan, draft: _Draft) -> str:
    least = next(seconds for share in reversed(SHARES) if (seconds := draft.takes(share)) is not None)
    return (
        f"its smallest design takes about {duration(least)}, which does not fit the budget of {time_text(plan.request.budget or 0)} "
        f"beside the other probes; {cure(plan.whole)}"
    )


def _design(plan: Plan, subject: Subject, name: str, speed: Speed | None, share: float) -> _Design:
    probe = plan.probes[name]
    reason = missing(probe, subject)
    if reason is not None:
        return _Design(PlannedProbe(target=subject.id, probe=name, reason=reason))
    ctx = context(plan.request, subject, name, TARGET, ArtifactStore(Path()), share=share)
    cage.say(phase=Phase.LOAD, what=f"the plan of {name}", limit=PLAN_SECONDS)
    try:
        return _cut(plan, subject, name, probe, speed, ctx)
    except NotAssessed as error:
        return _Design(PlannedProbe(target=subject.id, probe=name, reason=str(error)))
    except (KeyboardInterrupt, VlauditError):
        raise
    except BaseException as error:  # noqa: BLE001 (a plugin may raise anything; it spoils only itself)
        reason = f"the probe failed: {cage.foreign_words(error)}"
        return _Design(PlannedProbe(target=subject.id, probe=name, reason=reason, failed=True))


def _cut(plan: Plan, subject: Subject, name: str, probe: Probe, speed: Speed | None, ctx: Context) -> _Design:
    """The cases of a probe, cut into units of work by the probe itself."""
    cases = probe.cases(ctx)
    if not cases:
        return _Design(PlannedProbe(target=subject.id, probe=name, reason="the probe finds nothing to try on these data"))
    reduced = list(ctx.reduced)
    arms = [(subject, ctx)]
    note = subject.info.reference_note
    if probe.wants_reference() and subject.info.reference is not None:
        arms.append((plan.references[subject.info.reference], replace(ctx, arm=REFERENCE)))
    elif not probe.wants_reference():
        note = "this probe has no reference arm"
    design = _Design(PlannedProbe(target=subject.id, probe=name, share=ctx.share if reduced else 1.0, reduced=reduced, reference_note=note))
    for number, batch in enumerate(probe.rounds(cases)):
        for asked, own in arms:
            for shard in [part for whole in probe.shards(batch) for part in _parts(probe, own, asked, list(whole), speed)]:
                identity = [asked.id, own.arm, name, probe.info.version, probe.model_dump(mode="json"), plan.request.seed,
                            plan.request.effort, design.planned.share,
                            subject.info.data and subject.info.data.model_dump(mode="json", exclude={"notes"}),
                            [case.model_dump(mode="json") for case in shard]]  # fmt: skip
                unit_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
                cost = _estimate(probe, own, asked, shard)
                weight = speed.seconds(cost) if speed else 0.0
                design.planned.units.append(
                    Unit(id=unit_id, subject=asked.id, probe=name, arm=own.arm, cases=[c.id for c in shard], round=number,
                         weight=round(weight, 4))
                )  # fmt: skip
                design.cases[unit_id], design.costs[unit_id] = shard, cost
    return design


def _estimate(probe: Probe, ctx: Context, asked: Subject, cases: list[Case]) -> Cost:
    """What cases cost on one arm, with what its prompt itself passes."""
    cost = probe.estimate(ctx, cases)
    return asked.target.whole(cost, len(asked.labels)) if asked.target else cost


def _parts(probe: Probe, ctx: Context, asked: Subject, shard: list[Case], speed: Speed | None) -> Iterator[list[Case]]:
    """A shard cut in halves until they are short enough, unless what its cases share would then be done twice."""
    whole = speed.seconds(_estimate(probe, ctx, asked, shard)) if speed else 0.0
    if whole > LONGEST and len(shard) > 1:
        halves = shard[: len(shard) // 2], shard[len(shard) // 2 :]
        assert speed is not None
        if sum(speed.seconds(_estimate(probe, ctx, asked, half)) for half in halves) <= 1.1 * whole:
            for half in halves:
                yield from _parts(probe, ctx, asked, half, speed)
            return
    yield shard


def _workers(subjects: Sequence[Subject]) -> int:
    """How many processes run side by side: several for small models on a CPU, for which more threads are slower than one."""
    from joblib import cpu_count  # knows of affinity and of a container's share

    small = all(map(_is_small, subjects)) and sys.platform == "linux"
    return min(cpu_count(), MOST_WORKERS) if small else 1


def _is_small(subject: Subject) -> bool:
    """Whether its files are there and few, and it runs on the CPU."""
    if subject.target is None:
        return True
    size = sum(path.stat().st_size for path in subject.files if path.exists())
    return subject.target.device.type == "cpu" and 0 < size <= SMALL


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
    request: Request, subject: Subject, probe: str, arm: str, artifacts: ArtifactStore, batch_size: int = 128, share: float = 1.0
) -> Context:
    """The context of one probe on one arm."""
    return Context(
        probe=probe, arm=arm, data=subject.data, labels=subject.labels, artifacts=artifacts, seed=request.seed,
        effort=request.effort, batch_size=batch_size, files=subject.files, share=share, policy=request.policy, _target=subject.target,
        _pixels=subject.pixels, _scorer=subject.scorer,
    )  # fmt: skip
