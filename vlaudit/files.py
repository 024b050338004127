"""Files that others made, which are hostile until shown otherwise: read within bounds, written without following links,
and fingerprints. What they are is told by ``vlaudit.inspection``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from vlaudit.errors import ModelError, UsageError, VlauditError
from vlaudit.secrets import redact

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar"}


SYSTEM = ("/dev/", "/proc/", "/sys/")  # folders in which no file is ours
TEXT_BYTES = 64_000_000  # longest text file that is read whole unless a caller says otherwise


def open_flags(*names: str) -> int:
    """Flags for ``os.open`` by their names without ``O_``, as far as this system has them: Windows has no links and pipes of this
    kind, and a text mode that is never wanted."""
    return sum(getattr(os, f"O_{name}", 0) for name in (*names, "CLOEXEC", "BINARY"))


class Unreadable(ValueError):
    """A file that cannot be read as what it should be. The message completes a sentence that begins with its name:
    "is empty", "is not UTF-8", "is nested too deeply". Callers say which file it is, and the cure."""


def open_bytes(path: Path, limit: int = TEXT_BYTES, *, follow: bool = False) -> BinaryIO:
    """A regular file of at most ``limit`` bytes, open to be read; a link to one is followed only if ``follow``. A pipe or a device is
    never waited for. Raises Unreadable."""
    if not follow and os.path.islink(path):
        raise Unreadable("is a link")
    try:
        handle = os.open(path, open_flags("RDONLY", "NONBLOCK", *([] if follow else ["NOFOLLOW"])))
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the name
        raise Unreadable("has a name that no file can have") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(handle)
        raise Unreadable(f"is larger than {limit / 1e6:g} MB" if stat.S_ISREG(status.st_mode) else "is not a regular file")
    return open(handle, "rb")


def read_bytes(path: Path, limit: int = TEXT_BYTES, *, follow: bool = True) -> bytes:
    """The bytes of such a file. Raises Unreadable."""
    with open_bytes(path, limit, follow=follow) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from error
    if len(content) > limit:  # it grew, or its size was not to be known
        raise Unreadable(f"is larger than {limit / 1e6:g} MB")
    return content


def read_text(path: Path, limit: int = TEXT_BYTES) -> str:
    """A UTF-8 text file, with or without a byte-order mark. Raises Unreadable."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 (at byte {error.start:,})") from error


def read_json(path: Path, limit: int = TEXT_BYTES) -> Any:
    """The value in a JSON file. Raises Unreadable, also for text that could not be written again as UTF-8."""
    return parse_json(read_text(path, limit))


