"""How often readers err, and what that does to an interval.

Counted on ``labelled.csv``: answers in the styles of several families of models, labelled by hand. The rules were made with the half
that is marked ``mend``; the error is that on the half that is marked ``held-out``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from vlaudit.answers.choices import choice_of
from vlaudit.answers.meaning import same_meaning
from vlaudit.answers.polarity import yes_no
from vlaudit.answers.refusals import refuses
from vlaudit.answers.text import says

if TYPE_CHECKING:
    from vlaudit.statistics import Interval

Reader = Literal["choice", "yes-no", "phrase", "refusal", "meaning"]
LABELLED = Path(__file__).parent / "labelled.csv"


class Errs(Protocol):
    """Bounds of two error rates."""

    @property
    def positive_bound(self) -> float:
        """Upper 95 % bound of the share of negatives that are read as positive."""

    @property
    def negative_bound(self) -> float:
        """Upper 95 % bound of the share of positives that are read as negative (or as another choice)."""


@dataclass(frozen=True)
class ReaderError:
    """How often a reader was wrong on the labelled answers. For ``choice`` and ``yes-no``: among those that name
    something, another thing was read; among those that do not, something was. What was not read is no error: it is
    reported as unreadable. For ``meaning``, two answers that differ are a positive."""

    false_positives: int
    negatives: int
    false_negatives: int
    positives: int

    @property
    def positive_bound(self) -> float:
        return _upper(self.false_positives, self.negatives)

    @property
    def negative_bound(self) -> float:
        return _upper(self.false_negatives, self.positives)


def carry(interval: Interval, error: Errs) -> Interval:
    """The interval of a rate of positives, widened by what the reader may have got wrong.

    With a true rate t, the reader sees between t (1 - b) and t + (1 - t) a, where a and b are its two error bounds.
    """
    from vlaudit.statistics import Interval

    a, b = error.positive_bound, error.negative_bound
    return Interval(max(0.0, (interval.low - a) / (1 - a)), min(1.0, interval.high / (1 - b)), interval.level)


def carry_difference(interval: Interval, error: Errs) -> Interval:
    """The same for a difference of two rates that one reader read: errors that strike both alike shrink a difference by
    at most 1 - a - b, and never create one."""
    from vlaudit.statistics import Interval

    kept = 1 - error.positive_bound - error.negative_bound
    return Interval(
        max(-1.0, min(interval.low, interval.low / kept)),
        min(1.0, max(interval.high, interval.high / kept)),
        interval.level,
    )


@lru_cache(maxsize=8)
def reader_error(reader: Reader) -> ReaderError:
    """A reader's error on the held-out half of the labelled answers."""
    return error_on(labelled(reader, "held-out"), reader)


def error_on(rows: tuple[tuple[str, str, str], ...], reader: Reader) -> ReaderError:
    """A reader's error on some labelled answers."""
    false_positives = negatives = false_negatives = positives = 0
    for answer, given, truth in rows:
        said = READERS[reader](answer, given)
        if truth == "":
            negatives += 1
            false_positives += said not in ("", "?")
        else:
            positives += 1
            missed = {"", truth} if reader in ("choice", "yes-no") else {truth, "?"}
            false_negatives += said not in missed
    return ReaderError(false_positives, negatives, false_negatives, positives)


@lru_cache(maxsize=16)
def labelled(reader: Reader, half: str = "") -> tuple[tuple[str, str, str], ...]:
    """The labelled answers of a reader: the answer, what it was read for (choices joined by ``|``, a phrase, the right answer and
    another answer joined by ``|``, or nothing), and the truth: the choice, ``yes`` or ``no``, or empty where there is nothing
    to read. ``half``: only those of it."""
    with LABELLED.open(newline="", encoding="utf-8") as file:
        return tuple(
            (row["answer"], row["given"], row["truth"])
            for row in csv.DictReader(file)
            if row["reader"] == reader and half in ("", row["half"])
        )


def _read_choice(answer: str, given: str) -> str:
    choices = given.split("|")
    index = choice_of(answer, choices)
    return "" if index is None else choices[index]


def _read_meaning(answer: str, given: str) -> str:
    key, _, other = given.partition("|")
    return {True: "", False: "yes", None: "?"}[same_meaning(answer, other, key)]


READERS: dict[Reader, Callable[[str, str], str]] = {
    "choice": _read_choice,
    "yes-no": lambda answer, given: {True: "yes", False: "no", None: ""}[yes_no(answer)],
    "phrase": lambda answer, given: "yes" if says(answer, given) else "",
    "refusal": lambda answer, given: "yes" if refuses(answer) else "",
    "meaning": _read_meaning,
}


def _upper(errors: int, n: int) -> float:
    from vlaudit.statistics import rate_interval
    from vlaudit.statistics.base import ERROR_LEVEL

    return rate_interval(errors, n, ERROR_LEVEL, "upper").high
