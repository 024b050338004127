"""What of a data folder looks like a picture and is not among its examples: a result on a part must not pass for the whole."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vlaudit.data.images import HEIF_CURE, HEIF_SUFFIXES, known_suffixes
from vlaudit.files import open_flags, walk

UNREAD = frozenset({
    ".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".xcf", ".tga", ".dds",
    ".exr", ".hdr", ".ico", ".icns", ".pcx", ".qoi", ".wmf", ".emf", ".eps", ".raw", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".raf", ".avifs", ".jxr", ".wdp",
})  # fmt: skip
"""Suffixes of pictures that are not opened."""
OTHER = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".html", ".yaml", ".yml", ".toml", ".log",
    ".py", ".zip", ".tar", ".gz", ".npy", ".npz", ".pt", ".pth", ".bin", ".safetensors", ".parquet", ".arrow",
    ".mp4", ".mp3", ".wav", ".pdf",
})  # fmt: skip
"""Suffixes of files that are not looked into."""
HIDDEN = "hidden (their names or their folders' begin with a dot)"
UNLISTED = "without a row in the metadata", "outside the folders of the labels"
SHOWN = 3  # examples
LOOKED_INTO = 10_000  # files of unknown suffixes, at most
BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


@dataclass
class Omissions:
    """What is not among the examples of a data set. ``unread``: pictures that belong to it and could not be read, by label, "" where that
    is not known; ``unlisted``: how many lie there of which nothing is said, for lack of a row or a label's folder. What hides was left out on
    purpose, and is told alone."""

    notes: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0

    def __add__(self, other: Omissions) -> Omissions:
        return Omissions([*self.notes, *other.notes], self.unread + other.unread, self.unlisted + other.unlisted)


def left_out(root: Path, metadata: Iterable[str], taken: Iterable[Path]) -> Omissions:
    """The pictures below ``root`` that are not among those ``taken``. ``metadata``: names of the tables that list pictures; where one
    lies, only what it lists is taken."""
    names, known = set(metadata), {os.path.normpath(path) for path in taken}
    suffixes, reasons, unread = known_suffixes(), Counter[str](), Counter[str]()
    such: dict[str, str] = {}
    listed: dict[str, bool] = {}
    for folder, path in _others(root, known):
        top = os.path.relpath(folder, root).split(os.sep)[0]
        if top not in listed:
            listed[top] = any((place / name).is_file() for place in (root, root / top) for name in names)
        suffix = os.path.splitext(path)[1].lower()
        if any(part.startswith(".") for part in Path(path).relative_to(root).parts):
            reason = HIDDEN
        elif listed[top]:
            reason = UNLISTED[0]
        elif suffix in suffixes:
            reason = UNLISTED[1]
        else:
            named = suffix[1:].isalnum() and suffix.isascii()
            reason = f"{suffix[:12]} (not read)" if named else "without the suffix of a picture"
            unread[os.path.basename(folder)] += 1
        reasons[reason] += 1
        such.setdefault(reason, Path(path).relative_to(root).as_posix())
    if not reasons:
        return Omissions()
    unlisted = sum(reasons[reason] for reason in UNLISTED)
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    total = reasons.total()
    found = f"{total:,} files in '{root}' look like pictures and are" if total > 1 else f"1 file in '{root}' looks like a picture and is"
    shown = ", ".join(f"'{such[reason]}'" for reason, _ in reasons.most_common(SHOWN))
    heif = any(os.path.splitext(path)[1].lower() in HEIF_SUFFIXES for path in such.values()) and not HEIF_SUFFIXES & suffixes
    return Omissions([f"{found} left out: {said}; such as {shown}.{' Of .heic: ' + HEIF_CURE if heif else ''}"], unread, unlisted)


def _others(root: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    """Folder and path of what looks like a picture and is not known, in a fixed order."""
    looked, suffixes = 0, known_suffixes()
    for path in sorted(map(str, walk(root))):
        folder, name = os.path.split(path)
        hidden = any(part.startswith(".") for part in os.path.relpath(folder, root).split(os.sep) if part != ".")
        suffix = os.path.splitext(name)[1].lower()
        if os.path.normpath(path) in known:
            continue
        if name.startswith(".") or (suffix not in suffixes and suffix not in UNREAD):  # "._1.png" is no picture
            if hidden or suffix in OTHER or looked >= LOOKED_INTO:
                continue
            looked += 1
            if not _begins_as_picture(path):
                continue
        yield folder, path


def _begins_as_picture(path: str) -> bool:
    """Whether the first bytes of a regular file are those of a picture."""
    try:
        handle = os.open(path, open_flags("RDONLY", "NONBLOCK"))
    except (OSError, ValueError):
        return False
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        try:
            start = file.read(16) if stat.S_ISREG(status.st_mode) else b""
        except OSError:
            return False
    return (
        start.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\0\x0cjP  ", b"\0\0\0\x0cJXL "))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and int.from_bytes(start[2:6], "little") == status.st_size)
        or (start[4:8] == b"ftyp" and start[8:12] in BRANDS)
    )
