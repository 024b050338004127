"""Archives and compressed streams: what is in them is looked into in turn, within bounds."""

from __future__ import annotations

import bz2
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from vlaudit.inspection.sources import CHUNK, Look, NotLookedInto, Source, SourceFile

Inspect = Callable[[Source, str], str]  # looks into a part with a name, and returns its kind
_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError,
           LookupError, NotImplementedError, OverflowError)  # fmt: skip
BEHIND = "zip archive behind other data"
_ZIP_END = b"PK\x05\x06"
_DICTIONARY = 128 << 20  # bytes that unpacking lzma may take
NOT_KNOWN = {
    b"7z\xbc\xaf\x27\x1c": "7z archive", b"Rar!\x1a\x07": "rar archive", b"\x28\xb5\x2f\xfd": "zstandard stream", b"\x1f\x9d": "compress stream",
    b"MSCF": "cabinet archive", b"\x04\x22\x4d\x18": "lz4 stream", b"\xff\x06\x00\x00sNaPpY": "snappy stream", b"LZIP": "lzip stream",
    b"!<arch>\n": "ar archive",
}  # fmt: skip


def look_into_zip(source: Source, look: Look, inspect: Inspect) -> str | None:
    """A zip archive, wherever it begins; its directory is at its end. Storages of torch checkpoints are not read."""
    begins = source.read(0, 4) == b"PK\x03\x04"
    tail = source.read(max(source.size - 66_000, 0), 66_000)
    if not begins and _ZIP_END not in tail:
        return None
    try:
        archive = zipfile.ZipFile(SourceFile(source))
        entries = archive.infolist()
    except _ERRORS:
        if begins:
            look.unknown("a damaged zip archive")
        return "zip archive" if begins else None
    if begins and _named_places(source) != _places(source, archive.start_dir):
        return _look_into_several(source, look, inspect)
    names = {entry.filename for entry in entries}
    if len(names) < len(entries):
        look.unknown("a zip archive with two parts of one name")
    if any(_is_program(name) for name in names):
        look.danger("a TorchScript archive, whose program runs when it is loaded or used")
    checkpoints = {name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")}
    for entry in entries:
        root, _, number = entry.filename.rpartition("data/")
        if entry.is_dir() or (root in checkpoints and number.isdigit() and not _is_array(source, entry)):
            continue
        look.member()
        try:
            inspect(_member(source, entry, look), entry.filename)
        except _ERRORS as error:
            why = str(error) if isinstance(error, NotLookedInto) else "it is damaged"
            look.unknown(f"{entry.filename}: {why}")
    if not begins:
        return BEHIND
    if checkpoints:
        return "torch checkpoint"
    return "npz archive" if names and all(name.endswith(".npy") for name in names) else "zip archive"


def _end(source: Source) -> int:
    start = max(source.size - 66_000, 0)
    return start + source.read(start, 66_000).rfind(_ZIP_END)


def _named_places(source: Source) -> tuple[int, ...]:
    """Where an archive's end says that its table of contents is and, for long archives, another end."""
    end = _end(source)
    table = int.from_bytes(source.read(end + 16, 4), "little")
    if source.read(end - 20, 4) != b"PK\x06\x07":
        return (table,)
    long = int.from_bytes(source.read(end - 76 + 48, 8), "little")
    return (long if table == 0xFFFFFFFF else table, int.from_bytes(source.read(end - 12, 8), "little"))


def _places(source: Source, table: int) -> tuple[int, ...]:
    """Where they are for Python, which believes no place that it is told: just before the end."""
    end = _end(source)
    return (table, end - 76) if source.read(end - 20, 4) == b"PK\x06\x07" else (table,)


def _look_into_several(source: Source, look: Look, inspect: Inspect) -> str:
    """Archives one behind the other, as torch.distributed writes them, or one with two tables of contents for two readers."""
    try:
        parts, rest = [], source
        while rest.size:
            before = zipfile.ZipFile(SourceFile(rest)).start_dir - _named_places(rest)[0]
            if not 0 <= before < rest.size:
                raise EOFError
            parts.append(rest.window(before))
            rest = source.window(0, before)
        if len(parts) < 2:
            raise EOFError
    except _ERRORS:
        look.unknown("a zip archive with two tables of contents")
        return "zip archive"
    for part in parts:
        look.member()
        inspect(part, "")
    for place in set(_named_places(parts[0])) - set(_named_places(parts[-1])):
        if source.read(place, 2) == b"PK":
            look.unknown("a zip archive with two tables of contents")
    return "zip archives"


def _is_array(source: Source, entry: zipfile.ZipInfo) -> bool:
    """Whether numpy would take a storage of a torch checkpoint for an array, or it is packed, which torch's are not."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return True
    header = source.read(entry.header_offset, 30)
    return source.read(entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30])), 6) == b"\x93NUMPY" if len(header) == 30 else True


def _is_program(name: str) -> bool:
    """Whether a part of this name makes an archive a TorchScript program."""
    return name.rpartition("/")[2] in {"constants.pkl", "bytecode.pkl"} or (name.endswith(".py") and "/code/" in f"/{name}")


def _member(source: Source, entry: zipfile.ZipInfo, look: Look) -> Source:
    """The bytes of a part. Its checksum and flags are not heeded, as other readers do not heed them either."""
    header = source.read(entry.header_offset, 30)
    if header[:4] != b"PK\x03\x04":
        raise NotLookedInto("it is damaged")
    lengths = struct.unpack("<HH", header[26:30])
    packed = source.window(entry.header_offset + 30 + sum(lengths), entry.compress_size)
    if entry.compress_type == zipfile.ZIP_STORED:
        return packed
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        return look.unpack(_unpacked(packed, lambda: zlib.decompressobj(-15)), entry.file_size)
    if entry.compress_type == zipfile.ZIP_BZIP2:
        return look.unpack(_unpacked(packed, bz2.BZ2Decompressor), entry.file_size)
    if entry.compress_type == zipfile.ZIP_LZMA:
        size = struct.unpack("<H", packed.read(2, 2))[0]
        filters = [{"id": lzma.FILTER_LZMA1} | _lzma_properties(packed.read(4, size))]
        return look.unpack(_unpacked(packed.window(4 + size), lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)), entry.file_size)
    raise NotLookedInto("it is packed in a way that is not known here")


def _lzma_properties(content: bytes) -> dict[str, int]:
    first, dictionary = struct.unpack("<BI", content[:5])
    if dictionary > _DICTIONARY:
        raise NotLookedInto("it needs too much memory to be unpacked")
    return {"lc": first % 9, "lp": first // 9 % 5, "pb": first // 45, "dict_size": dictionary}


def look_into_tar(source: Source, look: Look, inspect: Inspect) -> str | None:
    """A tar archive that is not compressed, such as torch's first format or a NeMo model."""
    header = source.read(0, 512)
    try:
        if len(header) < 512 or tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape") is None:
            return None
    except tarfile.TarError:
        return None
    try:
        with tarfile.open(fileobj=SourceFile(source), mode="r:") as archive:
            while (entry := archive.next()) is not None:
                look.member()
                archive.members.clear()  # type: ignore[attr-defined]
                parts = [entry.name, *([entry.linkname] if entry.issym() or entry.islnk() else [])]
                if any(part.startswith("/") or ".." in part.split("/") for part in parts):
                    look.danger("a tar archive that writes outside of the folder it is unpacked to")
                if entry.issparse():
                    look.unknown(f"{entry.name}: it is sparse")
                elif entry.isreg():
                    inspect(source.window(entry.offset_data, entry.size), entry.name)
                elif not (entry.isdir() or entry.issym() or entry.islnk()):
                    look.unknown(f"{entry.name}: it is no regular file")
            if source.read(archive.offset, CHUNK).strip(b"\0"):
                look.unknown("data after the end of its tar archive")
    except _ERRORS as error:
        look.unknown(str(error) if isinstance(error, NotLookedInto) else "a damaged tar archive")
    return "tar archive"


def look_into_compressed(source: Source, look: Look, inspect: Inspect, name: str) -> str | None:
    """A stream of gzip, bzip2, xz, lzma or zlib, as joblib and gzip write them."""
    head = source.read(0, 6)
    opener: Callable[[], Any]
    if head[:2] == b"\x1f\x8b":
        kind, opener = "gzip stream", lambda: zlib.decompressobj(31)
    elif head[:3] == b"BZh":
        kind, opener = "bzip2 stream", bz2.BZ2Decompressor
    elif head == b"\xfd7zXZ\0" or head[:3] == b"\x5d\0\0":
        kind, opener = "lzma stream", lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY)
    elif len(head) > 2 and head[0] & 15 == 8 and head[0] >> 4 <= 7 and int.from_bytes(head[:2], "big") % 31 == 0:
        kind, opener = "zlib stream", zlib.decompressobj
    else:
        return None
    pieces = _unpacked(source, opener, several=kind != "zlib stream")
    try:
        first = next(pieces, b"")
    except _ERRORS:
        if kind == "zlib stream":  # two bytes are no sure sign
            return None
        first = b""
    if not first:
        look.unknown(f"a damaged {kind}")
        return kind

    def follow() -> Iterator[bytes]:
        yield first
        try:
            yield from pieces
        except _ERRORS as error:
            look.unknown(str(error) if isinstance(error, NotLookedInto) else f"a damaged {kind}")

    look.member()
    inspect(look.unpack(follow()), name)
    return kind


def _unpacked(source: Source, opener: Callable[[], Any], *, several: bool = False) -> Iterator[bytes]:
    """What one stream, or ``several`` one after the other, unpack to, in small pieces."""
    machine, at, pending = opener(), 0, b""
    while True:
        hungry = not pending and getattr(machine, "needs_input", True)
        if hungry:
            pending = source.read(at, CHUNK)
            at += len(pending)
        ended = hungry and not pending
        piece = machine.decompress(pending, 16 * CHUNK)
        pending = getattr(machine, "unconsumed_tail", b"")  # bz2 and lzma keep it to themselves
        if piece:
            yield piece
        elif ended and not machine.eof:
            raise EOFError
        if machine.eof:
            pending = machine.unused_data
            if not pending:
                pending = source.read(at, CHUNK)
                at += len(pending)
            if not pending.strip(b"\0"):
                return
            if not several:
                raise NotLookedInto("data after a compressed stream")
            machine = opener()
