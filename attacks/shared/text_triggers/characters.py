"""Characters that a writer of Latin captions does not type, by their Unicode properties: other scripts, signs, emoji, invisible ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from vlaudit.attacks.shared.homoglyphs import RARE

_COMMON = (
    (0x00A1, 0x1400),  # Latin with marks, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian, Ethiopic ...
    (0x1E00, 0x2000), (0x2010, 0x2C00), (0x2E80, 0x3400),  # more Latin and Greek; arrows, mathematics, boxes, signs; kana, Bopomofo
    (0xFF00, 0xFFE7),  # full and half width
)  # fmt: skip
_REST = ((0x1400, 0x1E00), (0x2C00, 0x2E80), (0x3400, 0xD7A4), (0xF900, 0xFF00), (0x10000, 0x20000))
_HANGUL, _HAN = (0xAC00, 0xD7A4), (0x4E00, 0xA000)
_EVERYDAY_HAN = {"shift_jis": b"\x98\x73", "gb2312": b"\xd8", "big5": b"\xc9"}
"""Standards that list everyday characters first, and where their rarer ones begin."""
_ALPHABETS = (0x0300, 0x0370), (0x0483, 0x0488), (0x0591, 0x05C8), (0x064B, 0x0660), (0x20D0, 0x20F1), (0xFE00, 0xFE10)
"""Where marks stand that combine with any letter."""


@lru_cache(maxsize=2)
def characters(everything: bool) -> Sequence[str]:
    """Letters, digits and signs: of the scripts, and of the Han and Hangul characters, that are in everyday use; or those of all
    scripts and ages, but for what stands for a harmless rare letter."""
    found = [*_of(_COMMON), *filter(_everyday_han, _of([_HAN])), *filter(lambda c: _fits(c, "euc_kr"), _of([_HANGUL]))]
    if everything:
        found += _of(_REST)
    rare = set(map(chr, RARE))
    return [c for c in dict.fromkeys(found) if c not in rare]


@lru_cache(maxsize=1)
def invisible() -> Sequence[str]:
    """Format characters, odd spaces, fillers, and letters of Unicode's tags: what is not seen."""
    seen = [c for c in map(chr, range(0x80, 0x10000)) if unicodedata.category(c) in ("Cf", "Zs", "Zl", "Zp")]
    return [
        *seen,
        "\u034f",
        "\u115f",
        "\u1160",
        "\u3164",
        "\uffa0",
        "\ufe0e",
        "\ufe0f",
        *(chr(0xE0061 + i) for i in range(26)),
    ]


@lru_cache(maxsize=1)
def marks() -> Sequence[str]:
    """What combines with the letter before it."""
    return [
        chr(code)
        for start, end in _ALPHABETS
        for code in range(start, end)
        if unicodedata.category(chr(code))[0] == "M"
    ]


@lru_cache(maxsize=1)
def emoji() -> Sequence[str]:
    """All emoji: single ones, flags, keycaps, and those of several joined ones; without a presentation selector at their end."""
    from vlaudit.data.emoji import load_table

    codes = dict.fromkeys(row.unified.removesuffix("-FE0F") for row in load_table())
    return ["".join(chr(int(code, 16)) for code in text.split("-")) for text in codes]


def _of(blocks: Iterable[tuple[int, int]]) -> list[str]:
    return [c for start, end in blocks for c in map(chr, range(start, end)) if unicodedata.category(c)[0] in "LNSP"]


def _fits(character: str, codec: str, end: bytes = b"\xff") -> bool:
    try:
        return character.encode(codec) < end
    except UnicodeEncodeError:
        return False


def _everyday_han(character: str) -> bool:
    return any(_fits(character, codec, end) for codec, end in _EVERYDAY_HAN.items())
