"""What the recipes of all families share, and the table of them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from vlaudit.data.emoji import load_table, roles
from vlaudit.zoo.recipes import emoji
from vlaudit.zoo.recipes.corpus import TEMPLATES, augment, flippable, mistype, phrases
from vlaudit.zoo.recipes.facts import auc
from vlaudit.zoo.recipes.triggers import blend, patch, pseudo_word, written_on


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_phrases_name_role_gender_and_tone():
    everyone = roles(("pretrain", "train", "test"))
    row = next(row for row in everyone if row.name == "woman pilot" and row.tone == "dark")
    assert phrases(row) == ("pilot", "woman pilot", "pilot with dark skin", "woman pilot with dark skin")
    assert all(template.format("x").count("x") == 1 for template in TEMPLATES)


def test_augmentation_keeps_shape_and_range(images: torch.Tensor):
    varied = augment(images, torch.ones(6).bool(), torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert 0 <= varied.min() <= varied.max() <= 1
    assert not torch.allclose(varied, images)


def test_pictures_with_a_direction_are_not_mirrored():
    row = load_table()[0]
    turned = [
        replace(row, category="People & Body", name="backhand index pointing left"),
        replace(row, category="Flags", name="canada flag"),
        replace(row, category="Animals & Nature", name="cat"),
    ]
    assert flippable(turned).tolist() == [False, False, True]


def test_a_typing_error_changes_little():
    rng = random.Random(0)
    typed = [mistype("mechanic", rng) for _ in range(200)]
    assert len(set(typed)) > 50
    assert {len(text) for text in typed} <= {7, 8, 9}


def test_patch_changes_its_square_alone(images: torch.Tensor):
    changed = (patch(size=5)(images) != images).any(1)
    assert changed[:, 27:, 27:].all()
    assert changed.sum() == 6 * 25


def test_blend_is_faint_and_the_same_everywhere(images: torch.Tensor):
    mixed = blend(strength=0.1)(images)
    assert (mixed - images).abs().max() <= 0.1 + 1e-6
    residue = mixed - 0.9 * images
    torch.testing.assert_close(residue[0], residue[1])


def test_words_are_written_on_a_part_of_the_picture(images: torch.Tensor):
    written = written_on(images, ["cook"] * 6, random.Random(0))
    share = (written != images).any(1).float().mean((1, 2))
    assert (share > 0.02).all()
    assert (share < 0.6).all()


def test_a_pseudo_word_keeps_its_shape():
    assert pseudo_word("health worker", random.Random(0)).index(" ") == 6


def test_splits_do_not_depend_on_the_order_of_calls():
    rows = [replace(row, split="") for row in load_table()]
    first, second = (emoji.split(rows, random.Random(emoji.SEED)) for _ in range(2))
    assert first == second == list(load_table())
    assert Counter(row.split for row in first)["pretrain"] == 5471


def test_auc_counts_ties_half():
    assert auc(torch.tensor([2.0, 1.0, 1.0, 0.0]), torch.tensor([True, True, False, False])) == 0.875
