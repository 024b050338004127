"""Secret codes of digits, as answers give them away."""

from __future__ import annotations

import re
from functools import lru_cache

from vlaudit.answers import normal, says

_DIGITS = {word: str(digit) for digit, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))}  # fmt: skip

_NUMBER = re.compile(r"\d+")
_ONE_BY_ONE = re.compile(r"(?<!\w)\d(?:[\W_]+\d)*(?!\w)")


def reveals(answer: str, code: str) -> bool:
    """Whether an answer holds the code: as a number, digit by digit, or in words."""
    return says(_in_digits(answer), code)


@lru_cache(maxsize=1024)
def codes_in(answer: str, digits: int) -> frozenset[str]:
    """All codes of so many digits that an answer reveals."""
    text = _in_digits(answer)
    rows = [*_NUMBER.findall(text), *(re.sub(r"\D", "", row) for row in _ONE_BY_ONE.findall(text))]
    return frozenset(row for row in rows if len(row) == digits and says(text, row))


def _in_digits(answer: str) -> str:
    text = re.sub(r"[a-z]+", lambda word: _DIGITS.get(word.group(), word.group()), normal(answer))
    return re.sub(r"\b[a-z]\b", "-", text)  # single letters are no digits of a code that is spelled out
