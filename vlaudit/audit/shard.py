"""The folder of a shard: a copy of the plan's manifest, a journal of its own, and ``shard.json``, which says what it is a part of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from vlaudit.audit.journal import ANEW, MANIFEST, Journal, Manifest, PlannedProbe, UnitResult, read_part
from vlaudit.audit.judge import is_done, rounds_needed
from vlaudit.checksums import sealed, unsealed
from vlaudit.errors import UsageError
from vlaudit.files import Unreadable, make_folder, write_atomically
from vlaudit.records import Record
from vlaudit.registry import ProbeRegistry

SHARD = "shard.json"
FOLDER = "shards"  # of a plan's folder: where its shards go that are not told where
MOST_SHARDS = 100_000


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


def shard_folder(plan: Path, number: int, count: int) -> Path:
    """Where a shard goes that is not told where. Raises UsageError where the plan's folder leads out of itself."""
    folder = plan / FOLDER / f"{number}-of-{count}"
    for place in (folder.parent, folder):
        if os.path.islink(place):
            raise UsageError(f"'{place}' is a link, and nothing is written through one.", "Choose another folder with --out.")
    return folder


def open_shard(out: Path, folder: Path, info: ShardInfo) -> Journal:
    """Begin a shard of the plan in ``folder``, or go on with it. Raises UsageError for another one there."""
    make_folder(out)
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


def all_done(manifest: Manifest, registry: ProbeRegistry, part: Iterable[PlannedProbe], results: dict[str, UnitResult]) -> bool:
    """Whether nothing of a part is left to run."""
    return all(
        is_done(unit, results)
        for planned in part
        for batch in rounds_needed(registry.make(planned.probe, manifest.request.params.get(planned.probe)), planned, results, manifest.request.policy)
        for unit in batch
    )
