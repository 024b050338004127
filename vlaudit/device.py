"""Where models run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaudit.errors import UsageError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """``auto`` (CUDA when there is one), ``cpu``, ``cuda`` or ``cuda:N``. Raises UsageError for one that is not there."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"The device '{name}' is not available here.", "Use --device auto or cpu; see vlaudit doctor.")
    return device
