"""Rows of data sets that other tools keep, as examples: which column is what, and what their values are as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlaudit.data.example import TEXT_COLUMNS, Example
from vlaudit.data.images import DataError, StoredPicture
from vlaudit.data.left_out import Omissions
from vlaudit.data.text_files import check_label
from vlaudit.errors import did_you_mean

MAX_ROWS = 1_000_000
TEXT_BYTES = 256_000_000  # of all cells of a data set
IMAGE, LABEL = "image", "label"
KNOWN = (IMAGE, LABEL, *TEXT_COLUMNS)
"""What ``--columns`` may give a meaning; any other name becomes an attribute column."""


class Rows:
    """The examples of one data set, made row by row. ``columns``: by our name, theirs."""

    def __init__(self, source: str, columns: Mapping[str, str]) -> None:
        self.source, self._columns = source, columns
        self.examples: list[Example] = []
        self.without: Counter[str] = Counter()  # rows without a picture that can be taken, by reason
        self._firsts: Counter[str] = Counter()  # lists of which the first entry is taken, by column
        self._bytes = 0
        self._numbers = 0  # rows whose label is a number without a name

    def check(self, known: Sequence[str]) -> None:
        """Raise DataError where ``--columns`` names a column that there is not."""
        check_columns(self.source, self._columns, known)

    def add(self, id_: str, picture: Path | StoredPicture, row: Mapping[str, Any], split: str = "") -> None:
        """One row. Raises DataError."""
        if len(self.examples) >= MAX_ROWS:
            raise DataError(f"The data '{self.source}' have more than {MAX_ROWS:,} rows.", "Audit on a sample, such as :train[:10000].")
        row = renamed({key: value for key, value in row.items() if value is not None}, self._columns)
        choices, answer = row.get("choices"), row.get("answer")
        if isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices):
            row["answer"] = choices[answer]
        for column in (LABEL, *(name for name in TEXT_COLUMNS if name != "choices")):
            if isinstance(row.get(column), list):
                self._firsts[column] += 1
                row[column] = next(iter(row[column]), "")
        if isinstance(row.get(LABEL), int | float):
            self._numbers += 1
        cells = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
        self._bytes += sum(map(len, cells.values()))
        if self._bytes > TEXT_BYTES:
            raise DataError(f"The texts of '{self.source}' are longer than {TEXT_BYTES / 1e6:g} MB.", "Audit on a sample of its rows.")
        label = cells.pop(LABEL, "").strip()
        texts = {column: cells.pop(column) for column in TEXT_COLUMNS if column in cells}
        named = check_label(label, f"{self.source}, {id_}") if label else None
        self.examples.append(Example(id_, picture, named, split, cells, texts))

    def finish(self) -> Omissions:
        """What was not taken as it was. Raises DataError for a set that cannot be used."""
        if not self.examples:
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.without.most_common())
            raise DataError(f"The data '{self.source}' hold no picture{': ' + why if why else ''}.", "See docs/data.md for what is read.")
        if self._numbers:
            raise DataError(
                f"The labels of '{self.source}' are numbers without names.",
                "A model reads words: give the column that holds names with --columns label=COLUMN, or put a classnames.txt beside the shards.",
            )
        bare = sum(example.label is None for example in self.examples)
        if 0 < bare < len(self.examples):
            where = next(example.split or example.id for example in self.examples if example.label is None)
            raise DataError(
                f"{bare:,} of {len(self.examples):,} rows of '{self.source}' have no label, such as in '{where}'.",
                "Name a split whose rows all have one, such as hf:NAME:train.",
            )
        notes = [f"Of the lists in the column {column} the first entry is taken ({n:,} rows)." for column, n in self._firsts.items()]
        if self.without:
            why = ", ".join(f"{count:,} {reason}" for reason, count in self.without.most_common())
            notes.append(f"{self.without.total():,} rows of '{self.source}' are left out: {why}.")
        return Omissions(notes, Counter({"": self.without.total()}))


def renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A row under our names. A column of theirs that has one of these names, and is not meant, gives way."""
    taken = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    return {key: value for key, value in row.items() if key not in columns and key not in columns.values()} | taken


def check_columns(source: str, columns: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise DataError where ``--columns`` names a column that there is not."""
    for ours, theirs in columns.items():
        if theirs not in known:
            raise DataError(f"--columns {ours}={theirs}: the data '{source}' have no column '{theirs}'.", did_you_mean(theirs, list(known)))
