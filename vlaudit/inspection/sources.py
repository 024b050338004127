"""Bytes to look into, wherever they lie: a file, a part of one, or what an archive unpacked. Nothing is read but what is asked for."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CHUNK = 1 << 16  # bytes
LINE = 16 << 20  # bytes of the longest line in a pickle
DIRECTORY = 64 << 20  # bytes of an archive's table of contents
UNPACKED = 256 << 20  # bytes that one file's archives and compressed parts may unpack to, all together
MEMBERS = 20_000  # parts of archives in one file
OPCODES = 4_000_000  # of all pickles in one file: about ten seconds
DEEPEST = 5  # archives in archives


class NotLookedInto(ValueError):
    """Why a part of a file could not be looked into; the message completes "not looked into: "."""


class Source:
    """``size`` bytes, read at any place. ``read`` gives fewer bytes than asked for only at the end."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read, self.size = read, size

    def read(self, start: int, length: int) -> bytes:
        length = min(length, self.size - start)
        return self._read(start, length) if length > 0 else b""

    def window(self, start: int, size: int | None = None) -> Source:
        """A part of these bytes, ``size`` long or up to the end."""
        left = max(self.size - start, 0)
        return Source(lambda at, length: self.read(start + at, length), left if size is None else min(size, left))

    def chunks(self, overlap: int, limit: int) -> Iterator[bytes]:
        """The first ``limit`` bytes in pieces, each beginning with the last ``overlap`` bytes of the one before."""
        tail, end = b"", min(self.size, limit)
        for start in range(0, end, 16 * CHUNK):
            piece = tail + self.read(start, min(16 * CHUNK, end - start))
            yield piece
            tail = piece[-overlap:] if overlap else b""

    @classmethod
    def of_file(cls, handle: int) -> Source:
        return cls(lambda start, length: os.pread(handle, length, start), os.fstat(handle).st_size)

    @classmethod
    def of_bytes(cls, content: bytes, size: int | None = None) -> Source:
        """Bytes, or the beginning of ``size`` bytes of which the rest was not unpacked."""

        def read(start: int, length: int) -> bytes:
            if start + length > len(content):
                raise NotLookedInto(f"it unpacks to more than {UNPACKED >> 20} MB")
            return content[start : start + length]

        return cls(read, len(content) if size is None else max(size, len(content)))


class SourceFile(io.RawIOBase):
    """A source as a file object, for libraries that ask for one."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(offset + (0, self._at, self._source.size)[whence], 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        length = self._source.size if size is None or size < 0 else size
        if min(length, self._source.size - self._at) > DIRECTORY:
            raise NotLookedInto("its table of contents is too long")
        content = self._source.read(self._at, length)
        self._at += len(content)
        return content


class Reader:
    """Reads a source from ``at`` on. A part that is longer than what is left raises EOFError."""

    def __init__(self, source: Source, at: int = 0) -> None:
        self.source, self.at = source, at
        self._start, self._piece = 0, b""

    def read(self, length: int) -> bytes:
        offset = self.at - self._start
        if not 0 <= offset <= len(self._piece) - length:
            if length > self.source.size - self.at:
                raise EOFError
            self._start, offset = self.at, 0
            self._piece = self.source.read(self.at, max(length, CHUNK))
            if len(self._piece) < length:
                raise EOFError
        self.at += length
        return self._piece[offset : offset + length]

    def skip(self, length: int) -> None:
        if not 0 <= length <= self.source.size - self.at:
            raise EOFError
        self.at += length

    def line(self) -> bytes:
        """Up to and without the next newline, or the end; at most ``LINE`` bytes."""
        line = b""
        while len(line) < LINE:
            piece = self.source.read(self.at, CHUNK)
            end = piece.find(b"\n")
            self.at += len(piece) if end < 0 else end + 1
            line += piece if end < 0 else piece[:end]
            if end >= 0 or len(piece) < CHUNK:
                return line
        raise NotLookedInto("it holds a line that is too long")


@dataclass
class Look:
    """What was found in one file so far, and what may still be spent on it."""

    dangers: list[str] = field(default_factory=list)  # each completes "NAME: "
    unknowns: list[str] = field(default_factory=list)  # each completes "not looked into: "
    names: set[str] = field(default_factory=set)  # that its pickles import
    unpacked: int = 0
    members: int = 0
    opcodes: int = 0

    def danger(self, what: str) -> None:
        if what not in self.dangers:
            self.dangers.append(what)

    def unknown(self, why: str) -> None:
        if why not in self.unknowns:
            self.unknowns.append(why)

    def unpack(self, pieces: Iterator[bytes], size: int | None = None) -> Source:
        """What a stream unpacks to, of ``size`` bytes if that is known before; only its beginning when it is too long."""
        content = bytearray()
        for piece in pieces:
            content += piece
            self.unpacked += len(piece)
            if self.unpacked > UNPACKED:
                return Source.of_bytes(bytes(content), max(size or 0, len(content) + 1))
        return Source.of_bytes(bytes(content))

    def spend(self, size: int) -> None:
        """Count bytes that are kept in memory."""
        self.unpacked += size
        if self.unpacked > UNPACKED:
            raise NotLookedInto(f"it unpacks to more than {UNPACKED >> 20} MB")

    def member(self) -> None:
        """Count a part of an archive."""
        self.members += 1
        if self.members > MEMBERS:
            raise NotLookedInto(f"it holds more than {MEMBERS:,} parts")
