"""Which pictures of a data set can be read: those that cannot are left out and counted by reason, before anything is measured.

Only headers are read; a picture is decoded where its end does not look like that of a whole file. What is damaged in its middle
is found when it is shown, and is an error then.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from vlaudit.data.example import Example
from vlaudit.data.images import DataError, StoredPicture, UnreadablePicture, opened
from vlaudit.data.left_out import Omissions
from vlaudit.files import open_flags

MOST = 50_000  # pictures that are looked at
SHOWN = 3  # examples
TAIL = 64  # bytes, within which a file ends
ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF", "TIFF"})


def sift(examples: Sequence[Example], source: str) -> tuple[list[Example], Omissions]:
    """The examples whose pictures can be read, and what is told of those that cannot, and of animated ones. Raises DataError where a
    label has no picture left, or all have gone."""
    faults: dict[str, UnreadablePicture] = {}
    moving: list[str] = []
    seen: set[str] = set()
    for example in examples:
        if not isinstance(example.picture, Path | StoredPicture) or example.picture_key in seen:
            continue
        if len(seen) == MOST:
            break
        seen.add(example.picture_key)
        try:
            if _moves(example.picture):
                moving.append(example.id)
        except UnreadablePicture as error:
            faults[example.picture_key] = error
    if not faults:
        return list(examples), Omissions(_animated(moving))
    kept = [example for example in examples if not isinstance(example.picture, Path | StoredPicture) or example.picture_key not in faults]
    gone = [example for example in examples if isinstance(example.picture, Path | StoredPicture) and example.picture_key in faults]
    lost = {example.label for example in gone} - {example.label for example in kept}
    if lost or not kept:
        first = next(example for example in gone if example.label in lost or not kept)
        fault = faults[first.picture_key]
        whose = f" with the label '{first.label}'" if first.label is not None else ""
        count = sum(example.label == first.label for example in gone)
        if count == 1:
            raise fault
        raise DataError(f"None of the {count} pictures{whose} in '{source}' can be read. {fault.message}", fault.cure)
    reasons = Counter(faults[key].reason for key in {example.picture_key for example in gone})
    such = {faults[example.picture_key].reason: example.id for example in reversed(gone)}
    said = ", ".join(f"{count:,} {reason} (such as '{such[reason]}')" for reason, count in reasons.most_common())
    total = reasons.total()
    begins = f"{total:,} pictures in '{source}' cannot be read and are" if total > 1 else f"1 picture in '{source}' cannot be read and is"
    unread = Counter(example.label or "" for example in gone)
    return kept, Omissions([f"{begins} left out: {said}.", *_animated(moving)], unread)


def _animated(ids: Sequence[str]) -> list[str]:
    shown = ", ".join(f"'{id_}'" for id_ in ids[:SHOWN])
    what = f"{len(ids):,} pictures have" if len(ids) > 1 else "1 picture has"
    return [f"{what} several frames or pages, and the first alone is seen: {shown}{' …' * (len(ids) > SHOWN)}."] if ids else []


def _moves(picture: Path | StoredPicture) -> bool:
    """Whether a picture has several frames. Raises UnreadablePicture."""
    if isinstance(picture, StoredPicture):
        content = picture.read()
        return _looked_at(io.BytesIO(content), picture.name, len(content))
    try:
        handle = os.open(picture, open_flags("RDONLY", "NONBLOCK"))
    except OSError as error:
        raise UnreadablePicture(
            f"The picture '{picture}' cannot be read ({error.strerror}).", "Check its permissions.", "not to be opened"
        ) from error
    with open(handle, "rb") as file:
        return _looked_at(file, str(picture), os.fstat(handle).st_size)


def _looked_at(file: BinaryIO, name: str, size: int) -> bool:
    with opened(file, name) as image:
        kind = image.format or ""
        moves = kind in ANIMATED and bool(getattr(image, "is_animated", False))
        if not _ends_whole(file, kind, size):
            image.seek(0)
            image.load()
    return moves


def _ends_whole(file: BinaryIO, kind: str, size: int) -> bool:
    """Whether the end of a file looks like that of a whole picture of its kind; false where that cannot be told."""
    place = file.tell()
    file.seek(0)
    start = file.read(12)
    file.seek(max(0, size - TAIL))
    tail = file.read(TAIL)
    file.seek(place)
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" in tail
    if kind == "PNG":
        return b"IEND" in tail
    if kind == "GIF":
        return b"\x3b" in tail[-2:]
    if kind == "WEBP":
        return int.from_bytes(start[4:8], "little") + 8 <= size
    if kind == "BMP":
        return 0 < int.from_bytes(start[2:6], "little") <= size
    return False
