"""Image features of pictures that were passed before: what several prompts and probes of one model ask about passes once.

A picture is known by its pixels, so that a prompt that changes them is never given another's features, and one that leaves them alone
always is. Only what is the same under several prompts is worth remembering: not the points of a search.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MOST = 64_000_000  # bytes of features that are kept


class Remembered:
    """Features (D,) by the pixels of their picture; the oldest go first. ``spared``: pictures that did not pass again."""

    def __init__(self) -> None:
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._size = 0
        self.spared = 0

    def of(self, images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Features (B, D) of pictures (B, 3, H, W): those that are new by ``encode``, each once."""
        import torch

        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.detach().float().cpu().numpy()]
        rows = {key: row for row, key in enumerate(keys) if key not in self._features}
        found = {key: self._features[key] for key in keys if key in self._features}
        if rows:
            found |= dict(zip(rows, encode(images[list(rows.values())]).detach(), strict=True))
        self.spared += len(keys) - len(rows)
        for key in rows:
            self._features[key] = found[key].clone()
            self._size += found[key].nbytes
        while self._size > MOST:
            self._size -= self._features.popitem(last=False)[1].nbytes
        return torch.stack([found[key] for key in keys])
