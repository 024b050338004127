"""The tables of look-alike letters."""

from __future__ import annotations

from vlaudit.attacks.shared.homoglyphs import CULTURES, RARE


def test_homoglyphs_look_up_to_one_letter_each() -> None:
    assert sum(map(len, CULTURES.values())) >= 60
    for table in CULTURES.values():
        assert all(len(letter) == len(glyph) == 1 and not glyph.isascii() for letter, glyph in table.items())
        assert not set(map(ord, table.values())) & set(RARE)
