"""Changes of a picture by so much at most in each colour value: at random, and as a reader sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlaudit.probe import Context
from vlaudit.records import Case

if TYPE_CHECKING:
    from torch import Tensor


def random_signs(ctx: Context, case: Case, image: Tensor, radius: int) -> Tensor:
    """The picture (3, H, W) in [0, 1] with each colour value ``radius`` / 255 up or down, the same on every arm."""
    import torch

    signs = ctx.rng(case, "noise").integers(0, 2, size=tuple(image.shape)) * 2 - 1
    return (image + torch.tensor(signs).to(image) * (radius / 255)).clamp(0, 1)


def magnified(clean: Tensor, changed: Tensor, radius: int) -> tuple[Tensor, str]:
    """The change around grey, the whole radius as far as colours go, and what a caption says of it."""
    gain = 255 / radius / 2
    return 0.5 + (changed - clean) * gain, f"change x{gain:.0f}, around grey"
