"""Secret codes of digits, as answers give them away."""

from __future__ import annotations

import re

from vlaudit.answers import normal, says

_DIGITS = {word: str(digit) for digit, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))}  # fmt: skip


def reveals(answer: str, code: str) -> bool:
    """Whether an answer holds the code: as a number, digit by digit, or in words."""
    return says(_in_digits(answer), code)


def codes_in(answer: str, digits: int) -> set[str]:
    """All codes of so many digits that an answer holds."""
    text = _in_digits(answer)
    row = "".join(re.findall(r"\d", text))
    return {code for i in range(len(row) - digits + 1) if says(text, code := row[i : i + digits])}


def _in_digits(answer: str) -> str:
    text = re.sub(r"[a-z]+", lambda word: _DIGITS.get(word.group(), word.group()), normal(answer))
    return re.sub(r"\b[a-z]\b", "-", text)  # single letters are no digits of a code that is spelled out
