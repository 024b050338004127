"""Webdataset shards: tar files whose members of one name are one example, ``0001.jpg``, ``0001.cls``, ``0001.json``.

    wds:shards/{000..003}.tar        the shards by number; also {a,b}
    wds:DIR                          all .tar files of a folder, or of its folders train, test and validation

A ``.txt`` is the caption, a ``.cls`` the label: its name, or its number in ``classnames.txt`` beside the shards, one name a
line. What a ``.json`` holds are columns. Nothing is unpacked: pictures are read where they lie in their shard.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from vlaudit.data.example import Example
from vlaudit.data.folder import SPLITS
from vlaudit.data.images import PICTURE_BYTES, DataError, StoredPicture, known_suffixes
from vlaudit.data.left_out import Omissions
from vlaudit.data.rows import IMAGE, LABEL, Rows
from vlaudit.errors import first_line
from vlaudit.files import Unreadable, is_unicode, open_flags, parse_json, read_text, user_path

SHARDS = 10_000
MEMBERS = 10_000_000
CELL_BYTES = 1_000_000  # of one text within a shard
TEXTS = {"txt": "text", "text": "text", "caption": "text", "cls": LABEL}
OBJECTS = ("json", "jsn")
NAMES = ("classnames.txt", "classes.txt")


def read_shards(source: str, columns: Mapping[str, str]) -> tuple[list[Example], Omissions]:
    """The examples of a ``wds:`` source, and what was left out. Raises DataError."""
    named = shards(source)
    rows, seen, total = Rows(source, columns), set[str](), 0
    fields: dict[str, None] = {}
    for shard, split in named:
        names = _class_names(shard)
        for key, parts, texts in _samples(shard):
            total += len(parts)
            if total > MEMBERS:
                raise DataError(f"The shards of '{source}' hold more than {MEMBERS:,} files.", "Audit on some of them.")
            row: dict[str, Any] = {}
            for field, text in texts.items():
                row |= _cells(shard, key, field, text, names)
            pictures = {field: member for field, member in parts.items() if f".{field.rpartition('.')[2]}" in known_suffixes()}
            fields |= dict.fromkeys([*row, *pictures])
            chosen = columns.get(IMAGE)
            member = pictures.get(chosen) if chosen else next((pictures[f] for f in sorted(pictures, key=lambda f: ("." in f, f))), None)
            if member is None:
                found = ", ".join(f".{field}" for field in sorted(parts)[:3])
                rows.without[f"without a picture that is read ({found})"] += 1
                continue
            name = f"{split}/{shard.stem}/{key}" if split else f"{shard.stem}/{key}"
            if name in seen:
                raise DataError(f"The shards of '{source}' have two examples '{name}'.", "Give each its own key, and each shard its own name.")
            seen.add(name)
            shown = f"{shard}:{member.name}"
            reading = _Reading(shard, member.offset_data, member.size)
            rows.add(name, StoredPicture(shown, member.size, reading), row, SPLITS.get(split, ""))
    rows.check(list(fields))
    return rows.examples, rows.finish()


class _Reading:
    """Reads a part of a file."""

    def __init__(self, shard: Path, start: int, size: int) -> None:
        self._shard, self._start, self._size = shard, start, size

    def __call__(self) -> bytes:
        try:
            with open(os.open(self._shard, open_flags("RDONLY", "NONBLOCK")), "rb") as file:
                file.seek(self._start)
                return file.read(self._size)
        except OSError as error:
            raise DataError(f"The shard '{self._shard}' cannot be read ({error.strerror}).", "Restore it.") from error


def shards(source: str) -> list[tuple[Path, str]]:
    """The shards in order, with their splits."""
    text = source.removeprefix("wds:")
    if re.match(r"[a-z0-9+]+://|pipe:", text):
        raise DataError(f"'{source}' names shards that are not on this disk.", "Download them first.")
    found: list[tuple[Path, str]] = []
    for path in map(user_path, _expanded(text)):
        if not os.path.isdir(path):
            found.append((path, path.parent.name if path.parent.name in SPLITS else ""))
            continue
        own = sorted(path.glob("*.tar"))
        within = [(file, name) for name in SPLITS for file in sorted((path / name).glob("*.tar"))]
        found += [(file, path.name if path.name in SPLITS else "") for file in own] or within
        if not own and not within:
            packed = sorted(file.name for file in path.iterdir() if re.search(r"\.(tgz|tar\.\w+)$", file.name))
            raise DataError(
                f"The folder '{path}' holds no .tar files.",
                f"Unpack their compression ('{packed[0]}'), since pictures are read where they lie." if packed else "Give the folder of the shards.",
            )
    if len(found) > SHARDS:
        raise DataError(f"'{source}' names more than {SHARDS:,} shards.", "Audit on some of them.")
    for shard, _ in found:
        if not os.path.isfile(shard):
            raise DataError(f"The shard '{shard}' does not exist.", "Write wds:shards/{000..003}.tar, or wds:FOLDER.")
    return found


def _expanded(text: str) -> Iterator[str]:
    """``{000..003}`` and ``{a,b}`` as shells expand them. Raises DataError."""
    pieces: list[list[str]] = []
    for number, piece in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if number % 2 == 0:
            pieces.append([piece])
            continue
        counted = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", piece)
        if counted:
            first, last = int(counted[1]), int(counted[2])
            if not 0 <= last - first < SHARDS:
                raise DataError(f"'{{{piece}}}' names {max(0, last - first + 1):,} shards.", f"Name 1 to {SHARDS:,}.")
            width = len(counted[1]) if counted[1].startswith("0") or len(counted[1]) == len(counted[2]) else 0
            pieces.append([f"{n:0{width}d}" for n in range(first, last + 1)])
        else:
            pieces.append(piece.split(","))
    count = 1
    for piece_ in pieces:
        count *= len(piece_)
        if count > SHARDS:
            raise DataError(f"'{text}' names more than {SHARDS:,} shards.", "Audit on some of them.")
    yield from map("".join, product(*pieces))


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], dict[str, bytes]]]:
    """Of each example its key, its members by field (all behind the first dot of their names), and the small texts."""
    key, parts, texts = "", dict[str, tarfile.TarInfo](), dict[str, bytes]()
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                folder, _, base = member.name.rpartition("/")
                stem, dot, field = base.partition(".")
                if not member.isreg() or not stem or not dot or not is_unicode(member.name) or member.issparse():
                    continue
                own = f"{folder}/{stem}" if folder else stem
                if own != key and parts:
                    yield key, parts, texts
                    parts, texts = {}, {}
                key, field = own, field.lower()
                if field in parts:
                    raise DataError(f"The shard '{shard}' has '{member.name}' twice.", "Write it again.")
                if member.offset_data + member.size > os.path.getsize(shard):
                    raise DataError(f"The shard '{shard}' is cut off within '{member.name}'.", "Download it again.")
                if member.size > PICTURE_BYTES:
                    raise DataError(f"'{member.name}' in the shard '{shard}' is larger than {PICTURE_BYTES / 1e6:g} MB.", "Take it out.")
                parts[field] = member
                if field in TEXTS or field in OBJECTS:
                    if member.size > CELL_BYTES:
                        raise DataError(f"'{member.name}' in the shard '{shard}' is larger than {CELL_BYTES / 1e6:g} MB.", "Take it out.")
                    file = archive.extractfile(member)
                    texts[field] = file.read() if file else b""
            if parts:
                yield key, parts, texts
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DataError(f"The shard '{shard}' is not a readable tar file ({first_line(error)}).", "Download or write it again.") from error


def _cells(shard: Path, key: str, field: str, content: bytes, names: list[str]) -> dict[str, Any]:
    try:
        if field in OBJECTS:
            value = parse_json(content)
            if not isinstance(value, dict):
                raise Unreadable("is no JSON object")
            plain = {k: v for k, v in value.items() if isinstance(v, str | int | float) or (isinstance(v, list) and all(isinstance(e, str | int | float) for e in v))}
            return {k: names[v] if k == LABEL and isinstance(v, int) and 0 <= v < len(names) else v for k, v in plain.items()}
        text = content.decode("utf-8-sig").strip()
    except (Unreadable, UnicodeDecodeError) as error:
        why = error if isinstance(error, Unreadable) else "is not UTF-8"
        raise DataError(f"'{key}.{field}' in the shard '{shard}' {why}.", "Write it again.") from error
    if field == "cls" and re.fullmatch(r"\d{1,9}", text):
        number = int(text)
        if names and number >= len(names):
            raise DataError(f"'{key}.cls' in the shard '{shard}' says {number}, and there are {len(names)} class names.", "Complete classnames.txt.")
        return {LABEL: names[number] if names else number}
    return {TEXTS[field]: text}


def _class_names(shard: Path) -> list[str]:
    """The names beside a shard, or beside the folder of its split."""
    for folder in (shard.parent, shard.parent.parent):
        for name in NAMES:
            if os.path.isfile(folder / name):
                try:
                    return [line.strip() for line in read_text(folder / name).splitlines() if line.strip()]
                except Unreadable as error:
                    raise DataError(f"'{folder / name}' {error}.", "Write one name a line.") from error
    return []
