"""Whether two free answers to one question say the same."""

from __future__ import annotations

import re

from vlaudit.answers.polarity import UNSURE, yes_no
from vlaudit.answers.text import bare, in_digits, normal, says

_IDLE = frozenset(
    "a an the is are was were be been it its it's this that there they these those he she his her of in on at to and with as by for from i i'm i'd "
    "can see say think believe would appears appear seems seem looks look like image picture photo shows show features feature depicts depict "
    "color colour scene answer main subject object thing some very quite probably likely definitely clearly me my total about you we "
    "man woman person people animal food room car".split()
)
"""Words that tell no answer from another."""
_NOT = re.compile(r"\b(?:not|no|never|nor|neither|isn't|aren't|wasn't|doesn't|don't|but|except|without)\s+(?:(?:a|an|the|any|at|all|of|really)\s+)*$")


def same_meaning(first: str, second: str, key: str = "") -> bool | None:
    """Whether two answers say the same; None where that cannot be told. ``key``: the right answer, if it is known.

    Equal but for case, articles and marks; both yes or both no; the same numbers; both the right answer; or the words of one,
    without idle ones, are all in the other. They differ where only one is right or says yes, where numbers differ, or where
    they share no word that counts. Wrong answers that share some words may be either. An answer that says nothing, or that it
    is unsure, is like no other.
    """
    a, b = normal(first), normal(second)
    if bare(a) == bare(b):
        return bare(a) != ""
    if not bare(a) or not bare(b):
        return False
    sure = [UNSURE.search(text) is None for text in (a, b)]
    polar = yes_no(a), yes_no(b)
    if bare(key) in ("yes", "no") or None not in polar:
        return None if polar == (None, None) else polar[0] == polar[1]
    if sure[0] != sure[1]:
        return False
    numbers, counted = [re.findall(r"\d+", in_digits(text)) for text in (a, b)], bare(in_digits(normal(key))).isdigit()
    if counted and any(numbers):
        return numbers[0][:1] == numbers[1][:1]
    right = [bool(key) and _affirms(text, key) for text in (a, b)]
    if any(right):
        return all(right)
    if all(numbers):
        return numbers[0] == numbers[1]
    words = [_words(text) for text in (a, b)]
    if not all(words):
        return None
    if words[0] <= words[1] or words[1] <= words[0]:
        return True
    return None if words[0] & words[1] else False


def _affirms(text: str, key: str) -> bool:
    """Whether a normal text names the key and does not negate it."""
    wanted, digits = in_digits(normal(key)), in_digits(text)
    if not (says(text, key) or says(digits, wanted)):
        return False
    at = digits.find(wanted)
    return at < 0 or _NOT.search(digits[:at]) is None


def _words(text: str) -> frozenset[str]:
    """The words that count, singular."""
    found = frozenset(re.findall(r"[\w']+", text)) - _IDLE
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found)
