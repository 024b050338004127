"""Where models run, and in which precision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlaudit.cage import memory
from vlaudit.errors import UsageError

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "bf16", "fp16", "fp32"]
ALL = "cuda:all"  # every GPU, a model's layers spread over them
DEVICE = r"auto|cuda:all|(cpu|cuda(:[0-9]{1,2})?)(,(cpu|cuda(:[0-9]{1,2})?))*"  # what --device may say
FORMS = "auto, cpu, cuda, cuda:N, cuda:all, or several with a worker for each: cuda:0,cuda:1"


@dataclass(frozen=True)
class Loading:
    """How a model is loaded: its precision, and whether it is spread over all GPUs. ``before``: what was measured when it was
    loaded before (``Model.measured``), which is not done again."""

    dtype: Dtype = "auto"
    spread: bool = False
    before: object = None

    def precision(self, device: torch.device, stored: torch.dtype | None = None, *, halves: bool = True) -> torch.dtype:
        """The precision to load in. ``auto`` is float32, but on CUDA, where a model ``halves``, the precision of 16 bits
        that its weights are ``stored`` in, else bfloat16 where the GPU has it."""
        import torch

        if self.dtype != "auto":
            return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.dtype]
        if device.type != "cuda" or not halves:
            return torch.float32
        if stored in (torch.float16, torch.bfloat16):
            return stored
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


PLAIN = Loading()


def pick_devices(name: str, *, apart: bool = True) -> list[torch.device]:
    """The devices that are to have a worker each: those of a list, which are of one kind; with ``auto`` all GPUs, if they may be used
    ``apart``. Raises UsageError."""
    import torch

    pick_device(name)
    count = torch.cuda.device_count() if apart and name == "auto" and torch.cuda.is_available() else 0
    devices = [pick_device(one) for one in ([f"cuda:{number}" for number in range(count)] if count > 1 else name.split(","))]
    if len({device.type for device in devices}) > 1:
        raise UsageError(f"The devices '{name}' are of different kinds, which compute differently.", "Name devices of one kind.")
    return devices


def pick_device(name: str) -> torch.device:
    """``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:N``, ``cuda:all`` (where inputs go to the first), or the first of
    several. Raises UsageError for one that is not there."""
    import torch

    if not re.fullmatch(DEVICE, name):
        raise UsageError(f"'{name}' is not a device.", f"Write {FORMS}.")
    name = name.partition(",")[0]
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device("cuda" if name == ALL else name)
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"The device '{name}' is not available here.", "Use --device auto or cpu; see vlaudit doctor.")
    return device


def holds(device: torch.device, size: int) -> bool:
    """Whether a GPU has the memory for so many bytes, with nothing else there."""
    import torch

    return device.type != "cuda" or size < torch.cuda.get_device_properties(device).total_memory


def room(device: torch.device) -> int:
    """Bytes that this process may still take there."""
    import torch

    if device.type != "cuda":
        return memory.room()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)
