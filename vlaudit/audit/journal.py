"""The append-only journal of an audit: ``manifest.json`` and ``trials.jsonl``.

A unit's trials and its closing line are written with one ``write`` and synced, so a killed audit loses at most the unit
it was in, and resuming skips what is closed. A torn last line is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from vlaudit.config import Request
from vlaudit.errors import UsageError
from vlaudit.files import disk_error, write_atomically
from vlaudit.records import Record, TargetInfo, Trial
from vlaudit.secrets import redact

MANIFEST, TRIALS = "manifest.json", "trials.jsonl"


class Unit(Record):
    """One piece of work: a pure function of (subject, probe, cases, seed)."""

    id: str
    subject: str  # the target, or the reference prompt on its model: what is loaded
    probe: str
    arm: str
    cases: list[str]
    round: int = 0
    weight: float = 1.0  # estimated seconds


class PlannedProbe(Record):
    """One probe on one target: its units, or the reason why it cannot run."""

    target: str
    probe: str
    reason: str | None = None
    units: list[Unit] = Field(default_factory=list)
    reference_note: str | None = None
    failed: bool = False  # it could not be planned: an error, not a lack


class ProbeSource(Record):
    """Which probe it was: its version, and the SHA-256 of the file that defines it."""

    version: str
    code: str | None = None


class Manifest(Record):
    """What an audit set out to do: enough to resume it, to judge it without the model, and to replay its findings.

    What has a default was not recorded by earlier versions.
    """

    schema_version: str = "1.0"
    version: str
    id: str
    digest: str
    command: str
    started: str
    request: Request
    targets: list[TargetInfo]
    planned: list[PlannedProbe]
    environment: dict[str, str | int | None] = Field(default_factory=dict)
    folder: str | None = None  # that it was started in, relative to the audit folder: where its relative paths begin
    batch_size: int | None = None
    probes: dict[str, ProbeSource] = Field(default_factory=dict)  # by probe id
    fingerprints: dict[str, dict[str, str]] = Field(default_factory=dict)  # by target id: see provenance.py
    replays: str | None = None  # AUDIT/FINDING that this audit runs again


class UnitResult(Record):
    """A closed unit: its trials, or why it failed."""

    unit: str
    trials: list[Trial] = Field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None


class Journal:
    """Reads and appends one audit folder's journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trials = folder / TRIALS

    def write_manifest(self, manifest: Manifest) -> None:
        write_atomically(self.folder / MANIFEST, redact(manifest.model_dump_json(indent=1)))

    def append(self, result: UnitResult) -> None:
        """Close a unit. Raises VlauditError when the disk is full; the journal then still ends on a closed unit."""
        lines = [
            redact(json.dumps({"unit": result.unit, "trial": trial.model_dump(mode="json")}, allow_nan=False))
            for trial in result.trials
        ]
        lines.append(redact(json.dumps({"unit": result.unit, "closed": {"seconds": result.seconds, "error": result.error}})))
        size = self._trials.stat().st_size if self._trials.exists() else 0
        try:
            with self._trials.open("ab") as file:
                file.write(("\n".join(lines) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with self._trials.open("ab") as file:
                file.truncate(size)
            raise disk_error(error, self.folder) from error

    def results(self, *, mend: bool = True) -> dict[str, UnitResult]:
        """Closed units by id. Trials of a unit that was never closed are dropped, and with them a torn last line; the file is
        cut there, unless it is only looked at (``mend=False``)."""
        if not self._trials.exists():
            return {}
        closed: dict[str, UnitResult] = {}
        pending: dict[str, list[Trial]] = {}
        content = self._trials.read_bytes()
        position = end = 0  # end: just after the last closed unit
        for line in content.splitlines(keepends=True):
            position += len(line)
            if not line.endswith(b"\n"):
                break  # torn by a kill
            try:
                entry = json.loads(line)
                unit = entry["unit"]
                if "trial" in entry:
                    pending.setdefault(unit, []).append(Trial.model_validate(entry["trial"]))
                    continue
                closed[unit] = UnitResult(unit=unit, trials=pending.pop(unit, []), **entry["closed"])
                end = position
            except (json.JSONDecodeError, KeyError, TypeError, ValidationError, UnicodeDecodeError) as error:
                raise UsageError(f"'{self._trials}' is damaged after byte {end}.", "Scan into a new folder.") from error
        if mend and end < len(content):
            with self._trials.open("rb+") as file:
                file.truncate(end)
        return closed


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an audit folder. Raises UsageError when there is none or it cannot be read."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{folder}' is not an audit folder: it has no readable {MANIFEST}.") from error
    except ValidationError as error:
        raise UsageError(
            f"'{path}' is not a manifest this vlaudit can read.", "Judge it with the version that wrote it."
        ) from error


def trials_of(results: dict[str, UnitResult], units: Iterable[Unit]) -> list[Trial]:
    """All trials of some units, in plan order."""
    return [trial for unit in units if unit.id in results for trial in results[unit.id].trials]
