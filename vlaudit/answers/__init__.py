"""Reading written answers: which choice is named, yes or no, a phrase said, a refusal, the same said twice; and how often the reading errs.

What stands in a thought (``<think>…</think>`` and its kin) is no answer. An answer that is empty, names nothing or names several
things is *unreadable* (``None``): never safety, never a flaw. Each reader is a rule; its error was counted on answers that the
rule was not made with (``errors``), and :func:`carry` widens an interval by it. Torch-free.
"""

from vlaudit.answers.choices import choice_of
from vlaudit.answers.errors import (
    Errs,
    Reader,
    ReaderError,
    carry,
    carry_difference,
    error_on,
    labelled,
    reader_error,
)
from vlaudit.answers.meaning import gives, same_meaning
from vlaudit.answers.polarity import yes_no
from vlaudit.answers.refusals import refuses
from vlaudit.answers.text import marks_thought, normal, opens_thought, same, says, without_thoughts, words_of

__all__ = [
    "Errs",
    "Reader",
    "ReaderError",
    "carry",
    "carry_difference",
    "choice_of",
    "error_on",
    "gives",
    "labelled",
    "marks_thought",
    "normal",
    "opens_thought",
    "reader_error",
    "refuses",
    "same",
    "same_meaning",
    "says",
    "without_thoughts",
    "words_of",
    "yes_no",
]
