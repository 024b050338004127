"""Checkpoints of torch, read without running what is in them."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError, UnsafeFileError, UsageError, first_line
from vlaudit.inspection.content import Inspected, inspect_file

_BUILT_BY_TORCH = {"collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set", "builtins.bytearray",
                   "builtins.complex"}  # fmt: skip


class StandIn:
    """What a checkpoint holds beside tensors and plain containers, such as an optimizer or a scheduler: accepted and dropped."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Mapping(StandIn):
    """A stand-in that torch's reader fills as a mapping."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _List(StandIn):
    def __new__(cls, *_: object, **__: object) -> Any:
        return []


class _Kind(StandIn):
    """A numpy dtype: its name, and the order of its bytes once the pickle has said it."""

    def __init__(self, name: str = "", *_: object) -> None:
        self.name, self.order = str(name), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1]) if isinstance(state, tuple) and len(state) > 1 else "|"


class Array(StandIn):
    """A numpy array, of which only shape, kind and bytes are taken."""

    def __init__(self, *_: object, **__: object) -> None:
        self._state: Any = None

    def __setstate__(self, state: object) -> None:
        self._state = state

    def tensor(self) -> Any:
        """The same numbers as a tensor, float32; None where these are no floats, or the bytes are not as many as the shape says."""
        import numpy as np
        import torch

        match self._state:
            case (_, tuple(shape), _Kind(name="f2" | "f4" | "f8" as name, order="<" | ">" | "=" as order), bool(columns), bytes(raw)):
                if all(isinstance(side, int) and side >= 0 for side in shape) and math.prod(shape) * int(name[1]) == len(raw):
                    numbers = np.frombuffer(raw, order + name).reshape(shape, order="F" if columns else "C")
                    return torch.from_numpy(numbers.astype("float32"))
        return None


_STAND_INS: dict[str, type[StandIn]] = {"numpy.core.multiarray._reconstruct": Array, "numpy._core.multiarray._reconstruct": Array, "numpy.dtype": _Kind,
              "collections.defaultdict": _Mapping, "yacs.config.CfgNode": _Mapping, "collections.deque": _List,
              "pytorch_lightning.utilities.parsing.AttributeDict": _Mapping,
              "lightning.pytorch.utilities.parsing.AttributeDict": _Mapping}  # fmt: skip


def refuse_code(weights: Sequence[Path]) -> None:
    """Raise UnsafeFileError when one of the files would run code on loading, ModelError when one is empty."""
    for path in weights:
        if _inspected(path).kind == "empty":
            raise ModelError(f"The weights '{path}' are an empty file.", "Download or save them again.")


def load_torch_checkpoint(path: Path) -> Any:
    """A ``torch.save`` file. Tensors and plain containers are read; optimizers, schedulers and settings become
    ``StandIn``, numpy arrays ``Array``. Raises UnsafeFileError for a file that would run code, and UsageError for one that cannot be read."""
    import torch
    from torch.serialization import safe_globals

    names = _inspected(path).names
    stand_ins: list[Any] = [(_STAND_INS.get(name, StandIn), name) for name in sorted(names) if name not in _BUILT_BY_TORCH and not _is_tensor(name)]
    try:
        with safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damage makes it warn of this and that before it ends
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets pass whatever damage makes its parts raise
        raise UsageError(f"'{path}' is not a readable checkpoint ({_reason(error)}).", "Save or download it again.") from error


def _reason(error: Exception) -> str:
    """Of the error of torch's reader, which begins with advice, the sentence that says what is wrong."""
    return first_line(ValueError(str(error).rpartition("WeightsUnpickler error:")[2]))


def _is_tensor(name: str) -> bool:
    return name.startswith("torch.") and not name.startswith(("torch.optim.", "torch.distributed."))


def _inspected(path: Path) -> Inspected:
    found = inspect_file(path)
    if found.danger:
        raise UnsafeFileError(path, found.danger)
    return found