def read_json_object(path: Path, limit: int = TEXT_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises Unreadable, also for any other value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise Unreadable("is not a JSON object")
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises Unreadable."""
    try:
        value = json.loads(text)
        if not is_unicode(json.dumps(value, ensure_ascii=False)):
            raise Unreadable("holds half of a surrogate pair")
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise Unreadable("is empty" if not text.strip() else f"is not JSON ({error})") from error
    except Unreadable:
        raise
    except ValueError as error:  # bytes that are no text, a number of thousands of digits
        raise Unreadable(f"is not JSON ({error})") from error
    return value


def read_toml(path: Path, limit: int = TEXT_BYTES) -> dict[str, Any]:
    """The table in a TOML file. Raises Unreadable."""
    text = read_text(path, limit)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a date or number that Python cannot hold
        raise Unreadable(f"is not TOML ({error})") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it. What is at ``path``, a link too, is
    replaced and never written through, but for devices, which stay; text is written without secrets. Raises VlauditError when the disk
    is full, UsageError for any other failure."""
    if not is_replaceable(path):
        raise UsageError(f"'{path}' is a device.", "Name a file.")
    data = content if isinstance(content, bytes) else redact(content).encode("utf-8")
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    flags = open_flags("WRONLY", "CREAT", "EXCL", "NOFOLLOW")
    try:
        try:
            with open(os.open(partial, flags, 0o666), "wb") as file:
                file.write(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path.parent) from error


def is_replaceable(path: Path) -> bool:
    """Whether a file may be put in the place of what is there: whoever is root could put one in the place of ``/dev/null`` (a device), or of
    ``/dev/stdout`` (a link)."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):  # nothing is there, or nothing can be
        return True
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return not (device or (stat.S_ISLNK(mode) and f"{os.path.realpath(path.parent)}/".startswith(SYSTEM)))


def write_into(path: Path, text: str) -> None:
    """Write text, without secrets, to what a user has named: a file as ``write_atomically`` does, a pipe that somebody reads, or a device.
    Raises as it does."""
    named = os.path.abspath(path).startswith(SYSTEM)  # a device or a link elsewhere may have come with somebody's folder
    try:
        mode = (os.stat if named else os.lstat)(path).st_mode
    except (OSError, ValueError):
        mode = stat.S_IFREG
    if not (stat.S_ISFIFO(mode) or (named and stat.S_ISCHR(mode))):
        return write_atomically(path, text)
    try:
        handle = os.open(path, open_flags("WRONLY", "NONBLOCK"))  # no waiting for a reader
        os.set_blocking(handle, True)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(redact(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise UsageError(f"Nobody reads the pipe '{path}'.", "Begin to read it first, or name a file.") from error
        raise disk_error(error, path) from error


def make_folder(folder: Path) -> None:
    """Make a folder to write into, and those that it lies in, where they are not there. Raises VlauditError or UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, folder: Path) -> VlauditError:
    """The sentence for a failed write."""
    if error.errno == errno.ENOSPC:
        return VlauditError(
            f"The disk of '{folder}' is full; what was measured so far is kept.",
            "Free space and run the same command again.",
        )
    return UsageError(f"Cannot write to '{folder}': {error.strerror}.", "Choose another --out, or --output.")


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8. Names of files may hold other bytes, which Python keeps as lone surrogates; JSON may
    hold such surrogates as escapes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


MOST_FILES = 10_000  # in a folder
_GIT = re.compile(r"\.git(/(HEAD|config|description|index|packed-refs|[A-Z_]+_HEAD|COMMIT_EDITMSG|shallow|hooks/[\w-]+\.sample|info/exclude"
                  r"|objects/([0-9a-f]{2}/[0-9a-f]{38}|pack/pack-[0-9a-f]{40}\.(pack|idx|rev)|info/commit-graph)))?")  # fmt: skip


def user_path(text: str) -> Path:
    """A path as a user writes it: ``~`` is a home folder, where there is one of that name."""
    return Path(os.path.expanduser(text))


def walk(folder: Path) -> Iterator[Path]:
    """All that is no folder below a folder, in no order, and what cannot be opened itself; links to folders are not followed. The
    standard library's own walks are recursive, or raise for what they cannot open."""
    left = [folder]
    while left:
        place = left.pop()
        try:
            with os.scandir(place) as entries:
                inside = [(Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            yield place
            continue
        for path, is_folder in inside:
            if is_folder:
                left.append(path)
            else:
                yield path


def folder_files(folder: Path) -> list[Path]:
    """What lies in a folder and its subfolders, sorted: regular files, hidden ones too, and all that is neither file nor folder.
    Links to folders are listed and not followed, a subfolder that cannot be opened is listed itself. Left out is what git itself
    keeps in ``.git``, under the names that it gives. Raises ModelError when there are more than ``MOST_FILES``."""
    found = list(islice((path for path in walk(folder) if not _GIT.fullmatch(path.relative_to(folder).as_posix())), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise ModelError(f"The folder '{folder}' holds more than {MOST_FILES:,} files.", "Name the folder of the model alone.")
    return sorted(found)


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, the SHA-256 of their "name sha256" lines in order of name, where a name is the
    path below their common folder."""
    if len(files) == 1:
        return file_sha256(files[0])
    named = [Path(os.path.abspath(path)) for path in files]  # an adapter may be named by another kind of path than its base
    root = Path(os.path.commonpath([path.parent for path in named]))
    lines = sorted(f"{name.relative_to(root).as_posix()} {file_sha256(path)}\n" for name, path in zip(named, files, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
