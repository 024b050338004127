"""The plan: targets x probes to units of work, or the reason why a probe cannot run. Cheap, and the same every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from vlaudit import cage
from vlaudit.audit.budget import SHARES, divide
from vlaudit.audit.journal import PlannedProbe, Unit
from vlaudit.audit.judge import cure
from vlaudit.audit.subjects import Subject
from vlaudit.audit.targets import USELESS, file_bytes
from vlaudit.cage import Phase, memory
from vlaudit.config import Request
from vlaudit.errors import ModelError, NotAssessed, VlauditError, foreign
from vlaudit.families.base import Speed
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import MOST_SECONDS, REFERENCE, TARGET, Case, Compares, Cost
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import duration, time_text

PLAN_SECONDS = 900.0  # that the cases of one probe may take
OVERHEAD = 0.05  # seconds that a unit takes beside its passes
LONGEST = 60.0  # seconds that a unit may be estimated to take, where it can be cut
Party = tuple[Subject, ...]  # the targets that a probe looks at together, the first being the finding's; mostly one
OWN = 200_000_000  # bytes that a forked worker takes beside its passes


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
    parties: dict[str, Party] = field(default_factory=dict)  # all that a unit compares, by unit id; none for other units
    shares: dict[str, float] = field(default_factory=dict)  # of the design that a unit belongs to, by unit id
    speeds: dict[str, Speed] = field(default_factory=dict)  # by model
    loads: dict[str, float] = field(default_factory=dict)  # seconds that loading took, by model
    takes: dict[str, int] = field(default_factory=dict)  # bytes that its passes took at most when they were timed, by model
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
    parties: dict[str, Party] = field(default_factory=dict)  # what its units compare, by unit id, where that is more than one
    cases: dict[str, list[Case]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)


class _Draft:
    """One probe on the targets that share a model, or on the sets of targets that it compares, whose designs are made as they are asked
    for. They get one share, so that prompts can be compared, and share their reference."""

    def __init__(self, plan: Plan, name: str, speed: Speed | None) -> None:
        self.plan, self.name, self.speed = plan, name, speed
        self.parties: list[Party] = []
        self._made: dict[float, list[_Design]] = {}

    def designs(self, share: float) -> list[_Design]:
        if share not in self._made:
            self._made[share] = [_design(self.plan, party, self.name, self.speed, share) for party in self.parties]
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
    speeds: Mapping[str, Speed] | None = None, takes: Mapping[str, int] | None = None, workers: int | None = None,
    shares: Mapping[str, float] | None = None, only: str | None = None, again: Mapping[tuple[str, str], float] | None = None, devices: int = 1,
) -> Plan:  # fmt: skip
    """Plan every probe on every target. The reference arm is planned once a model and shared between its prompts.

    ``speeds`` and ``takes``, by model, and ``workers``, which share the budget: of the audit that is resumed; they are measured where
    they are not given. ``shares``: by probe, in the place of what the budget would give it. ``only``: the id of the one target that
    findings are planned for. ``again``: the shares by probe and model of what is planned a second time; nothing else is then.
    ``devices``: that have a worker each.
    """
    probes = {name: registry.make(name, request.params.get(name)) for name in request.probes}
    plan = Plan(request, targets, references, probes, [], speeds=dict(speeds or {}), takes=dict(takes or {}))
    drafts: dict[tuple[str, str], _Draft] = {}
    order: list[tuple[_Draft, int]] = []
    _measure(plan, workers, devices)
    for subject in targets:
        for name, probe in probes.items():
            party = _party(plan, probe, subject)
            if _is_for_others(probe, subject, targets) or party[0] is not subject or (only is not None and subject.id != only):
                continue
            if again is not None and (name, subject.spec.model) not in again:
                continue
            draft = drafts.setdefault((name, subject.spec.model), _Draft(plan, name, plan.speeds.get(subject.spec.model)))
            draft.parties.append(party)
            order.append((draft, len(draft.parties) - 1))
    given = dict(again) if again is not None else _share_out(plan, list(drafts.values()), shares or {})
    for draft, place in order:
        share = given[draft.name, draft.parties[0][0].spec.model]
        design = draft.designs(share or 1.0)[place]
        if share is None and not design.planned.reason:
            design = _Design(design.planned.model_copy(update={"units": [], "reason": _too_dear(plan, draft)}))
        plan.planned.append(design.planned)
        plan.cases |= design.cases
        plan.costs |= design.costs
        plan.parties |= design.parties
        plan.shares |= dict.fromkeys(design.cases, design.planned.share)
    return plan


def _measure(plan: Plan, workers: int | None, devices: int) -> None:
    """What passes of each model take, where that is not known, and how many workers there are."""
    known = set(plan.speeds)
    for subject in plan.targets:
        _calibrate(plan, subject)
    plan.workers = workers or (devices if devices > 1 else side_by_side(plan))
    if plan.workers == 1:
        _with_all_threads(plan, {subject.spec.model for subject in plan.targets if _by_processes(subject)} - known)
    for subject in (*plan.targets, *plan.references.values()):
        if subject.target is not None:
            subject.target.speed = plan.speeds.get(subject.spec.model)


def _calibrate(plan: Plan, subject: Subject) -> None:
    """Measure what passes of a model take, if that is not known: on a CPU with one thread, which other programs do not make wait for
    its like."""
    if subject.target is None:
        return
    model = subject.spec.model
    if model not in plan.speeds:
        try:
            on = context(plan.request, subject, "calibration", TARGET, ArtifactStore(Path()))
            with foreign(f"'{model}' cannot be used", USELESS), _one_thread(_by_processes(subject)), memory.most() as most:
                plan.speeds[model] = subject.target.calibrate(on)
                plan.takes[model] = most()
        except ModelError as error:
            subject.lose(error)


def _with_all_threads(plan: Plan, models: set[str]) -> None:
    """What was timed with one thread will have all."""
    import torch

    for model in models & plan.speeds.keys():
        plan.speeds[model] = plan.speeds[model].times(1 / torch.get_num_threads())


@contextlib.contextmanager
def _one_thread(one: bool) -> Iterator[None]:
    """While open, torch has one thread where that is asked for."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if one else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _share_out(plan: Plan, drafts: list[_Draft], shares: Mapping[str, float]) -> dict[tuple[str, str], float | None]:
    """The share of each draft, by probe and model; None where its least design does not fit the budget."""
    keys, budget = [(draft.name, draft.parties[0][0].spec.model) for draft in drafts], plan.request.budget
    if shares or budget is None:
        return {key: shares.get(key[0], 1.0) for key in keys}
    if any(subject.target is not None and not subject.target.loaded for subject in plan.targets):
        for draft, share in product(drafts, SHARES):  # while its model is in memory, which makes room for the next draft's
            draft.takes(share)
    whole = sum(draft.takes(1.0) or 0.0 for draft in drafts)
    plan.whole = min(whole, MOST_SECONDS) if whole > budget else None
    return dict(zip(keys, divide([draft.takes for draft in drafts], budget), strict=True))


