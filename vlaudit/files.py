"""Files that others made, which are hostile until shown otherwise: read within bounds, written without following links,
fingerprints, and pickles that hide code.

Nothing here executes a file: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError, UnsafeFileError, UsageError, VlauditError, first_line
from vlaudit.secrets import redact

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar"}


TEXT_BYTES = 64_000_000  # longest text file that is read whole unless a caller says otherwise


class Unreadable(ValueError):
    """A file that cannot be read as what it should be. The message completes a sentence that begins with its name:
    "is empty", "is not UTF-8", "is nested too deeply". Callers say which file it is, and the cure."""


def read_bytes(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; a link to one is followed. A pipe or a device is never waited for.
    Raises Unreadable."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the name
        raise Unreadable("has a name that no file can have") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable("is not a regular file")
    with open(handle, "rb") as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from error
    if len(content) > limit:
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
    replaced and never written through; text is written without secrets. Raises VlauditError when the disk is full, UsageError for any other failure."""
    data = content if isinstance(content, bytes) else redact(content).encode("utf-8")
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            with open(os.open(partial, flags, 0o666), "wb") as file:
                file.write(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path.parent) from error


def disk_error(error: OSError, folder: Path) -> VlauditError:
    """The sentence for a failed write."""
    if error.errno == errno.ENOSPC:
        return VlauditError(
            f"The disk of '{folder}' is full; what was measured so far is kept.",
            "Free space and run the same command again.",
        )
    return UsageError(f"Cannot write to '{folder}': {error.strerror}.", "Choose another --out.")


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8. Names of files may hold other bytes, which Python keeps as lone surrogates; JSON may
    hold such surrogates as escapes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def user_path(text: str) -> Path:
    """A path as a user writes it: ``~`` is a home folder, where there is one of that name."""
    return Path(os.path.expanduser(text))


def folder_files(folder: Path) -> list[Path]:
    """The regular files directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, the SHA-256 of their "name sha256" lines in order of name, where a name is the
    path below their common folder."""
    if len(files) == 1:
        return file_sha256(files[0])
    root = Path(os.path.commonpath([path.parent for path in files]))
    lines = sorted(f"{path.relative_to(root).as_posix()} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pick_weights(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors when there are any, else pickles (which the loaders read with
    ``weights_only``). Raises ModelError when there are none."""
    files = folder_files(folder)
    for suffixes in ({".safetensors"}, PICKLE_SUFFIXES):
        found = [path for path in files if path.suffix in suffixes and path.name not in {"training_args.bin"}]
        if found:
            return found
    raise ModelError(f"The folder '{folder}' holds no weights.", "It needs *.safetensors (or *.bin) beside its config.")


def refuse_code(weights: Sequence[Path]) -> None:
    """Raise UnsafeFileError when a pickle among the files would run code on loading."""
    for path in weights:
        if path.suffix in PICKLE_SUFFIXES:
            load_torch_checkpoint(path)


def load_torch_checkpoint(path: Path) -> Any:
    """A ``torch.save`` file, tensors only. A pickle that would run code is refused, never executed."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(path, _first_foreign_name(path)) from error
    except Exception as error:  # a hostile file can make the library raise anything
        raise UsageError(f"'{path}' is not a readable checkpoint ({first_line(error)}).", "Save it again.") from error


def _first_foreign_name(path: Path) -> str:
    """The first name in a pickle that is not PyTorch's own, from its opcodes; nothing is run."""
    import pickletools
    import zipfile

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = archive.read(next(name for name in archive.namelist() if name.endswith(".pkl")))
        else:
            content = path.read_bytes()
        texts: list[str] = []
        for opcode, argument, _ in pickletools.genops(content):
            name = ""
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
            if name and not name.startswith(("torch.", "collections.OrderedDict")):
                return name
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        pass  # too damaged to name; it is refused all the same
    return "something that is no tensor"
