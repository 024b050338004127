"""vlaudit's prompt files: safetensors with typed metadata (docs/prompt-files.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError, first_line
from vlaudit.files import Unreadable, parse_json, read_text
from vlaudit.records import Family

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "vlaudit-prompt"
FORMAT_VERSION = "1"


@dataclass
class PromptFile:
    """What a prompt file holds.

    ``base_model`` is the SHA-256 of the weights the prompt was learned on (null: unknown, not checked); ``members``
    are SHA-256 hashes of the pictures it was learned on; ``extra`` holds a method's own settings as text.
    """

    method: str
    tensors: dict[str, Tensor]
    family: Family = Family.MATCHING
    base_model: str | None = None
    class_token_position: str | None = None
    members: Sequence[str] = ()
    extra: dict[str, str] = field(default_factory=dict)


def write_prompt_file(path: Path, content: PromptFile) -> None:
    """Write a prompt file; parents must exist."""
    from safetensors.torch import save_file

    metadata = {
        "vlaudit.format": FORMAT,
        "version": FORMAT_VERSION,
        "method": content.method,
        "family": content.family.value,
        "base_model": content.base_model or "",
        "class_token_position": content.class_token_position or "",
        "members": json.dumps(list(content.members)),
        **content.extra,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content.tensors.items()}
    save_file(tensors, str(path), metadata=metadata)


def read_prompt_file(path: Path, method: str) -> PromptFile:
    """Read a vlaudit prompt file of the given method. Raises UsageError with the cure for anything else."""
    tensors, metadata = read_safetensors(path)
    if metadata.get("vlaudit.format") != FORMAT:
        raise UsageError(
            f"'{path}' is a safetensors file, but its metadata lacks vlaudit.format = {FORMAT}.",
            "Save it with the prompt's save(), or see docs/prompt-files.md.",
        )
    if metadata.get("version") != FORMAT_VERSION:
        raise UsageError(
            f"'{path}' has prompt-file version '{metadata.get('version')}'; this vlaudit reads {FORMAT_VERSION}."
        )
    if metadata.get("method") != method:
        raise UsageError(
            f"'{path}' holds a '{metadata.get('method')}' prompt, not '{method}'.",
            f"Write --prompt {metadata.get('method')}:{path}.",
        )
    known = {"vlaudit.format", "version", "method", "family", "base_model", "class_token_position", "members"}
    return PromptFile(
        method=method,
        tensors=tensors,
        family=_family(metadata.get("family", ""), path),
        base_model=metadata.get("base_model") or None,
        class_token_position=metadata.get("class_token_position") or None,
        members=read_members(metadata, path),
        extra={key: value for key, value in metadata.items() if key not in known},
    )


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            start = file.read(9)
        return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size
    except OSError:
        return False


def refuse_more(names: Iterable[str], own: Sequence[str], path: Path | None) -> None:
    """Raise UsageError for tensors that the method does not have: dropped unread, another prompt would be audited."""
    more = sorted(set(names) - set(own))
    if more:
        raise UsageError(
            f"'{path}' holds more than {', '.join(own)}: {', '.join(more[:3])}{' …' * (len(more) > 3)}.",
            "It is another method's file, or has parts that vlaudit does not know; it would audit another prompt than yours.",
        )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata. Raises UsageError."""
    from safetensors import safe_open

    if not os.path.isfile(path):  # a pipe would be waited for
        what = "is not a file" if os.path.lexists(path) else "does not exist"
        raise UsageError(f"The prompt file '{path}' {what}.", "Check the path after 'METHOD:'.")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # a hostile file can make the library raise anything
        raise UsageError(
            f"The prompt file '{path}' is not a readable safetensors file ({first_line(error)}).",
            "Save it again; see docs/prompt-files.md.",
        ) from error


def read_prompt_text(path: Path, what: str, cure: str) -> str:
    """The text of a prompt's text file. ``what`` it is and the ``cure`` complete the UsageError for anything else."""
    try:
        text = read_text(path)
    except Unreadable as error:
        raise UsageError(f"The {what} '{path}' {error}.", cure) from error
    if "\0" in text:
        raise UsageError(f"The {what} '{path}' holds control characters, so it is no text.", cure)
    return text


def read_prompt_lines(path: Path, what: str, cure: str) -> list[str]:
    """The lines of a prompt's text file, without blank ones and those that begin with ``#``. Raises UsageError."""
    lines = read_prompt_text(path, what, cure).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def real(value: Tensor) -> Tensor | None:
    """A tensor as float32; None where it holds no real numbers (complex or packed ones), or none in memory."""
    try:
        return None if value.is_complex() else value.to("cpu").float()
    except (RuntimeError, NotImplementedError, TypeError):
        return None


def tensor(content: PromptFile, name: str, dims: tuple[int, ...], path: Path | None) -> Tensor:
    """A float tensor of the file, checked for its name, number of dimensions and finite values."""
    import torch

    if name not in content.tensors:
        raise UsageError(
            f"The prompt file '{path}' lacks the tensor '{name}' of method {content.method}.",
            "See docs/prompt-files.md.",
        )
    value = real(content.tensors[name])
    if value is None:
        raise UsageError(f"The tensor '{name}' in '{path}' does not hold real numbers.", "See docs/prompt-files.md.")
    if value.dim() not in dims:
        raise UsageError(
            f"The tensor '{name}' in '{path}' has shape {tuple(value.shape)}; it needs {' or '.join(map(str, dims))} dimensions."
        )
    if value.numel() == 0 or not torch.isfinite(value).all():
        raise UsageError(f"The tensor '{name}' in '{path}' is empty or has values that are not finite.")
    return value


def check_base_model(path: Path | None, base_model: str | None, sha256: str, spec: str) -> None:
    """Raise UsageError when the prompt names another model than the one it is bound to."""
    if base_model and base_model != sha256:
        raise UsageError(
            f"The prompt file '{path}' was learned on another model (weights {base_model[:12]}…, but '{spec}' has {sha256[:12]}…).",
            "Name the model it was learned on; a prompt says nothing about another one.",
        )


def _family(value: str, path: Path) -> Family:
    try:
        return Family(value)
    except ValueError as error:
        raise UsageError(f"'{path}' names the unknown family '{value}'.", f"Known: {', '.join(Family)}.") from error


def read_members(metadata: Mapping[str, str], path: Path) -> list[str]:
    """The hashes of the pictures that a prompt was learned on, of its file's metadata. Raises UsageError."""
    try:
        members = parse_json(metadata.get("members") or "[]")
    except Unreadable:
        members = None
    if not isinstance(members, list) or not all(isinstance(item, str) for item in members):
        raise UsageError(
            f"The members of '{path}' are not a JSON list of SHA-256 hashes.", "See docs/prompt-files.md."
        )
    return members