def _too_dear(plan: Plan, draft: _Draft) -> str:
    least = next(seconds for share in reversed(SHARES) if (seconds := draft.takes(share)) is not None)
    return (
        f"its smallest design takes about {duration(least)}, which does not fit the budget of {time_text(plan.request.budget or 0)} "
        f"beside the other probes; {cure(plan.whole)}"
    )


def _party(plan: Plan, probe: Probe, subject: Subject) -> Party:
    """What a probe looks at together with a target, in the order of the audit: all prompts of its model on the same data with their
    references, or all targets of the probe's families on them. The target alone where the probe compares nothing, or it could not be loaded."""
    compares = probe.info.compares
    if compares is None or subject.target is None or subject.info.family not in probe.info.families:
        return (subject,)
    there = [other for other in plan.targets if other.target is not None]
    if compares is Compares.TARGETS:
        same = (other for other in there if other.data.audits_as(subject.data) and other.labels == subject.labels)
        return tuple(other for other in same if other.info.family in probe.info.families)
    return _prompts(plan, subject)


def _prompts(plan: Plan, subject: Subject) -> Party:
    """All prompts of a target's model on the same data, and their references."""
    party = [other for other in plan.targets if other.target is not None and _same_ground(other, subject)]
    for other in dict.fromkeys(other.info.reference for other in party):
        reference = plan.references.get(other or "")
        if reference is not None and not any(reference.stands_for(target) for target in party):
            party.append(reference)
    return tuple(party)


