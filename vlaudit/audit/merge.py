"""Shards to one audit: their journals are read line by line, compared where they tell of the same unit, and written anew in the order
of the plan, whatever the order of the shards. The manifest says what belongs to the audit; how many shards there are says nothing.

Nothing is held in memory but where each unit lies: an audit of any length is merged and judged piece by piece.
"""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic import FiniteFloat, ValidationError

from vlaudit.audit.copied import ARTIFACT, copy_evidence
from vlaudit.audit.journal import (
    MANIFEST,
    TRIALS,
    TRIALS_BYTES,
    Journal,
    Manifest,
    Unit,
    UnitResult,
    open_part,
    read_manifest,
    read_part,
)
from vlaudit.audit.planned_again import same_version
from vlaudit.audit.run import make_report
from vlaudit.audit.shard import FOLDER, SHARD, ShardInfo, read_shard
from vlaudit.checksums import resealed, without_checksum
from vlaudit.errors import UsageError, VlauditError
from vlaudit.files import TEXT_BYTES, disk_error, make_folder, open_flags, write_atomically
from vlaudit.records import Cost, Record, Report, Trial, alike
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import plural

KEPT_TRIALS = 100_000  # that are read and may be asked for again
OPEN_FILES = 128
TAIL = 64  # bytes at the end of a manifest, in which its checksum stands
NAMED = 20  # units that a message names one by one
_LINE = re.compile(rb'\{"unit": "([^"\\]{1,200})", "(trial|closed)": ')


class Place(NamedTuple):
    """Where a unit that was closed lies in a journal: the bytes of its trials, and those of the line that closed it."""

    source: int
    start: int
    closing: int
    stop: int
    failed: bool


class _Tried(Record):
    unit: str
    trial: Trial


class _Closing(Record):
    seconds: FiniteFloat = 0.0
    work: FiniteFloat | None = None
    error: str | None = None
    passed: Cost | None = None


class _Closed(Record):
    unit: str
    closed: _Closing


@dataclass
class Shard:
    """A folder that holds a part of a plan."""

    folder: Path
    info: ShardInfo | None

    @property
    def name(self) -> str:
        return f"'{self.folder}'"


@dataclass
class Merged:
    """What came of a merge. ``missing``: units that count and that nobody ran. ``twice``: how many ran in several shards, and came to
    the same."""

    report: Report
    missing: list[Unit]
    twice: int
    remarks: list[str] = field(default_factory=list)


def find_shards(folders: Iterable[Path]) -> list[Shard]:
    """The shards that folders are or, as those of plans, hold; one that is named twice counts once. Raises UsageError."""
    found: dict[str, Shard] = {}
    for folder in folders:
        inside = sorted(path.parent for path in (folder / FOLDER).glob(f"*/{SHARD}"))
        if not inside and os.path.lexists(folder / MANIFEST) and not os.path.lexists(folder / TRIALS) and read_shard(folder) is None:
            raise UsageError(f"'{folder}' is a plan of which no shard was run.", "Name the folders of its shards.")
        for each in inside or [folder]:
            found.setdefault(os.path.realpath(each), Shard(each, read_shard(each)))
    return list(found.values())


def merge(shards: Sequence[Shard], out: Path, registry: ProbeRegistry) -> Merged:
    """Write the audit that all shards make together into ``out``, but for its report, which is returned.

    Raises UsageError for shards of different plans and for damaged ones, VlauditError where two tell differently of a unit; nothing is
    written then.
    """
    manifest = _common(shards)
    tried: dict[str, list[Place]] = {}
    with _Sources(shards) as sources:
        for number in range(len(shards)):
            for unit, place in sources.closed(number):
                tried.setdefault(unit, []).append(place)
        units = {unit.id: unit for planned in manifest.planned for unit in planned.units}
        foreign = next((unit for unit in tried if unit not in units), None)
        if foreign is not None:
            raise UsageError(f"{shards[tried[foreign][0].source].name} holds a unit that its plan does not know, '{foreign}'.", _ONE_PLAN)
        chosen, twice = {}, 0
        for id_ in (id_ for id_ in units if id_ in tried):
            good = [place for place in tried[id_] if not place.failed]
            twice += len(good) > 1
            chosen[id_] = sources.agreed(units[id_], good or tried[id_][:1])
        journal, written = _begin(out, shards), {}
        try:
            written = sources.write(out, chosen)
            write_atomically(out / MANIFEST, read_part(shards[0].folder, MANIFEST))
        finally:
            journal.close()
    with Stored(out, written) as results:
        report = make_report(manifest, results, registry, manifest.request.policy)
    missing = _missing(manifest, report, units, written)
    errors = [*report.audit.errors, *_told(missing)]
    report = report.model_copy(update={"audit": report.audit.model_copy(update={"errors": errors})})
    return Merged(report, missing, twice, _elsewhere(shards, manifest))


_ONE_PLAN = "Merge shards of one plan."


