"""Which of some choices an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlaudit.answers.polarity import UNSURE, yes_no
from vlaudit.answers.text import bare, conclusions, in_digits, normal

_NEGATED = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|without|unlike|except|anything but|rule out|wouldn't call|rather than|instead of|isn't|isnt|wasn't|aren't|doesn't|"
    r"don't|cannot be)"
    r"(?:\s+(?:a|an|the|be|really|look|like|show|see|necessarily|at|all|any|exactly|quite|think|it|is|this|that|to|seem|\0+\s+n?or))*)\s*$"
)
_LIKENED = re.compile(
    r"\b(?:like|resembl\w+|similar to|thought of|taken? (?:it )?for|chasing|beside|next to|reminds me of)(?:\s+(?:a|an|the))?\s*$"
)
_LETTER = re.compile(r"\W*(?:(?:option|choice|answer)\s+)?\(?([a-h])\)?\W*$")


def choice_of(answer: str, choices: Sequence[str]) -> int | None:
    """The position of the choice that an answer names; None where it names none, several, or says that it is unsure.

    A choice counts where it stands as whole words (a plural too) and is not negated; what follows "the answer is" goes before
    what was said on the way there, and what a thing is goes before what it is like. A letter alone names the choice at its
    place, a number in words is that number.
    """
    known = [bare(choice) for choice in choices]
    exact = [index for index, choice in enumerate(known) if choice and choice == bare(answer)]
    if len(exact) == 1:
        return exact[0]
    if set(known) == {"yes", "no"}:
        said = yes_no(answer)
        return None if said is None else known.index("yes" if said else "no")
    numbers = all(choice.isdigit() for choice in known)
    for part in conclusions(answer):
        letter = _LETTER.match(part)
        if letter and not any(len(choice) < 2 for choice in known):
            index = ord(letter.group(1)) - ord("a")
            return index if index < len(choices) else None
        if UNSURE.search(part):
            return None
        named = _named(in_digits(part) if numbers else part, choices)
        if len(named) == 1:
            return named.pop()
        if named:
            return None
    return None


def _named(text: str, choices: Sequence[str]) -> set[int]:
    """Positions of the choices that a normal text affirms; what is only likened to one counts where nothing else is named. The
    longest are looked for first, and what they cover is gone: "factory worker" is no "worker"."""
    named: set[int] = set()
    likened: set[int] = set()
    rest = text
    for index, choice in sorted(enumerate(choices), key=lambda pair: -len(pair[1])):
        words = normal(choice)
        if not words:
            continue
        pattern = re.compile(rf"(?<!\w){re.escape(words)}(?:e?s)?(?!\w)".replace(r"\ ", r"[ -]"))
        for match in pattern.finditer(rest):
            before = re.sub(r"[^\w\s'\0]", " ", rest[max(0, match.start() - 120) : match.start()])
            if not _NEGATED.search(before):
                (likened if _LIKENED.search(before) else named).add(index)
        rest = pattern.sub(lambda match: "\0" * len(match.group()), rest)
    return named or likened