def _same_ground(one: Subject, other: Subject) -> bool:
    """Whether both are the same model on the same pictures."""
    return one.spec.model == other.spec.model and one.data.audits_as(other.data) and one.labels == other.labels


def _design(plan: Plan, party: Party, name: str, speed: Speed | None, share: float) -> _Design:
    probe = plan.probes[name]
    lacking = {subject.id: reason for subject in party if (reason := missing(probe, subject)) is not None}
    left = tuple(subject for subject in party if subject.id not in lacking)
    others = [subject.id for subject in (left or party)[1:] if subject in plan.targets]
    planned = PlannedProbe(
        target=(left or party)[0].id, probe=name, related=others, left_out=[f"{id_}: {why}" for id_, why in lacking.items() if left],
    )  # fmt: skip
    reason = None if left else lacking[party[0].id]
    if probe.info.compares and len(left) == 1:
        reason = f"it compares {probe.info.compares}, and there is one: {_MORE[probe.info.compares]}"
    if reason is not None:
        return _Design(planned.model_copy(update={"reason": reason}))
    if not probe.info.compares and probe.tries_elsewhere():
        left += tuple(other for other in _prompts(plan, left[0]) if other is not left[0])
        planned = planned.model_copy(update={"beside": [other.id for other in left[1:] if other in plan.targets]})
    ctx = compared_context(plan.request, left, name, ArtifactStore(Path()), share=share)
    cage.say(phase=Phase.LOAD, what=f"the plan of {name}", limit=PLAN_SECONDS)
    try:
        return _cut(plan, left, planned, probe, speed, ctx)
    except NotAssessed as error:
        return _Design(planned.model_copy(update={"reason": str(error)}))
    except (KeyboardInterrupt, VlauditError):
        raise
    except BaseException as error:  # noqa: BLE001 (a plugin may raise anything; it spoils only itself)
        reason = f"the probe failed: {cage.foreign_words(error)}"
        return _Design(planned.model_copy(update={"reason": reason, "failed": True}))


_MORE = {
    Compares.PROMPTS: "name more with --prompt",
    Compares.TARGETS: "name more, on the same data",
}


def _cut(plan: Plan, party: Party, planned: PlannedProbe, probe: Probe, speed: Speed | None, ctx: Context) -> _Design:
    """The cases of a probe, cut into units of work by the probe itself."""
    subject, name = party[0], planned.probe
    cases = probe.cases(ctx)
    if not cases:
        return _Design(planned.model_copy(update={"reason": "the probe finds nothing to try on these data"}))
    reduced = list(ctx.reduced)
    arms = [(subject, ctx)]
    note, borrowed = subject.info.reference_note, False
    if probe.info.compares:
        note = "the reference is one of those compared"
    elif not (probe.wants_reference() and probe.needs_prompt()):
        note = "this probe has no reference arm"
    elif subject.info.reference is not None:
        twin = _twin(plan, probe, plan.references[subject.info.reference], ctx, cases)
        borrowed = twin is not None
        reference = (plan.references[subject.info.reference], replace(ctx, arm=REFERENCE, peers=[]))
        arms.append((twin, replace(ctx, _target=twin.target)) if twin else reference)
    design = _Design(planned.model_copy(update={"share": ctx.share if reduced else 1.0, "reduced": reduced, "reference_note": note}))
    looks = party if len(party) > 1 else ()
    for number, batch in enumerate(probe.rounds(cases)):
        sides = [_for_all(plan, party, ctx)] if looks and probe.runs_once(batch) else [(*arm, looks if arm[1].on_target else ()) for arm in arms]
        for place, (asked, own, beside) in enumerate(sides):
            for shard in [part for whole in probe.shards(batch) for part in _parts(probe, own, asked, list(whole), speed)]:
                looked_at = sorted([other.id, other.info.prompt.sha256 or ""] for other in beside)
                who = asked.id if probe.needs_prompt() else subject.info.model.model_dump(include={"spec", "sha256"})
                identity = [who, own.arm, name, probe.info.version, probe.model_dump(mode="json"), plan.request.seed,
                            plan.request.effort, design.planned.share,
                            asked.info.data and asked.info.data.model_dump(mode="json", exclude={"notes"}),
                            [case.model_dump(mode="json") for case in shard], *looked_at]  # fmt: skip
                unit_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
                cost = _estimate(probe, own, asked, shard)
                weight = speed.seconds(cost) if speed else 0.0
                design.planned.units.append(
                    Unit(id=unit_id, subject=asked.id, probe=name, arm=own.arm, cases=[c.id for c in shard], round=number,
                         weight=round(min(max(weight, 0.0), MOST_SECONDS), 4))
                )  # fmt: skip
                design.cases[unit_id], design.costs[unit_id] = shard, cost
                if borrowed and place:
                    design.planned.borrowed.append(unit_id)
                elif beside:
                    design.parties[unit_id] = beside
    return design