def _common(shards: Sequence[Shard]) -> Manifest:
    """The manifest that all shards have. Raises UsageError that says what two of them differ in."""
    if not shards:
        raise UsageError("There is no shard to merge.", "Name the folders of shards, or of their plan.")
    manifest, own = read_manifest(shards[0].folder), _identity(shards[0].folder)
    same_version(manifest, f"The plan of {shards[0].name}")
    for shard in shards:
        if shard.info is not None and shard.info.version != manifest.version:
            raise UsageError(
                f"{shard.name} was run by vlaudit {shard.info.version}, and its plan made by {manifest.version}.",
                "Use one version for a plan, its shards and their merge.",
            )
        if _identity(shard.folder) != own:
            raise UsageError(
                f"{shards[0].name} and {shard.name} are of different plans: {_difference(manifest, read_manifest(shard.folder))}.", _ONE_PLAN
            )
        if shard.info is not None and shard.info.plan != manifest.id:
            raise UsageError(f"{shard.name} says that it is of plan {shard.info.plan}, and its manifest is of {manifest.id}.", _ONE_PLAN)
    return manifest


def _identity(folder: Path) -> tuple[int, bytes]:
    """Size and end of a manifest, where the checksum over all of it stands."""
    if not os.path.lexists(folder / MANIFEST):
        raise UsageError(f"'{folder}' is no shard: it has no {MANIFEST}.", "Name folders of vlaudit scan --plan, or of vlaudit plan.")
    with open_part(folder, MANIFEST, TEXT_BYTES) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return size, file.read(TAIL)


def _difference(one: Manifest, other: Manifest) -> str:
    if one.version != other.version:
        return f"one of vlaudit {one.version}, one of {other.version}"
    if one.request.seed != other.request.seed:
        return f"one has the seed {one.request.seed}, one {other.request.seed}"
    if one.digest != other.digest:
        return "other targets, probes or parameters"
    if one.fingerprints != other.fingerprints or one.targets != other.targets:
        return "other data or models"
    return f"one was made at {one.started}, one at {other.started}"


