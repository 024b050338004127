"""The backend contract, and what backends share: padding, soft tokens."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.cage import network
from vlaudit.device import PLAIN, Loading, room
from vlaudit.errors import ModelError, UsageError, first_line, foreign
from vlaudit.families.towers import put_at
from vlaudit.inspection.folder import ModelFolder, find_folder
from vlaudit.inspection.quantisation import refuse_lacking
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.families.base import Model
    from vlaudit.families.matching import SoftTokens, TokenSequence

UNWANTED = ["*.h5", "*.msgpack", "*.onnx", "*.py"]
SLACK = 10_000_000  # numbers that a model computes itself, such as positions and masks


class Backend(ABC):
    """Turns ``NAME:ARGUMENT`` into a model. ``is_remote`` tells whether that needs the network."""

    @abstractmethod
    def is_remote(self, argument: str) -> bool:
        """True unless everything lies on this disk."""

    def borrows(self, argument: str) -> str | None:
        """The remote model that a folder on this disk is made of, if it names one."""
        return None

    @abstractmethod
    def family(self, argument: str) -> Family:
        """The family of the model that this names; reads at most its configuration. Raises ModelError or UsageError."""

    @abstractmethod
    def files(self, argument: str) -> list[Path]:
        """All files of the folder, those that loading would read among them, for checks that run before it; empty for a
        remote model."""

    @abstractmethod
    def load(self, argument: str, device: torch.device, how: Loading = PLAIN) -> Model:
        """Load the model for inference. Raises ModelError or UnsafeFileError with the cure."""


def local_folder(argument: str) -> Path | None:
    """The folder an argument names, if it looks like a path or exists; None for a hub name.

    Raises UsageError for a file, and for what can only be a path and does not exist.
    """
    folder = find_folder(argument)
    if folder is None and (argument.startswith((".", "/", "~")) or hub_name(argument)[0].count("/") > 1):
        raise UsageError(f"The model folder '{argument}' does not exist.", "Give a folder, or a hub name ORG/NAME.")
    return folder


def hub_name(argument: str) -> tuple[str, str | None]:
    """``ORG/NAME@REVISION`` of the hub to the repository and the revision: a branch, a tag or a commit."""
    name, at, revision = argument.partition("@")
    if at and not revision:
        raise UsageError(f"'{argument}' names no revision.", "Write ORG/NAME@REVISION: a branch, a tag or a commit.")
    return name, revision or None


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache is a snapshot of."""
    return folder.name if folder.parent.name == "snapshots" else None


def download(name: str, only: list[str] | None = None) -> Path:
    """A repository of the hub, ``ORG/NAME@REVISION``, in its cache. Raises UsageError for what is no name, ModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, revision = hub_name(name)
    try:
        with network.hub():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=only, ignore_patterns=UNWANTED))
    except HFValidationError as error:
        raise UsageError(
            f"'{name}' is neither a folder nor a hub name.", "Write hf:PATH, hf:ORG/NAME or hf:ORG/NAME@REVISION."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"'{name}' could not be downloaded: {first_line(error)}.",
            "Check the name and the network, or give a local folder.",
        ) from error


def reading(spec: str, kinds: tuple[type[Exception], ...] = (Exception,)) -> AbstractContextManager[None]:
    """Around a call of a model's tokenizer, whose patterns may be made to fail: ModelError for what it raises. ``kinds``:
    none where the model runs too, whose errors are its own; a panic of the tokenizer is caught all the same."""
    return foreign(f"The tokenizer of '{spec}' cannot read a text", "It is damaged, or was made to fail.", kinds)


def refuse_oversized(folder: ModelFolder, build: Callable[[], torch.nn.Module]) -> None:
    """Raise ModelError where ``build`` makes a model of more numbers than a folder's weights hold. It is built without
    memory, on the meta device. A table that two layers share may be counted twice."""
    import torch

    with torch.device("meta"):
        shell = build()
    wanted = sum(tensor.numel() for tensor in (*shell.parameters(), *shell.buffers()))
    if wanted > 2 * folder.elements + SLACK:
        raise ModelError(
            f"The config of '{folder.path}' describes a model of {wanted:,} numbers, but its weights hold {folder.elements:,}.",
            "Compare the config with the original's.",
        )


def placed(model: Any, device: torch.device) -> Any:
    """A model of transformers on its device, without gradients for its weights. One that is quantised, or spread over several
    GPUs, is where its loader has put it."""
    model = model.eval().requires_grad_(False)
    return model if getattr(model, "hf_device_map", None) else model.to(device)


def placing(folder: ModelFolder, device: torch.device, how: Loading, spec: str) -> dict[str, Any]:
    """What transformers' loaders are told of where the weights go: over all GPUs where the user asks for it, or one does not
    hold them. Raises ModelError for quantised weights whose package is not there."""
    import torch

    where: dict[str, Any] = {}
    if folder.quantised:
        refuse_lacking(spec, folder.quantised)
        where["device_map"] = {"": device}
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it remarks on every pass
    if folder.quantised == "compressed-tensors":  # would unpack them at the first pass, which ``generate`` comes before
        from transformers import CompressedTensorsConfig

        warnings.filterwarnings("ignore", message="You passed `quantization_config`")
        where["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    if device.type == "cuda" and torch.cuda.device_count() > 1 and (how.spread or folder.bytes > room(device)):
        where["device_map"] = "auto"
    return where


def pad(
    sequences: Sequence[TokenSequence], limit: int, pad_id: int, to_limit: bool
) -> tuple[list[list[int]], list[int]]:
    """Cut each sequence to ``limit`` tokens (its tail stays) and pad. Returns ids and lengths without padding."""
    rows, lengths = [], []
    for sequence in sequences:
        tail = sequence.ids[len(sequence.ids) - sequence.tail :]
        ids = sequence.ids if len(sequence.ids) <= limit else sequence.ids[: limit - len(tail)] + tail
        rows.append(ids)
        lengths.append(len(ids))
    width = limit if to_limit else max(lengths)
    return [row + [pad_id] * (width - len(row)) for row in rows], lengths


@contextmanager
def soft_tokens(table: torch.nn.Module, soft: SoftTokens | None, once: bool = False) -> Iterator[None]:
    """While open, the token-embedding table returns ``soft.values`` at ``soft.slots``; gradients flow into them.

    ``once``: only at its first use, such as the prompt that an answer is generated from.
    """
    if soft is None:
        yield
        return

    def replace(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if once:
            handle.remove()
        return put_at(output, soft.values, soft.slots)

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
