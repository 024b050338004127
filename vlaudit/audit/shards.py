"""Shards: one plan, run in parts by machines that know nothing of each other.

A plan's folder holds its manifest. Who runs a shard, divides the manifest by a rule that has no chance in it, loads the models of its
own part alone, plans that part again and holds it against the manifest. ``merge.py`` makes one audit of what came out.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from pydantic import Field, ValidationError

from vlaudit import __version__
from vlaudit.audit.journal import ANEW, MANIFEST, Journal, Manifest, PlannedProbe, Unit, UnitResult, read_part
from vlaudit.audit.judge import is_done, rounds_needed
from vlaudit.audit.plan import OVERHEAD, Plan, make_plan
from vlaudit.audit.provenance import changes, fingerprints, probe_sources
from vlaudit.audit.targets import Loader, Subject, resolve_zoo
from vlaudit.checksums import sealed, unsealed
from vlaudit.errors import UsageError
from vlaudit.families.base import Speed
from vlaudit.files import Unreadable, disk_error, write_atomically
from vlaudit.probe import Probe
from vlaudit.records import Record, TargetInfo
from vlaudit.registry import ProbeRegistry

SHARD = "shard.json"
FOLDER = "shards"  # of a plan's folder: where its shards go that are not told where
MOST_SHARDS = 100_000
LOAD_SECONDS = 5.0  # that loading a model is taken to need where no plan has measured it
_NARROWINGS = 24  # of the time that the fullest shard may take


class ShardInfo(Record):
    """What ``shard.json`` says of a folder: which part of which plan it holds, and where that ran."""

    schema_version: str = "1.0"
    plan: str  # id of the audit that was planned
    shard: str  # such as 2/8
    version: str
    command: str = ""
    environment: dict[str, str | int | None] = Field(default_factory=dict)

    def name(self) -> str:
        return f"shard {self.shard}"


def parse_shard(text: str) -> tuple[int, int]:
    """``2/8`` to (2, 8). Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count <= MOST_SHARDS:
        raise UsageError(f"'{text}' is no shard.", f"Write NUMBER/COUNT, from 1/8 to 8/8; there may be {MOST_SHARDS:,}.")
    return number, count


# --- who runs what ------------------------------------------------------------------------------------------------------


@dataclass
class Pile:
    """What must run of one model, as pieces that are not cut: (milliseconds, ids of units), the longest first."""

    model: str
    load: int
    pieces: list[tuple[int, list[str]]] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)  # of the pieces before each, and of all

    @property
    def work(self) -> int:
        return self.sums[-1]