class _Sources:
    """The journals of shards, of which a few are open at a time."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def closed(self, number: int) -> Iterator[tuple[str, Place]]:
        """The units that a shard has closed, and of each that failed first and then succeeded only the success."""
        journal, found, begun = Journal(self._shards[number].folder), dict[str, Place](), dict[str, int]()
        for line in journal.lines():
            match = _LINE.match(line.body)
            if match is None or not line.checksum:
                why = "is not what a scan writes" if line.checksum else "has lost its checksum"
                raise journal.damaged(line.number, why)
            unit = match[1].decode("utf-8", "replace")
            start = begun.setdefault(unit, line.start)
            if match[2] == b"trial":
                if len(begun) > 1:
                    raise journal.damaged(line.number, "stands within another unit")
                continue
            try:
                failed = _Closed.model_validate_json(line.body).closed.error is not None
            except ValidationError as error:
                raise journal.damaged(line.number, "is not what a scan writes") from error
            del begun[unit]
            if unit not in found or found[unit].failed:
                found[unit] = Place(number, start, line.start, line.stop, failed)
        yield from found.items()

    def _file(self, number: int) -> BinaryIO:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = open_part(self._shards[number].folder, TRIALS, TRIALS_BYTES)
        return self._open[number]

    def read(self, place: Place) -> bytes:
        file = self._file(place.source)
        file.seek(place.start)
        return file.read(place.stop - place.start)

    def agreed(self, unit: Unit, places: Sequence[Place]) -> Place:
        """Of several that ran the same unit, the one to keep, whatever their order. Raises VlauditError where they do not agree."""
        if len(places) == 1:
            return places[0]
        found = [(_parsed(unit.id, self.read(place)[: place.closing - place.start]), place) for place in places]
        first, there = found[0]
        for trials, place in found[1:]:
            if not _agree(first, trials):
                raise VlauditError(
                    f"{self._shards[there.source].name} and {self._shards[place.source].name} differ in what they tell of the same unit: "
                    f"{_named(unit)}.",
                    "One of the machines errs, or what they ran differs: run that shard again, into a new folder.",
                )
        return min(found, key=lambda one: [trial.model_dump_json(exclude={"cost"}) for trial in one[0]])[1]

    def write(self, out: Path, chosen: Mapping[str, Place]) -> dict[str, Place]:
        """Write ``trials.jsonl`` and the evidence that it names. Returns where each unit lies in it."""
        written, last, size, kept = dict[str, Place](), "", 0, set[bytes]()
        partial = out / f".{TRIALS}.part"
        try:
            partial.unlink(missing_ok=True)  # of an earlier merge that was killed, or somebody's link
            with open(os.open(partial, open_flags("WRONLY", "CREAT", "EXCL", "NOFOLLOW"), 0o666), "wb") as file:
                for unit, place in chosen.items():
                    start, closing, content = size, size, self.read(place)
                    for line in io.BytesIO(content):
                        sealed, last = resealed(line, last)
                        closing, size = size, size + len(sealed)
                        file.write(sealed)
                    written[unit] = Place(0, start, closing, size, place.failed)
                    for name, sha256 in ARTIFACT.findall(content):
                        if name not in kept and copy_evidence(self._shards[place.source].folder, out, name.decode(), sha256.decode()):
                            kept.add(name)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(out / TRIALS)
        except OSError as error:
            raise disk_error(error, out) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return written


def _parsed(unit: str, content: bytes) -> list[Trial]:
    """The trials of a unit, in some lines of a journal. Raises UsageError."""
    with _as_written(unit):
        return [_Tried.model_validate_json(without_checksum(line)).trial for line in io.BytesIO(content)]


@contextmanager
def _as_written(unit: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise UsageError(f"The trials of unit '{unit}' are not what a scan writes.", "Run its shard again, into a new folder.") from error


def _agree(one: list[Trial], other: list[Trial]) -> bool:
    """Whether two runs of a unit came to the same, but for the last bits of floats."""
    return len(one) == len(other) and all(
        (a.case, a.arm) == (b.case, b.arm) and alike(dict(a.values), dict(b.values)) for a, b in zip(one, other, strict=True)
    )


def _begin(out: Path, shards: Sequence[Shard]) -> Journal:
    """The folder to write into: a new one, or that of an earlier merge of the same plan. Raises UsageError."""
    here = os.path.realpath(out)
    if any(here == os.path.realpath(shard.folder) for shard in shards):
        raise UsageError(f"'{out}' is one of the shards, which stay as they are.", "Choose another --out.")
    make_folder(out)
    journal = Journal(out)
    journal.lock()
    there = [path for path in out.iterdir() if not path.name.endswith(".part")]
    merged = os.path.lexists(out / MANIFEST) and os.path.lexists(out / TRIALS) and _identity(out) == _identity(shards[0].folder)
    if there and not merged:
        journal.close()
        raise UsageError(f"'{out}' is not empty and holds no merge of this plan.", "Choose another --out.")
    return journal


class Stored(Mapping[str, UnitResult]):
    """The results in a merged journal, read when they are asked for."""

    def __init__(self, folder: Path, places: Mapping[str, Place]) -> None:
        self._folder, self._places = folder, places
        self._kept: OrderedDict[str, UnitResult] = OrderedDict()
        self._trials = 0  # that are kept

    def __enter__(self) -> Stored:
        with ExitStack() as stack:
            self._file = stack.enter_context(open_part(self._folder, TRIALS, TRIALS_BYTES))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, unit: object) -> bool:
        return unit in self._places

    def __getitem__(self, unit: str) -> UnitResult:
        if unit in self._kept:
            self._kept.move_to_end(unit)
            return self._kept[unit]
        place = self._places[unit]
        self._file.seek(place.start)
        content = self._file.read(place.stop - place.start)
        end = place.closing - place.start
        with _as_written(unit):
            closed = _Closed.model_validate_json(without_checksum(content[end:])).closed
        result = UnitResult(unit=unit, trials=_parsed(unit, content[:end]), **closed.model_dump())
        self._kept[unit] = result
        self._trials += len(result.trials)
        while self._trials > KEPT_TRIALS and len(self._kept) > 1:
            self._trials -= len(self._kept.popitem(last=False)[1].trials)
        return result


def _missing(manifest: Manifest, report: Report, units: Mapping[str, Unit], written: Mapping[str, Place]) -> list[Unit]:
    """Units that count and that nobody ran: none of a round that a probe has decided it does not need."""
    if report.audit.complete:
        return []
    first: dict[str, Unit] = {}
    for planned in manifest.planned:
        for number in sorted({unit.round for unit in planned.units}):
            lost = [unit for unit in planned.units if unit.round == number and unit.id not in written]
            first |= {unit.id: unit for unit in lost}
            if lost:
                break  # whether a later round is needed is not known
    return [unit for id_, unit in units.items() if id_ in first]


def _told(missing: Sequence[Unit]) -> list[str]:
    """A sentence for each probe and subject of which units are missing."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for unit in missing:
        found.setdefault((unit.probe, unit.subject, unit.arm), []).append(unit.id)
    return [
        f"{probe} on {subject} ({arm}): {plural(len(ids), 'unit')} in no shard: {', '.join(ids[:NAMED])}{' ...' if len(ids) > NAMED else ''}"
        for (probe, subject, arm), ids in found.items()
    ]


def _named(unit: Unit) -> str:
    return f"{unit.id}, {unit.probe} on {unit.subject} ({unit.arm})"


def _elsewhere(shards: Sequence[Shard], manifest: Manifest) -> list[str]:
    """What shards ran on that is not what they were planned on, one sentence a kind."""
    found: dict[str, set[str]] = {}
    for shard in shards:
        for name, value in (shard.info.environment if shard.info else {}).items():
            if value != manifest.environment.get(name):
                found.setdefault(name, set()).add(str(value))
    return [
        f"Shards ran with another {name} than planned: {', '.join(sorted(values)[:4])} instead of {manifest.environment.get(name)}."
        for name, values in found.items()
    ]
