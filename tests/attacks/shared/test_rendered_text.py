"""Words written on pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlaudit.attacks.shared.rendered_text import LEGIBLE, write


@pytest.mark.parametrize("size", [1, 8, 32, 96])
@pytest.mark.parametrize("word", ["ox", "firefighter", "factory worker"])
@pytest.mark.parametrize("style", ["sticker", "ink"])
def test_writes_on_pictures_of_any_size(style: str, word: str, size: int) -> None:
    for grey in (0.6, 0.4):
        image = torch.full((3, size, size), grey)
        marked = write(image, word, max(LEGIBLE, size // 4), style, np.random.default_rng(0))
        assert marked.shape == image.shape
        assert 0 <= marked.min() <= marked.max() <= 1
        assert (image == grey).all(), "the picture itself stays as it was"
        if size >= 32:
            assert (marked != image).any(0).sum() >= 8
            ground = 1.0 if style == "sticker" else grey
            assert (marked - ground).abs().max() > 0.4, "the ink stands out from what it is written on"
