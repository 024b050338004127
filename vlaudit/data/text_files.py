"""Text files beside the pictures: metadata tables, labels and captions, as whoever made them wrote them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlaudit.data.images import DataError
from vlaudit.files import Unreadable, parse_json, read_text

MAX_COLUMNS = 1_000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MARKUP = re.compile(r"<[a-zA-Z/!?][^>]*>|[\x00-\x08\x0b-\x1f\x7f]")


def read_labels(path: Path) -> list[str]:
    """Labels from a text file, one a line, in that order. Raises DataError."""
    try:
        lines = read_text(path).splitlines()
    except Unreadable as error:
        raise DataError(
            f"The labels file '{path}' {error}.", "Give a UTF-8 file with one label a line."
        ) from error
    labels = [line.strip() for line in lines if line.strip()]
    if len(labels) < 2:
        raise DataError(f"The labels file '{path}' has {len(labels)} labels.", "Give at least two, one a line.")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(f"The labels file '{path}' names '{twice[0]}' twice.", "Name every label once.")
    return [check_label(label, str(path)) for label in labels]


def read_captions(path: Path) -> tuple[str, ...]:
    """Captions from a text file, one a line, or from the ``text`` column of a CSV; empty lines and repetitions are
    left out. Raises DataError."""
    if path.suffix.lower() == ".csv":
        lines = [row.get("text", "") for _, row in _csv_rows(path, _text_of(path), "text")]
    else:
        lines = _text_of(path).splitlines()
    captions = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not captions:
        raise DataError(f"The captions file '{path}' holds no caption.", "Write one a line.")
    for number, caption in enumerate(captions, 1):
        if _CONTROLS.search(caption):
            raise DataError(f"Caption {number} of '{path}' holds control characters.", "Captions are plain text.")
    return captions


def metadata_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells as text of each row."""
    text = _text_of(file)
    if file.suffix == ".csv":
        yield from _csv_rows(file, text, "file_name")
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = parse_json(content)
        except Unreadable as error:
            raise DataError(f"'{file}', line {line}, {error}.", "Write one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f"'{file}', line {line}, is not a JSON object.", "Write one object a line.")
        _check_columns(file, list(row))
        present = {key: value for key, value in row.items() if value is not None}
        yield line, {key: value if isinstance(value, str) else json.dumps(value) for key, value in present.items()}


def _text_of(file: Path) -> str:
    try:
        return read_text(file)
    except Unreadable as error:
        raise DataError(f"The file '{file}' {error}.", "Give a text file in UTF-8.") from error


def _check_columns(file: Path, columns: Sequence[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"'{file}' has {len(columns):,} columns.", f"Keep at most {MAX_COLUMNS}.")
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"'{file}' has the column '{twice[0][:60]}' twice.", "Give every column its own name.")


def _csv_rows(file: Path, text: str, needed: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if needed not in (reader.fieldnames or ()):
            cure = "Add it, with paths relative to the file." if needed == "file_name" else "Add it to its heading."
            raise DataError(f"'{file}' has no column {needed}.", cure)
        _check_columns(file, reader.fieldnames or ())
        for cells in reader:
            if None in cells or None in cells.values():
                raise DataError(
                    f"'{file}', line {reader.line_num}, has more or fewer cells than the heading.",
                    "Quote cells that hold commas.",
                )
            yield reader.line_num, {column: cell.strip() for column, cell in cells.items()}
    except csv.Error as error:
        raise DataError(f"'{file}' is not a CSV table ({error}).", "Save it as CSV with commas.") from error


def check_label(label: str, where: str) -> str:
    if _MARKUP.search(label):
        raise DataError(
            f"The label {label[:60]!r} ({where}) holds markup or control characters.",
            "Labels are plain text: write what a caption would say.",
        )
    return label
