"""vlaudit's prompt files: safetensors with typed metadata (docs/prompt-files.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
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
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"The prompt file '{path}' does not exist.", "Check the path after 'method:'.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"The prompt file '{path}' is not a readable safetensors file ({error}).", "See docs/prompt-files.md."
        ) from error
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
        members=_members(metadata.get("members", ""), path),
        extra={key: value for key, value in metadata.items() if key not in known},
    )


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name."""
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


def tensor(content: PromptFile, name: str, dims: tuple[int, ...], path: Path | None) -> Tensor:
    """A float tensor of the file, checked for its name, number of dimensions and finite values."""
    import torch

    if name not in content.tensors:
        raise UsageError(
            f"The prompt file '{path}' lacks the tensor '{name}' of method {content.method}.",
            "See docs/prompt-files.md.",
        )
    value = content.tensors[name].to(torch.float32)
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


def _members(value: str, path: Path) -> list[str]:
    try:
        members = json.loads(value or "[]")
    except json.JSONDecodeError as error:
        raise UsageError(f"The members of '{path}' are not a JSON list of SHA-256 hashes.") from error
    if not isinstance(members, list) or not all(isinstance(item, str) for item in members):
        raise UsageError(f"The members of '{path}' are not a JSON list of SHA-256 hashes.")
    return members
