"""The scorer: a matcher under a prompt that says what a generated picture shows.

It is a named, replaceable part of an audit (``--scorer TARGET``; the bundled matcher by default), and it errs: probes
measure its error on labelled pictures and carry it into their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import ImageTextMatcher

DEFAULT = "zoo:clean"


class Scorer:
    """Names generated pictures among given labels, zero-shot."""

    def __init__(self, target: ImageTextMatcher, spec: str) -> None:
        self.target = target
        self.spec = spec

    def prepare(self, images: Tensor) -> Tensor:
        """Generated pictures (B, 3, H, W) in [0, 1] as the matcher sees pictures: through its own resize and crop."""
        import torch
        from torchvision.transforms.functional import to_pil_image

        model = self.target.model
        pictures = [to_pil_image(image) for image in images.detach().clamp(0, 1).cpu()]
        return torch.stack([model.preprocess(picture) for picture in pictures]).to(model.device)

    def scores(self, images: Tensor, labels: Sequence[str]) -> Tensor:
        """Logits (B, C) of generated pictures for each label."""
        import torch

        with torch.no_grad():
            return self.target.classifier(labels)(self.prepare(images))

    def name(self, images: Tensor, labels: Sequence[str]) -> list[int]:
        """The position in ``labels`` of what each picture shows."""
        return [int(index) for index in self.scores(images, labels).argmax(dim=1)]
