"""What is remembered of pictures is what would pass again, whatever passed before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlaudit.families import remembered
from vlaudit.families.remembered import Remembered


class Encoder:
    """Features that hang on how many pictures pass together, as the last bits of a model's do."""

    def __init__(self) -> None:
        self.passed = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.passed += len(images)
        return images.flatten(1) * (1 + 1e-3 * len(images))


def test_features_hang_on_the_batch_alone() -> None:
    images, known, encode = torch.rand(6, 3, 2, 2), Remembered(), Encoder()
    for batch in (images[:4], images[2:], images[:4], images[[2, 3, 4, 5]], images[[0, 1, 1, 0]], images[3:4]):
        assert torch.equal(known.of(batch, encode), Remembered().of(batch, Encoder()))
    assert torch.equal(known.of(images[:4], encode), Encoder()(images[:4]))
    assert encode.passed == 4 + 4 + 2 + 1, "the same pictures together pass once, and each of them once"
    assert known.spared == 4 + 4 + 2 + 4


def test_what_was_remembered_first_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    images, known, encode = torch.rand(4, 3, 2, 2), Remembered(), Encoder()
    monkeypatch.setattr(remembered, "MOST", 3 * 3 * 2 * 2 * 4)  # bytes of three
    for row in (0, 1, 2, 3, 3, 0):
        known.of(images[row : row + 1], encode)
    assert encode.passed == 5, "the first was forgotten, the last was not"
