"""Regular expressions that configs hold, which libraries match against the names of modules: whether that surely ends."""

from __future__ import annotations

import re
from typing import Any

QUANTIFIED = 5  # open-ended choices in a pattern: the steps of a match grow as the name's length to this power
PATTERN = 4_000  # characters


def pattern_problem(pattern: str) -> str:
    """Why matching a regular expression of a config might not end, to complete "the pattern ..."; "" if it surely ends soon.

    Time grows without bound only through choices that can be made in many ways: repeats inside repeats, and several
    open-ended ones in a row.
    """
    if len(pattern) > PATTERN:
        return f"is {len(pattern):,} characters long"
    from re import _parser  # type: ignore[attr-defined]

    try:
        choices = _choices(_parser.parse(pattern))
    except RecursionError:
        return "is nested too deeply"
    except (re.error, OverflowError, ValueError) as error:
        return f"is no regular expression ({error})"
    if choices is None:
        return "repeats a group, which may take for ever to match"
    return f"has {choices} open-ended repeats, which may take for ever to match" if choices > QUANTIFIED else ""


def _choices(parsed: Any) -> int | None:
    """The open-ended choices on the longest way through a parsed pattern; None where a group is repeated."""
    total = 0
    for operation, argument in parsed:
        name = str(operation)
        if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            least, most, body = argument
            inner = _choices(body)
            single = len(body) == 1 and str(body[0][0]) in {"LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY"}
            if inner is None or (int(most) > 1 and not single):
                return None
            total += inner + (1 if most != least else 0)
        elif name == "BRANCH":
            branches = [_choices(branch) for branch in argument[1]]
            if None in branches:
                return None
            plain = all(len(branch) and str(branch[0][0]) == "LITERAL" for branch in argument[1])
            total += max(count for count in branches if count is not None) + (0 if plain else 1)
        elif name in {"SUBPATTERN", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"}:
            inner = _choices(argument if name == "ATOMIC_GROUP" else argument[-1])
            if inner is None:
                return None
            total += inner
        elif name.startswith("GROUPREF"):
            return None
    return total
