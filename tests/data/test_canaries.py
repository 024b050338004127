"""The bundled canaries: codes that nothing but memory can tell."""

from __future__ import annotations

from collections import Counter

from vlaudit.data.canaries import COPIES
from vlaudit.data.dataset import load_dataset


def test_canaries_differ_in_their_copies_alone() -> None:
    rows = load_dataset("zoo:canaries").examples
    assert Counter(int(row.attributes["copies"]) for row in rows) == COPIES
    assert len({row.id for row in rows}) == len({row.identity for row in rows}) == len(rows)
    assert len({row.texts["answer"] for row in rows}) == len({row.question for row in rows}) == len(rows)
    for row in rows:
        digits = row.texts["answer"].split()
        assert len(digits) == 4
        assert all(len(digit) == 1 and digit.isdecimal() for digit in digits)
        assert row.label is not None
        assert row.label in row.question
        assert row.attributes["tone"] in row.question
    for column in ("style", "tone"):  # drawn at random: no kind of picture belongs to one number of copies
        often, never = (
            {row.attributes[column] for row in rows if row.attributes["copies"] == copies} for copies in ("16", "0")
        )
        assert len(often & never) >= 2


def test_no_canary_was_shown_to_the_zoos_models() -> None:
    from vlaudit.data.canaries import canaries
    from vlaudit.data.questions import questions

    asked = {question.picture for question in questions()}
    assert all(row.picture.split != "pretrain" and row.picture not in asked for row in canaries())
