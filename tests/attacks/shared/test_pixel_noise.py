"""Bounded changes of pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vlaudit.attacks.shared.pixel_noise import magnified, random_signs
from vlaudit.data.dataset import Dataset
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Case


def test_random_signs_move_every_colour_value_by_the_radius_the_same_on_every_arm() -> None:
    ctx = Context("x", TARGET, Dataset("none", []), [], ArtifactStore(Path("nowhere")))
    grey, dark = torch.full((3, 16, 16), 0.5), torch.zeros(3, 16, 16)
    moved = random_signs(ctx, Case(id="a"), grey, 8)
    assert torch.allclose((moved - grey).abs(), torch.tensor(8 / 255))
    assert 0.4 < float((moved > grey).float().mean()) < 0.6
    assert torch.equal(moved, random_signs(replace(ctx, arm=REFERENCE), Case(id="a"), grey, 8))
    assert not torch.equal(moved, random_signs(ctx, Case(id="b"), grey, 8))
    assert torch.allclose(random_signs(ctx, Case(id="a"), dark, 8), (moved > grey).float() * (8 / 255))  # within [0, 1]


def test_a_change_of_the_whole_radius_is_shown_from_black_to_white() -> None:
    clean = torch.full((3, 2, 2), 0.5)
    changed = clean.clone()
    changed[0], changed[1] = 0.5 + 4 / 255, 0.5 - 4 / 255
    shown, words = magnified(clean, changed, 4)
    assert torch.allclose(shown[0], torch.tensor(1.0), atol=1e-4) and torch.allclose(
        shown[1], torch.tensor(0.0), atol=1e-4
    )
    assert torch.equal(shown[2], clean[2]) and words == "change x32, around grey"
