"""Secret codes of digits, as answers give them away."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from vlaudit.answers import normal

_DIGITS = {word: str(digit) for digit, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))}  # fmt: skip
_BETWEEN = re.compile(
    r"(?<=\d)(?:[\W_]*\b(?:then|and|next|followed|by|finally|lastly|second|third|fourth|fifth|sixth|last|digits?|numbers?|is)\b[\W_]*)+(?=\d)"
)
_PLACES = re.compile(r"^\s*\d+\s*[.):](?=\s)", re.MULTILINE)  # "1. ", "2) " before what a list says
_NUMBER = re.compile(r"(?<!\w)\d+(?!\w)")
_RUN = re.compile(r"(?<!\w)\d+(?:([\W_]{1,6})\d+(?:\1\d+)*)?(?!\w)")
_ONE_BY_ONE = re.compile(r"(?<!\w)\d(?:[\W_]+\d)*(?!\w)")


@lru_cache(maxsize=1024)
def codes_in(answer: str, digits: int) -> frozenset[str]:
    """All codes of so many digits that an answer reveals: as a number of any script, in parts that one mark divides, digit by digit with marks or
    a word such as "then" between them, in words, or as a list."""
    whole = _in_digits(answer)
    texts = whole, _BETWEEN.sub(" ", whole), _in_digits(_PLACES.sub(" ", answer))
    rows = (row.group() for text in texts for shape in (_NUMBER, _RUN, _ONE_BY_ONE) for row in shape.finditer(text))
    return frozenset(code for row in rows if len(code := re.sub(r"\D", "", row)) == digits)


def _in_digits(answer: str) -> str:
    """Invisible characters and frames around digits taken out, digits of other scripts and in words made plain."""
    bare = "".join(c for c in normal(answer) if unicodedata.category(c) not in ("Cf", "Me") and c != "\N{VARIATION SELECTOR-16}")
    plain = "".join(str(unicodedata.decimal(c, c)) for c in bare)
    text = re.sub(r"[a-z]+", lambda word: _DIGITS.get(word.group(), word.group()), plain)
    return re.sub(r"\b[a-z]\b", "-", text)  # single letters are no digits of a code that is spelled out
