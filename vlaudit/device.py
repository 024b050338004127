"""Where models run, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlaudit.cage import memory
from vlaudit.errors import UsageError

if TYPE_CHECKING:
    import torch

Dtype = Literal["auto", "bf16", "fp16", "fp32"]
ALL = "cuda:all"  # every GPU, a model's layers spread over them


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


def pick_device(name: str) -> torch.device:
    """``auto`` (CUDA when there is one), ``cpu``, ``cuda``, ``cuda:N`` or ``cuda:all`` (where inputs go to the first). Raises
    UsageError for one that is not there."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device("cuda" if name == ALL else name)
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"The device '{name}' is not available here.", "Use --device auto or cpu; see vlaudit doctor.")
    return device


def room(device: torch.device) -> int:
    """Bytes that this process may still take there."""
    import torch

    if device.type != "cuda":
        return memory.room()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)
