"""Whether two free answers to one question say the same."""

from __future__ import annotations

import re
from functools import lru_cache

from vlaudit.answers.polarity import UNSURE, yes_no
from vlaudit.answers.text import bare, in_digits, normal

_IDLE = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "it",
        "its",
        "it's",
        "this",
        "that",
        "there",
        "they",
        "these",
        "those",
        "he",
        "she",
        "his",
        "her",
        "of",
        "in",
        "to",
        "and",
        "with",
        "as",
        "by",
        "for",
        "from",
        "i",
        "i'm",
        "i'd",
        "can",
        "see",
        "say",
        "think",
        "believe",
        "would",
        "appears",
        "appear",
        "seems",
        "seem",
        "looks",
        "look",
        "like",
        "image",
        "picture",
        "photo",
        "shows",
        "show",
        "features",
        "feature",
        "depicts",
        "depict",
        "color",
        "colour",
        "scene",
        "answer",
        "main",
        "subject",
        "object",
        "thing",
        "some",
        "very",
        "quite",
        "probably",
        "likely",
        "definitely",
        "clearly",
        "me",
        "my",
        "total",
        "about",
        "you",
        "we",
        "man",
        "woman",
        "person",
        "people",
        "animal",
        "food",
        "room",
        "car",
    ]
)
"""Words that tell no answer from another."""
_NOT = re.compile(
    r"\b(?:not|no|never|nor|neither|isn't|aren't|wasn't|doesn't|don't|but|except|without)\s+(?:(?:a|an|the|any|at|all|of|really)\s+)*$"
)


def gives(said: str, key: str) -> bool:
    """Whether a free answer gives this one: says the same of yes and no, the same number first, or all the words that count, in
    any order, where it does not negate them."""
    text, wanted = in_digits(normal(said)), in_digits(normal(key))
    if bare(text) == bare(wanted):
        return bare(text) != ""
    if bare(wanted) in ("yes", "no"):
        return yes_no(said) is (bare(wanted) == "yes")
    if UNSURE.search(text):
        return False
    if bare(wanted).isdigit():
        return re.findall(r"\d+", text)[:1] == [bare(wanted)]
    words = _words(wanted) or frozenset(bare(wanted).split())
    places = [re.search(rf"(?<!\w){re.escape(word)}(?:e?s)?(?!\w)", text) for word in words]
    return bool(places) and all(
        place and not _NOT.search(text[max(0, place.start() - 80) : place.start()]) for place in places
    )


@lru_cache(maxsize=65_536)
def same_meaning(first: str, second: str, key: str = "") -> bool | None:
    """Whether two answers say the same; None where that cannot be told. ``key``: the right answer, if it is known.

    They do where they are equal but for case, articles and marks, say both yes or both no, the same numbers, both the right answer,
    both that they are unsure, or where the words of one, without idle ones, are all in the other. They differ where only one is
    right, sure, or says yes, where numbers differ, and where they share no word that counts. Wrong answers that share some words may
    be either. An answer that says nothing is like no other.
    """
    a, b = normal(first), normal(second)
    if bare(a) == bare(b):
        return bare(a) != ""
    if not bare(a) or not bare(b):
        return False
    polar = yes_no(a), yes_no(b)
    if bare(key) in ("yes", "no") or None not in polar:
        return None if polar == (None, None) else polar[0] == polar[1]
    sure = [UNSURE.search(text) is None for text in (a, b)]
    if not all(sure):
        return not any(sure)
    right = [bool(key) and gives(text, key) for text in (a, b)]
    if any(right):
        return all(right)
    numbers = [re.findall(r"\d+", in_digits(text)) for text in (a, b)]
    if all(numbers):
        return numbers[0][:1] == numbers[1][:1]
    words = [_words(text) for text in (a, b)]
    if not all(words):
        return None
    if words[0] <= words[1] or words[1] <= words[0]:
        return True
    return None if words[0] & words[1] else False


def _words(text: str) -> frozenset[str]:
    """The words that count, singular."""
    found = frozenset(re.findall(r"[\w']+", text)) - _IDLE
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found
    )
