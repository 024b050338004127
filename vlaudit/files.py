"""Files of models and prompts, which are hostile until shown otherwise: fingerprints, and pickles that hide code.

Nothing here executes a file: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError, UnsafeFileError, UsageError

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".tar"}


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8. Names of files may hold other bytes, which Python keeps as lone surrogates; JSON may
    hold such surrogates as escapes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


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
    except (OSError, RuntimeError, EOFError) as error:
        raise UsageError(f"'{path}' is not a readable checkpoint ({str(error).splitlines()[0]}).") from error


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
