"""Image features of pictures that were passed before: what several prompts and probes of one model ask about passes once.

Pictures are known by their pixels, so that a prompt that changes them is never given another's features, and one that leaves them alone
always is; and together with those that passed beside them, because the last bits of features hang on these: what is remembered is what
would pass again. Only what is the same under several prompts is worth remembering: not the points of a search.
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
    """Features (B, D) by the pixels of their pictures; the oldest go first. ``spared``: pictures that did not pass, or not again."""

    def __init__(self) -> None:
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()
        self._size = 0
        self.spared = 0

    def of(self, images: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Features (B, D) of pictures (B, 3, H, W), each different one once: by ``encode`` where they did not pass together before."""
        keys = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.detach().float().cpu().numpy()]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        rows = sorted(first.values())
        together = b"".join(keys[row] for row in rows)
        features = self._features.get(together)
        if features is None:
            features = self._features[together] = encode(images[rows]).detach()
            self._size += features.nbytes
            self.spared += len(keys) - len(rows)
        else:
            self.spared += len(keys)
        while self._size > MOST:
            self._size -= self._features.popitem(last=False)[1].nbytes
        place = {keys[row]: place for place, row in enumerate(rows)}
        return features[[place[key] for key in keys]]
