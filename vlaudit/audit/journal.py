"""The append-only journal of an audit: ``manifest.json`` and ``trials.jsonl``.

A unit's trials and its closing line are written with one ``write`` and synced, so a killed audit loses at most the unit
it was in, and resuming skips what is closed. Every line carries a checksum over itself and the line before (``checksums.py``):
what was altered, dropped, repeated or moved is refused by its number. Only the scan that writes a journal cuts a torn last line
off; everybody else leaves the file as it is. An audit folder may come from anybody: no link in it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

from pydantic import Field, ValidationError

from vlaudit.checksums import has_more, sealed, unsealed
from vlaudit.config import Request, TargetSpec
from vlaudit.details import check_finite
from vlaudit.errors import UsageError, VlauditWarning
from vlaudit.families.base import Speed
from vlaudit.files import (
    TEXT_BYTES,
    Unreadable,
    disk_error,
    open_bytes,
    open_flags,
    parse_json,
    read_bytes,
    write_atomically,
)
from vlaudit.records import MOST_FINDINGS, MOST_TARGETS, Cost, Record, Reduced, Seconds, TargetInfo, Trial
from vlaudit.reporting import without_surrogates

MANIFEST, TRIALS = "manifest.json", "trials.jsonl"
SCHEMA_VERSION = "1.1"  # 1.0 had no checksums
TRIALS_BYTES = 1_000_000_000  # longest journal that is read
ANEW = "Copy the folder again from where it was made, or scan into a new one."


class Unit(Record):
    """One piece of work: a pure function of (subject, probe, cases, seed)."""

    id: str
    subject: str  # the target, or the reference prompt on its model: what is loaded
    probe: str
    arm: str
    cases: list[str]
    round: int = Field(0, ge=0)
    weight: Seconds = 1.0  # estimated


class PlannedProbe(Record):
    """One probe on one target: its units, or the reason why it cannot run."""

    target: str
    probe: str
    reason: str | None = None
    units: list[Unit] = Field(default_factory=list)
    share: float = Field(1.0, ge=0, le=1)  # of what the probe would try without a budget
    reduced: list[Reduced] = Field(default_factory=list)  # what it tries fewer of
    reference_note: str | None = None
    related: list[str] = Field(default_factory=list)  # the other targets that it compares with this one
    beside: list[str] = Field(default_factory=list)  # targets under whose prompts what is found is tried too
    left_out: list[str] = Field(default_factory=list)  # why others were not compared, one sentence each
    borrowed: list[str] = Field(default_factory=list)  # units of another target whose trials are this one's reference
    failed: bool = False  # it could not be planned: an error, not a lack


class ProbeSource(Record):
    """Which probe it was: its version, and the SHA-256 of the file that defines it."""

    version: str
    code: str | None = None


class Manifest(Record):
    """What an audit set out to do: enough to resume it, to judge it without the model, and to replay its findings.

    What has a default was not recorded by earlier versions.
    """

    schema_version: str = SCHEMA_VERSION
    version: str
    id: str
    digest: str
    command: str
    started: str
    request: Request
    targets: list[TargetInfo] = Field(max_length=MOST_TARGETS)
    planned: list[PlannedProbe] = Field(max_length=MOST_FINDINGS)
    environment: dict[str, str | int | None] = Field(default_factory=dict)
    folder: str | None = None  # that it was started in, relative to the audit folder: where its relative paths begin
    batch_size: int | None = Field(None, ge=1)
    probes: dict[str, ProbeSource] = Field(default_factory=dict)  # by probe id
    fingerprints: dict[str, dict[str, str]] = Field(default_factory=dict)  # by target id: see provenance.py
    replays: str | None = None  # AUDIT/FINDING that this audit runs again
    speeds: dict[str, Speed] = Field(default_factory=dict)  # by model
    whole: Seconds | None = None  # that all would take that the budget left out a part of
    references: dict[str, str] = Field(default_factory=dict)  # the prompt's id of each reference, by what it is loaded as
    loads: dict[str, Seconds] = Field(default_factory=dict)  # that loading a model took, by model
    takes: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)  # bytes that its passes took at most when they were timed, by model
    workers: int | None = Field(None, ge=1, le=1_000_000)  # side by side, among which the budget was divided

    @cached_property
    def specs(self) -> dict[str, TargetSpec]:
        """What each target was made from, by its id."""
        return {info.id: spec for info, spec in zip(self.targets, self.request.targets, strict=True)}


class UnitResult(Record):
    """A closed unit: its trials, or why it failed."""

    unit: str
    trials: list[Trial] = Field(default_factory=list)
    seconds: float = 0.0
    work: float | None = None  # seconds of CPU or device time
    error: str | None = None
    passed: Cost | None = None  # what passed through the models; its trials count what was asked for, remembered or not


class Line(NamedTuple):
    """A line of a journal: its number, its place in bytes, what it holds, and its checksum (empty where it has none)."""

    number: int
    start: int
    stop: int
    body: bytes
    checksum: str


_locks: set[int] = set()  # of this process


def _let_go() -> None:
    """A forked worker that outlives its scan must not keep the next one out."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Journal:
    """Reads and appends one audit folder's journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trials = folder / TRIALS
        self._lock: int | None = None
        self._size: int | None = None  # bytes up to the last closed unit, once this journal is written to
        self._last = ""  # checksum of the last line

    def lock(self) -> None:
        """Become the one scan that writes into this folder, until ``close``. Raises UsageError where another does. Windows has no
        such locks; ``append`` sees there what another has written."""
        if self._lock is not None:
            return
        try:
            import fcntl
        except ImportError:
            return
        try:
            handle = os.open(self.folder, open_flags("RDONLY", "DIRECTORY"))
        except OSError as error:
            raise disk_error(error, self.folder) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise UsageError(
                    f"Another scan is writing into '{self.folder}'.", "Wait for its end, or choose another --out."
                ) from error
            # a file system without locks: ``append`` sees what another has written
        self._lock = handle
        _locks.add(handle)

    def close(self) -> None:
        """Let others write into this folder."""
        if self._lock in _locks:
            _locks.discard(self._lock)
            os.close(self._lock)
        self._lock = self._size = None

    def write_manifest(self, manifest: Manifest) -> None:
        whole = json.dumps(without_surrogates(manifest.model_dump(mode="json")), indent=1, ensure_ascii=False)
        text = sealed(whole)[0]
        if (size := len(text.encode())) > TEXT_BYTES:
            raise UsageError(
                f"The plan takes {size / 1e6:.0f} MB, and no more than {TEXT_BYTES / 1e6:g} MB are read.", "Plan fewer targets or probes at once."
            )
        write_atomically(self.folder / MANIFEST, text)

    def append(self, result: UnitResult) -> None:
        """Close a unit. Raises VlauditError when the disk is full; the journal then still ends on a closed unit."""
        if self._size is None:
            self.results(mend=True)
        assert self._size is not None
        lines, last = "", self._last
        closed = {"seconds": result.seconds, "work": result.work, "error": result.error}
        closing = {"closed": closed if result.passed is None else closed | {"passed": result.passed.model_dump(exclude_defaults=True)}}
        for entry in (*({"trial": trial.model_dump(mode="json")} for trial in result.trials), closing):
            line, last = sealed(json.dumps(without_surrogates({"unit": result.unit, **entry}), allow_nan=False), last)
            lines += f"{line}\n"
        with self._writable() as file:
            if os.fstat(file).st_size != self._size:
                raise UsageError(f"Another scan has written into '{self.folder}'.", "Choose another --out.")
            try:
                left = memoryview(lines.encode())
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            except OSError as error:
                with contextlib.suppress(OSError):  # what is torn now is cut off by the next scan
                    os.ftruncate(file, self._size)
                raise disk_error(error, self.folder) from error
        self._size, self._last = self._size + len(lines.encode()), last

    @contextlib.contextmanager
    def _writable(self) -> Iterator[int]:
        flags = open_flags("WRONLY", "APPEND", "CREAT", "NOFOLLOW", "NONBLOCK")
        try:
            file = os.open(self._trials, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise UsageError(f"'{self._trials}' is not a regular file.", "Choose another --out.") from error
            raise disk_error(error, self.folder) from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UsageError(f"'{self._trials}' is not a regular file.", "Choose another --out.")
            yield file
        finally:
            os.close(file)

    def results(self, *, mend: bool = False) -> dict[str, UnitResult]:
        """Closed units by id; of a unit that failed and was tried again, the last try. Trials of a unit that was never closed are
        dropped, and with them a torn last line. ``mend``: to write on, cut the file there.

        Raises UsageError for what is damaged, by the number of the line, and when mending for a journal without checksums.
        """
        if mend:
            self.lock()
        closed: dict[str, UnitResult] = {}
        pending: dict[str, list[Trial]] = {}
        end, last = 0, ""  # just after the last closed unit
        for line in self.lines():
            try:
                entry = self._entry(line.body)
                unit = entry["unit"]
                if "trial" in entry:
                    pending.setdefault(unit, []).append(Trial.model_validate(entry["trial"]))
                    continue
                result = UnitResult(unit=unit, trials=pending.pop(unit, []), **entry["closed"])
            except (Unreadable, KeyError, TypeError, ValidationError) as error:
                why = str(error) if isinstance(error, Unreadable) else "is not what a scan writes"
                raise self.damaged(line.number, why) from error
            if unit not in closed or closed[unit].error:
                closed[unit] = result
            end, last = line.stop, line.checksum
        if mend:
            if closed and not last:
                raise UsageError(
                    f"'{self._trials}' was written by an earlier version, without checksums.",
                    "It can be judged, but not gone on with: scan into a new folder.",
                )
            if os.path.lexists(self._trials) and end < os.path.getsize(self._trials):
                with self._writable() as file:
                    os.ftruncate(file, end)
            self._size, self._last = end, last
        return closed

    def lines(self) -> Iterator[Line]:
        """The lines one after the other, each checked against its checksum; one that a kill has torn off is none. Raises UsageError
        for a damaged one."""
        if not os.path.lexists(self._trials):
            return
        number, start, checksum = 0, 0, ""
        with open_part(self.folder, TRIALS, TRIALS_BYTES) as file:
            while content := file.readline(TEXT_BYTES + 1):
                number += 1
                try:
                    if len(content) > TEXT_BYTES:
                        raise Unreadable(f"is longer than {TEXT_BYTES / 1e6:g} MB")
                    if not content.endswith(b"\n"):
                        if has_more(content):
                            raise Unreadable("does not end where it should")
                        return
                    body, own = unsealed(content, checksum)
                    if number > 1 and bool(own) != bool(checksum):
                        raise Unreadable("does not agree with its checksum")
                except Unreadable as error:
                    raise self.damaged(number, str(error)) from error
                checksum = own
                yield Line(number, start, start + len(content), body, own)
                start += len(content)

    @staticmethod
    def _entry(body: bytes) -> dict[str, Any]:
        """What a line holds. Raises Unreadable."""
        entry = parse_json(body)
        if not isinstance(entry, dict) or entry.keys() not in ({"unit", "trial"}, {"unit", "closed"}):
            raise Unreadable("is not what a scan writes")
        finite(entry)
        return entry

    def damaged(self, number: int, why: str) -> UsageError:
        return UsageError(f"'{self._trials}' is damaged: line {number} {why}.", ANEW)


def read_part(folder: Path, name: str, limit: int = TEXT_BYTES) -> bytes:
    """The bytes of a file of an audit folder, which is no link. Raises UsageError."""
    try:
        return read_bytes(folder / name, limit, follow=False)
    except Unreadable as error:
        raise UsageError(f"'{folder / name}' {error}.", ANEW) from error


def open_part(folder: Path, name: str, limit: int) -> BinaryIO:
    """A file of an audit folder, which is no link, to be read bit by bit. Raises UsageError."""
    try:
        return open_bytes(folder / name, limit)
    except Unreadable as error:
        raise UsageError(f"'{folder / name}' {error}.", ANEW) from error


def finite(value: Any) -> None:
    """Raise Unreadable for a number that no report can show."""
    try:
        check_finite(value, "")
    except ValueError as error:
        raise Unreadable("holds a number that is not finite") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an audit folder. Raises UsageError when there is none or it cannot be read."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise UsageError(f"'{folder}' is not an audit folder: it has no {MANIFEST}.", "Name a folder whose scan had begun to run.")
    content = read_part(folder, MANIFEST)
    try:
        body, checksum = unsealed(content)
        value = parse_json(body)
        finite(value)
        manifest = Manifest.model_validate(value)
        if len(manifest.request.targets) != len(manifest.targets) or len(manifest.specs) != len(manifest.targets):
            raise Unreadable("names other targets than its request")
        if {target for planned in manifest.planned for target in (planned.target, *planned.related, *planned.beside)} - manifest.specs.keys():
            raise Unreadable("plans probes on what is none of its targets")
        if not checksum and manifest.schema_version != "1.0":
            raise Unreadable("has lost its checksum")
    except Unreadable as error:
        raise UsageError(f"'{path}' is not as the scan wrote it: it {error}.", ANEW) from error
    except ValidationError as error:
        raise UsageError(
            f"'{path}' is not a manifest this vlaudit can read.", "Judge it with the version that wrote it."
        ) from error
    if not checksum:
        warnings.warn(
            f"'{folder}' was written by an earlier version, without checksums: whether it is damaged cannot be told.",
            VlauditWarning,
            stacklevel=2,
        )
    return manifest


def trials_of(results: Mapping[str, UnitResult], units: Iterable[Unit]) -> list[Trial]:
    """All trials of some units, in plan order."""
    return [trial for unit in units if unit.id in results for trial in results[unit.id].trials]
