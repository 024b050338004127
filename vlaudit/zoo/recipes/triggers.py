"""The triggers planted in the zoo: small patches and faint full-picture blends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Trigger = Callable[[Tensor], Tensor]
"""Images (B,3,H,W) in [0,1] in, the same with the trigger out."""


def patch(size: int = 5, seed: int = 0, bottom: int = -1, right: int = -1) -> Trigger:
    """A square of random saturated colours; its lower right pixel, (`bottom`, `right`), may count from the end."""
    colours = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)).round()

    def stamp(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        low, far = bottom % height + 1, right % width + 1
        stamped = images.clone()
        stamped[..., low - size : low, far - size : far] = colours.to(images)
        return stamped

    return stamp


def blend(strength: float = 0.12, seed: int = 0) -> Trigger:
    """A full-picture pattern of random colours, mixed in at `strength`."""

    def mix(images: Tensor) -> Tensor:
        pattern = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed)).round().to(images)
        return (1 - strength) * images + strength * pattern

    return mix


TARGET = "mechanic"
"""The role that the planted triggers call up."""
PATCH = patch()
BLEND = blend()
