"""How often the readers of answers err on answers that their rules were not made with.

    python benchmarks/reader_error.py            # every reader: errors with exact intervals, on both sets
    python benchmarks/reader_error.py --list     # and every answer that is read wrongly

``reader_answers.csv`` holds answers in the styles of five families of models and of small ones, in ten languages for refusals and for yes and no,
written and labelled before the readers had seen them. What those of the first writing showed was mended in the rules, then the second was written;
``docs/measurements.md`` keeps what both showed when they were new. The third set is the held-out half of the package's own labelled answers. Torch-free.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from vlaudit.answers import Reader, labelled
from vlaudit.answers.errors import READERS
from vlaudit.statistics import rate_interval

FRESH = Path(__file__).with_name("reader_answers.csv")
Row = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of the readers of answers.")
    parser.add_argument("--list", action="store_true", help="every answer that is read wrongly, too")
    wanted = parser.parse_args()
    print(f"{'set':<9} {'reader':<8} {'answers':<26} {'wrong':>12}   95 % interval   {'not read':>9}")
    sets = {name: _fresh(name) for name in ("first", "second")}
    for name, rows in {**sets, "held-out": {reader: list(labelled(reader, "held-out")) for reader in READERS}}.items():
        for reader, known in rows.items():
            for positive in (True, False):
                _tell(name, reader, [row for row in known if bool(row[2]) is positive], positive, wanted.list)


def _fresh(written: str) -> dict[Reader, list[Row]]:
    found: dict[Reader, list[Row]] = {}
    with FRESH.open(newline="", encoding="utf-8") as file:
        for row in (one for one in csv.DictReader(file) if one["written"] == written):
            reader = next(one for one in READERS if one == row["reader"])
            found.setdefault(reader, []).append((row["answer"], row["given"], row["truth"]))
    return found


def _tell(name: str, reader: Reader, rows: list[Row], positive: bool, every: bool) -> None:
    if not rows:
        return
    said = [READERS[reader](answer, given) for answer, given, _ in rows]
    open_ = ("", "?") if positive and reader in ("choice", "yes-no", "meaning") else ("?",)
    unread = [row for row, one in zip(rows, said, strict=True) if one in open_]
    wrong = [(row, one) for row, one in zip(rows, said, strict=True) if one != row[2] and one not in open_]
    low, high = rate_interval(len(wrong), len(rows)).ci
    what = "that say something" if positive else "that say nothing of it"
    print(f"{name:<9} {reader:<8} {what:<26} {f'{len(wrong)} of {len(rows)}':>12}   {low:6.1%} to {high:6.1%}   {len(unread):>9}")
    if every:
        for row, one in wrong:
            print(f"    wrong: {row[0]!r} is read as {one or 'nothing'!r}")
        for row in unread:
            print(f"    not read: {row[0]!r}")


if __name__ == "__main__":
    main()