def divide(manifest: Manifest, count: int) -> list[list[str]]:
    """The ids of the units of each of ``count`` shards: the same wherever it is asked, so milliseconds are whole numbers.

    The time of the fullest shard is made as small as this finds it: model after model, the one with most work first, goes to the
    fullest shard that has room for all of it; where none has, it is spread over those with most room. A shard pays for every model that
    it loads, so a model is loaded by few.
    """
    piles = _piles(manifest)
    low = max([*(pile.load + pile.pieces[0][0] for pile in piles), sum(pile.work for pile in piles) // count])
    high = sum(pile.load + pile.work for pile in piles)
    best = fill(piles, count, high)
    assert best is not None
    for _ in range(_NARROWINGS):
        middle = (low + high) // 2
        found = fill(piles, count, middle)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
        if low >= high:
            break
    shards: list[list[str]] = [[] for _ in range(count)]
    for (shard, place), spans in best.items():
        for start, stop in spans:
            shards[shard] += [unit for _, units in piles[place].pieces[start:stop] for unit in units]
    return shards


def fill(piles: Sequence[Pile], count: int, limit: int) -> dict[tuple[int, int], list[tuple[int, int]]] | None:
    """Which pieces of each pile go to each shard, as spans by (shard, pile), where none takes longer than ``limit``; None where they
    do not fit."""
    rooms = [(limit, shard) for shard in range(count)]  # ascending
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, pile in enumerate(piles):
        start, stop = 0, len(pile.pieces)
        while start < stop:
            left = pile.sums[stop] - pile.sums[start]
            at = bisect_right(rooms, (pile.load + left, -1))
            room, shard = rooms.pop(at if at < len(rooms) else -1)
            spare = room - pile.load
            if spare < 0:
                return None
            head = bisect_right(pile.sums, pile.sums[start] + spare, start, stop + 1) - 1
            spare -= pile.sums[head] - pile.sums[start]
            tail = max(head, _first(pile.sums, pile.sums[stop] - spare, head, stop))
            if head == start and tail == stop:
                return None
            found[shard, place] = [(start, head), (tail, stop)]
            spare -= pile.sums[stop] - pile.sums[tail]
            insort(rooms, (spare, shard))
            start, stop = head, tail
    return found


def _first(sums: Sequence[int], least: int, low: int, high: int) -> int:
    """The first place from ``low`` to ``high`` whose sum is not below ``least``."""
    while low < high:
        middle = (low + high) // 2
        if sums[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


def milliseconds(units: Iterable[Unit]) -> int:
    return sum(round(1000 * (unit.weight + OVERHEAD)) for unit in units)


def _piles(manifest: Manifest) -> list[Pile]:
    """The pieces of a plan by model. Probes that may stop after a round stay whole, with all that shares units with them: what comes
    next depends on all that came before. All other units stand by themselves."""
    models = {target: resolve_zoo(spec).model for target, spec in manifest.specs.items()}
    units: dict[str, Unit] = {}
    owner: dict[str, str] = {}
    whole: dict[str, str] = {}  # union-find: by unit, another of its piece
    for planned in manifest.planned:
        for unit in planned.units:
            units.setdefault(unit.id, unit)
            owner.setdefault(unit.id, models[planned.target])
        if len({unit.round for unit in planned.units}) > 1:
            for unit in planned.units:
                whole[_root(whole, unit.id)] = _root(whole, planned.units[0].id)
    pieces: dict[str, list[str]] = {}
    for id_ in units:
        pieces.setdefault(_root(whole, id_), []).append(id_)
    piles: dict[str, Pile] = {}
    for root, ids in pieces.items():
        model = owner[root]
        if model not in piles:
            piles[model] = Pile(model, round(1000 * manifest.loads.get(model, LOAD_SECONDS)))
        piles[model].pieces.append((milliseconds(units[id_] for id_ in ids), ids))
    for pile in piles.values():
        pile.pieces.sort(key=lambda piece: -piece[0])  # stable: those of one length in the order of the plan
        pile.sums = [0, *accumulate(piece[0] for piece in pile.pieces)]
    return sorted(piles.values(), key=lambda pile: -pile.work)


def _root(whole: dict[str, str], unit: str) -> str:
    while (above := whole.get(unit, unit)) != unit:
        whole[unit] = whole.get(above, above)
        unit = above
    return unit


# --- one shard ----------------------------------------------------------------------------------------------------------


def part_of(manifest: Manifest, units: Iterable[str]) -> list[PlannedProbe]:
    """What is planned, cut down to some units."""
    own = set(units)
    parts = [item.model_copy(update={"units": [unit for unit in item.units if unit.id in own]}) for item in manifest.planned]
    return [item for item in parts if item.units]


def all_done(manifest: Manifest, registry: ProbeRegistry, part: Iterable[PlannedProbe], results: dict[str, UnitResult]) -> bool:
    """Whether nothing of a part is left to run."""
    return all(
        is_done(unit, results)
        for planned in part
        for batch in rounds_needed(_probe(manifest, registry, planned), planned, results, manifest.request.policy)
        for unit in batch
    )


def _probe(manifest: Manifest, registry: ProbeRegistry, planned: PlannedProbe) -> Probe:
    return registry.make(planned.probe, manifest.request.params.get(planned.probe))


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
    speeds = {model: Speed(**speed) for model, speed in manifest.speeds.items()}
    plan = make_plan(own, registry, subjects, references, speeds=speeds, takes=manifest.takes, again=again, devices=devices)
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


# --- its folder ---------------------------------------------------------------------------------------------------------


def open_shard(out: Path, folder: Path, info: ShardInfo) -> Journal:
    """Begin a shard of the plan in ``folder``, or go on with it. Raises UsageError for another one there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    journal = Journal(out)
    journal.lock()
    try:
        there = read_shard(out)
        if there is None:
            if any(not path.name.endswith(".part") for path in out.iterdir()):
                raise UsageError(f"'{out}' is not empty and holds no shard.", "Choose another --out.")
            write_atomically(out / SHARD, sealed(info.model_dump_json(indent=1))[0])
        elif (there.plan, there.shard) != (info.plan, info.shard):
            raise UsageError(f"'{out}' holds {there.name()} of plan {there.plan}.", "Choose another --out.")
        if not os.path.lexists(out / MANIFEST):
            write_atomically(out / MANIFEST, read_part(folder, MANIFEST))
        elif read_part(out, MANIFEST) != read_part(folder, MANIFEST):
            raise UsageError(f"'{out}' holds a shard of a different plan.", "Choose another --out.")
    except BaseException:
        journal.close()
        raise
    return journal


def read_shard(folder: Path) -> ShardInfo | None:
    """What a folder is a shard of; None where it is none. Raises UsageError for what cannot be read."""
    if not os.path.lexists(folder / SHARD):
        return None
    try:
        body, checksum = unsealed(read_part(folder, SHARD))
        if not checksum:
            raise Unreadable("has lost its checksum")
        return ShardInfo.model_validate_json(body)
    except Unreadable as error:
        raise UsageError(f"'{folder / SHARD}' {error}.", ANEW) from error
    except ValidationError as error:
        raise UsageError(f"'{folder / SHARD}' is not what this vlaudit writes.", "Merge with the version that ran the shard.") from error


def same_version(manifest: Manifest, what: str) -> None:
    if manifest.version != __version__:
        raise UsageError(
            f"{what} was made by vlaudit {manifest.version}, and this is {__version__}: they may plan and judge differently.",
            "Use one version for a plan, its shards and their merge.",
        )
