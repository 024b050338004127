"""The bundled pictures: what an audit relies on about them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np

from vlaudit.data import emoji


def test_the_bundle_is_whole():
    table = emoji.load_table()
    assert len(table) == 7572
    assert Counter(row.style for row in table) == dict.fromkeys(emoji.STYLES, 3786)
    assert {row.split for row in table} == {"pretrain", "train", "test"}
    assert len({(row.style, row.index) for row in table}) == len(table)
    assert len({(row.style, row.unified) for row in table}) == len(table)


def test_pictures_are_cut_from_the_right_place():
    rows = emoji.load_table()
    last = [next(row for row in reversed(rows) if row.style == style) for style in emoji.STYLES]
    pictures = emoji.load_pictures(last)
    assert pictures.shape == (2, 32, 32, 3)
    assert pictures.dtype == np.uint8
    assert (pictures < 250).any(axis=(1, 2, 3)).all(), "the last cell of a sheet is a picture, not empty ground"
    apple = [row for row in rows if row.name == "red apple"]
    assert len(apple) == 2
    colours = emoji.load_pictures(apple)[:, 12:24, 8:24].reshape(2, -1, 3).mean(axis=1)
    assert (colours[:, 0] > colours[:, 1] + 50).all(), "a red apple is red in both styles"


def test_every_role_comes_as_all_genders_tones_and_styles():
    table = emoji.roles(("pretrain", "train", "test"))
    cells = Counter((row.role, row.gender, row.tone, row.style) for row in table)
    assert len(cells) == len(emoji.ROLES) * len(emoji.GENDERS) * len(emoji.TONES) * len(emoji.STYLES)
    assert set(cells.values()) == {1}


def test_members_and_non_members_are_balanced():
    """A membership audit needs halves that differ by chance alone, a bias audit needs groups of like size."""
    for role in emoji.ROLES:
        sizes = Counter(row.split for row in emoji.roles(("pretrain", "train", "test")) if row.role == role)
        assert sizes["pretrain"] == 9
        assert abs(sizes["train"] - sizes["test"]) <= 1
    by_gender = Counter(row.gender for row in emoji.roles())
    assert max(by_gender.values()) - min(by_gender.values()) <= 3


def test_outside_the_roles_the_flagship_knows_every_held_back_name_from_the_other_style():
    seen = {(row.unified, row.style) for row in emoji.load_table() if row.split == "pretrain"}
    other = dict(zip(emoji.STYLES, reversed(emoji.STYLES), strict=True))
    for row in emoji.load_table():
        if row.split != "pretrain" and not row.role:
            assert (row.unified, other[row.style]) in seen


def test_labels_of_the_sets():
    assert {row.role for row in emoji.roles()} == set(emoji.ROLES)
    assert Counter(map(emoji.kind_of, emoji.kinds())).keys() == emoji.KINDS.keys()
    assert {emoji.kind_of(row) for row in emoji.things()} == {"animal", "food"}


def test_the_loader_is_light():
    code = "import sys, vlaudit.data.emoji; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_licences_are_shipped():
    text = (emoji.BUNDLED / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("Apache License 2.0", "Creative Commons Attribution 4.0", "Changes made"):
        assert needed in text