def _for_all(plan: Plan, party: Party, ctx: Context) -> tuple[Subject, Context, Party]:
    """What is looked at once for all of a party: its targets before its references, each by name."""
    every = tuple(sorted(party, key=lambda subject: (subject not in plan.targets, subject.id)))
    own = compared_context(plan.request, every, ctx.probe, ctx.artifacts, share=ctx.share)
    return every[0], own, every


def _twin(plan: Plan, probe: Probe, reference: Subject, ctx: Context, cases: list[Case]) -> Subject | None:
    """The target that is the reference itself and tries the same cases, so that its trials are those of the reference arm too."""
    for target in plan.targets:
        if target.target is not None and reference.stands_for(target) and not missing(probe, target):
            seen = (target, *(other for other in _prompts(plan, target) if other is not target)) if probe.tries_elsewhere() else (target,)
            own = compared_context(plan.request, seen, ctx.probe, ctx.artifacts, share=ctx.share)
            with contextlib.suppress(NotAssessed):
                return target if probe.cases(own) == cases else None
    return None


def _estimate(probe: Probe, ctx: Context, asked: Subject, cases: list[Case]) -> Cost:
    """What cases cost on one arm, with what its prompt itself passes where the probe asks through it; a probe that compares reckons with
    that of each by itself."""
    cost = probe.estimate(ctx, cases)
    through = probe.needs_prompt() and not probe.info.compares
    return asked.target.whole(cost, len(asked.labels)) if asked.target and through else cost


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


def side_by_side(plan: Plan) -> int:
    """How many forked workers the cores and the memory that is left allow: they share the models that are loaded, and each takes what its
    passes take. One where processes cannot share models."""
    from joblib import cpu_count  # knows of affinity and of a container's share

    loaded = [subject for subject in (*plan.targets, *plan.references.values()) if subject.target is not None]
    if sys.platform != "linux" or not all(map(_by_processes, loaded)):
        return 1
    own = (plan.takes.get(subject.spec.model, 0) + (0 if subject.target and subject.target.loaded else file_bytes(subject.files)) for subject in loaded)
    return max(1, min(cpu_count(), memory.room() // (OWN + max(own, default=0))))


def _by_processes(subject: Subject) -> bool:
    """Whether processes of one thread run it best: on a CPU of this machine."""
    return subject.target is not None and subject.target.device.type == "cpu" and Needs.FILES in subject.target.capabilities


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
        probe=probe, arm=arm, name=subject.id, data=subject.data, labels=subject.labels, artifacts=artifacts, seed=request.seed,
        effort=request.effort, batch_size=batch_size, files=subject.files, share=share, policy=request.policy, _target=subject.target,
        _pixels=subject.pixels, _scorer=subject.scorer,
    )  # fmt: skip


def compared_context(
    request: Request, party: Party, probe: str, artifacts: ArtifactStore, batch_size: int = 128, share: float = 1.0
) -> Context:
    """The context of one probe on the first of a party, with the others beside it where there are any."""
    contexts = [context(request, subject, probe, TARGET, artifacts, batch_size, share) for subject in party]
    return replace(contexts[0], peers=contexts) if len(contexts) > 1 else contexts[0]
