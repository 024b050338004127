"""A folder of pictures as examples; its layout is described in `vlaudit.data.dataset`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from vlaudit.data.example import TEXT_COLUMNS, Example
from vlaudit.data.images import DataError, known_suffixes
from vlaudit.data.rows import IMAGE, MAX_ROWS, check_columns, renamed
from vlaudit.data.text_files import check_label, metadata_rows
from vlaudit.files import is_unicode, walk

SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
METADATA = ("metadata.csv", "metadata.jsonl")


def read_folder(root: Path, columns: Mapping[str, str] | None = None) -> Iterator[Example]:
    if not os.path.isdir(root):
        raise DataError(
            f"The data folder '{root}' does not exist." if not os.path.lexists(root) else f"'{root}' is not a folder.",
            "Give a folder of pictures, see --data in vlaudit scan --help.",
        )
    children = _subfolders(root)
    splits = [child for child in children if child.name in SPLITS]
    if _metadata_file(root):
        yield from _from_metadata(root, root, "", columns)
    elif splits:
        others = [child.name for child in children if child not in splits]
        if others:
            raise DataError(
                f"The data folder '{root}' has the split '{splits[0].name}' beside the folder '{others[0]}'.",
                "Put every class folder into a split, or none.",
            )
        for split in splits:
            yield from _split(root, split, SPLITS[split.name], columns)
    else:
        yield from _split(root, root, "", columns)


def _split(root: Path, folder: Path, split: str, columns: Mapping[str, str] | None) -> Iterator[Example]:
    """One split: its metadata, or a folder a label."""
    if _metadata_file(folder):
        yield from _from_metadata(root, folder, split, columns)
        return
    if columns:
        raise DataError(f"--columns names columns, and '{folder}' has no metadata.csv.", "Leave it out for folders named by label.")
    classes = _subfolders(folder)
    if not classes:
        loose = "its pictures lie loose in it" if _pictures(folder) else "it holds no pictures"
        raise DataError(
            f"The data folder '{folder}' has no labels: {loose}.",
            "Put the pictures of each label into a folder of that name, or add a metadata.csv.",
        )
    for child in classes:
        label = check_label(child.name, f"folder name in {folder}")
        pictures = _pictures(child)
        if not pictures:
            raise DataError(
                f"The class folder '{child}' holds no pictures.",
                f"Add some ({', '.join(sorted(known_suffixes()))}), or remove the folder.",
            )
        for path in pictures:
            yield Example(path.relative_to(root).as_posix(), inside(root, path), label, split)


def _from_metadata(root: Path, folder: Path, split: str, columns: Mapping[str, str] | None) -> Iterator[Example]:
    file = _metadata_file(folder)
    assert file is not None
    columns = {"file_name" if ours == IMAGE else ours: theirs for ours, theirs in (columns or {}).items()}
    rows = list(islice(metadata_rows(file, columns.get("file_name", "file_name")), MAX_ROWS + 1))
    if len(rows) > MAX_ROWS:
        raise DataError(f"'{file}' has more than {MAX_ROWS:,} rows.", "Audit on a sample of them.")
    if not rows:
        raise DataError(f"'{file}' lists no pictures.", "Add rows, or remove the file to use class folders.")
    if columns:
        check_columns(str(file), columns, list(dict.fromkeys(key for _, row in rows for key in row)))
        rows = [(line, renamed(row, columns)) for line, row in rows]
    any_labelled = any(row.get("label") for _, row in rows)
    seen: Counter[str] = Counter()
    for line, row in rows:
        where = f"'{file}', line {line}"
        name = row.pop("file_name", "")
        if not name:
            raise DataError(f"{where} has no file_name.", "Every row needs the path of its picture.")
        path = inside(root, folder / name, where)
        if not os.path.isfile(path):
            raise DataError(
                f"The picture '{folder / name}' of {where} does not exist.", "Restore it, or take its row out."
            )
        parts = list(Path(name).parts[:-1])
        own_split = SPLITS[parts.pop(0)] if not split and parts and parts[0] in SPLITS else split
        label = row.pop("label", "")
        if any_labelled and not label:
            raise DataError(f"{where} has no label, other rows have one.", "Label every row, or none.")
        label = label or (parts[0] if parts else "")
        texts = {column: row.pop(column) for column in TEXT_COLUMNS if column in row}
        example_id = (folder.relative_to(root) / name).as_posix()
        seen[example_id] += 1
        if seen[example_id] > 1:
            if not texts:
                raise DataError(f"{where} lists the picture '{name}' again.", "List every picture once.")
            example_id += f"#{seen[example_id]}"  # several questions about one picture
        yield Example(example_id, path, check_label(label, where) if label else None, own_split, row, texts)


def _metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA if os.path.lexists(folder / name)]
    if len(found) > 1:
        raise DataError(f"The data folder '{folder}' has both a metadata.csv and a metadata.jsonl.", "Keep one.")
    return found[0] if found else None


def _subfolders(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"The folder '{folder}' cannot be read ({error.strerror}).", "Check its permissions.") from error
    return [child for child in children if os.path.isdir(child) and not child.name.startswith(".")]


def _pictures(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by their path."""
    suffixes = known_suffixes()
    return sorted(
        p for p in walk(folder) if p.suffix.lower() in suffixes and os.path.isfile(p) and not p.name.startswith(".")
    )


def inside(root: Path, path: Path, where: str = "") -> Path:
    """The path itself, if neither ``..`` nor a link leads out of the data folder, and its name is text."""
    if not is_unicode(str(path)):
        raise DataError(f"The name of '{path}' is not UTF-8.", "Rename the file or its folder.")
    if "\0" in str(path) or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"The picture '{path}'{' of ' + where if where else ''} lies outside the data folder '{root}'.",
            "Copy it into the folder.",
        )
    return path
