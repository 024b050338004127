"""Text files beside the pictures: metadata tables, labels and captions, as whoever made them wrote them."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlaudit.data.images import DataError
from vlaudit.files import Unreadable, parse_json, read_text

MAX_COLUMNS = 1_000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BLANK = "\u115f\u1160\u2800\u3164\uffa0\ufe0e\ufe0f\u034f"  # shown as nothing, or choosing how the character before is shown
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
    labels = [check_label(label, str(path)) for label in labels]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(f"The labels file '{path}' names '{twice[0]}' twice.", "Name every label once.")
    look_alikes(labels, str(path))
    return labels


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


def metadata_rows(file: Path, pictures: str = "file_name") -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells as text of each row; a CSV needs the column that names the ``pictures``."""
    text = _text_of(file)
    if file.suffix == ".csv":
        yield from _csv_rows(file, text, pictures)
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
            cure = "Add it to its heading." if needed == "text" else "Add it, with paths relative to the file, or name yours with --columns image=COLUMN."
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
    label = " ".join(unicodedata.normalize("NFC", label).split())  # one disk composes what another decomposes
    if not _seen(label):
        raise DataError(f"The label {label!r} ({where}) shows nothing.", "Write what a caption would say.")
    return label


def look_alikes(labels: Sequence[str], where: str) -> list[str]:
    """A sentence on labels that differ in case, underscores or spaces alone, which are one class more often than two. Raises
    DataError for labels that a reader cannot tell apart at all: one class would be split."""
    seen: dict[str, str] = {}
    for label in labels:
        other = seen.setdefault(_seen(label), label)
        if other != label:
            raise DataError(
                f"The labels {other!a} and {label!a} ({where}) look the same and are not: they differ in characters that "
                "are invisible, or in their width.",
                "Write them the same way.",
            )
    folded: dict[str, list[str]] = {}
    for label in labels:
        folded.setdefault(re.sub(r"[\W_]+", " ", label.casefold()).strip() or label, []).append(label)
    pairs = [" and ".join(f"'{label}'" for label in each[:3]) for each in folded.values() if len(each) > 1]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return [f"Labels that differ in case, underscores or punctuation alone count as different classes: {', '.join(pairs[:3])}{more}."] if pairs else []


def _seen(label: str) -> str:
    """What a reader sees of a label: no format characters, letters in their usual width, single spaces."""
    shown = (
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(("<wide>", "<narrow>", "<noBreak>")) else c
        for c in label
        if unicodedata.category(c) != "Cf" and c not in _BLANK
    )
    return " ".join("".join(shown).split())
