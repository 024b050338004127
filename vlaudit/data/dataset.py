"""Data sets to audit on: a folder in the Hugging Face ImageFolder convention, or a bundled set.

    DIR/cat/1.png, DIR/dog/2.png              a folder a label
    DIR/train/cat/1.png, DIR/test/cat/2.png   the same, with splits
    DIR/metadata.csv or metadata.jsonl        rows with file_name and any of label, text, question, answer, choices,
                                              pair, and attribute columns; also inside DIR/train and DIR/test

``choices`` are a JSON list, or separated by ``|``; two rows with the same ``pair`` are each other's counterfactuals.
Where metadata has no label column, the folder that a file lies in is its label. Pictures are opened when they are asked
for; the order of the examples depends on the names alone. Only what the metadata lists is used.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.data.images import SUFFIXES, DataError, open_picture, picture_of
from vlaudit.errors import did_you_mean
from vlaudit.files import file_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

BUNDLED = ("roles", "kinds", "things", "captions")  # --data zoo:NAME
SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
TEXT_COLUMNS = ("text", "question", "answer", "choices", "pair")
DEFAULT_QUESTION = "What is this?"  # asked where the data bring none; the labels are the choices
_METADATA = ("metadata.csv", "metadata.jsonl")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MARKUP = re.compile(r"<[a-zA-Z/!?][^>]*>|[\x00-\x08\x0b-\x1f\x7f]")
_YES, _NO = {"1", "true", "yes", "member"}, {"0", "false", "no", "non-member", "nonmember"}


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with what is known of it. ``id`` is unique in its data set and the same on every machine."""

    id: str
    picture: Path | NDArray[np.uint8]  # a file, or (H, W, 3) RGB
    label: str | None = None
    split: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # of TEXT_COLUMNS
    member: bool | None = None  # whether the prompt (or model) was trained on it; None where nobody declared it

    def open(self) -> Image:
        """The picture as 8-bit RGB. Raises DataError."""
        return open_picture(self.picture) if isinstance(self.picture, Path) else picture_of(self.picture)

    @property
    def identity(self) -> str:
        """What is independent of all else: the column ``identity`` (a person, an object shown several times), else
        the picture itself."""
        return self.attributes.get("identity") or self.id

    @property
    def question(self) -> str:
        """What to ask of the picture."""
        return self.texts.get("question") or DEFAULT_QUESTION

    @property
    def answer(self) -> str | None:
        """The right answer: its column, else the label."""
        return self.texts.get("answer") or self.label

    @property
    def choices(self) -> list[str]:
        """The column ``choices``, a JSON list or separated by ``|``; empty where there is none. Raises DataError."""
        text = self.texts.get("choices", "").strip()
        if not text.startswith("["):
            return [choice.strip() for choice in text.split("|") if choice.strip()]
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(choice, str) and choice.strip() for choice in found):
            raise DataError(
                f"The choices of '{self.id}' are no list of texts: {text[:60]}.", 'Write ["yes", "no"], or yes|no.'
            )
        return found

    def sha256(self) -> str:
        """The hash by which a prompt file declares its members: of the file's bytes (as ``sha256sum`` prints it), or
        of the pixels for a picture that is no file."""
        return _file_sha256(self.picture) if isinstance(self.picture, Path) else self.pixel_sha256()

    def pixel_sha256(self) -> str:
        """Hash of the decoded RGB pixels, row by row: the same for every lossless encoding of a picture."""
        image = self.open()
        return hashlib.sha256(f"{image.width}x{image.height}RGB".encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Examples in a fixed order. ``groups`` are the attribute columns that an audit compares."""

    source: str
    examples: list[Example]
    groups: tuple[str, ...] = ()
    own_captions: tuple[str, ...] | None = None  # of --prompts; else the pictures' own are audited

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The distinct texts to draw pictures from, in order: those of ``--prompts``, else what the audit's pictures
        say (their ``text``, else their label)."""
        if self.own_captions is not None:
            return self.own_captions
        said = (example.texts.get("text") or example.label or "" for example in self.audit)
        return tuple(dict.fromkeys(text for text in said if text))

    @property
    def captioned(self) -> list[Example]:
        """The pictures with a ``text``: what a text-to-image model may have been trained on."""
        return [example for example in self.examples if example.texts.get("text")]

    @property
    def questions(self) -> list[Example]:
        """The pictures to ask about whose right answer is known."""
        return [example for example in self.audit if example.answer]

    @cached_property
    def pairs(self) -> list[tuple[Example, Example]]:
        """Counterfactuals: two examples of the audit with the same ``pair``, in their order. Raises DataError."""
        found: dict[str, list[Example]] = {}
        for example in self.audit:
            if example.texts.get("pair"):
                found.setdefault(example.texts["pair"], []).append(example)
        for name, members in found.items():
            if len(members) != 2:
                raise DataError(
                    f"The pair '{name}' of the data '{self.source}' has {len(members)} members to be audited.",
                    "A pair is two rows with the same value in the column pair.",
                )
        return [(first, second) for first, second in found.values()]

    @cached_property
    def labels(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({example.label for example in self.examples if example.label is not None})

    @property
    def has_members(self) -> bool:
        """Whether both members and non-members are declared."""
        return {True, False} <= {example.member for example in self.examples}

    @cached_property
    def audit(self) -> list[Example]:
        """The examples to measure behaviour on: not what the prompt learned from. Members are left out, and so is all
        but the ``test`` split where there is one; if nothing remains, all examples."""
        split = "test" if any(example.split == "test" for example in self.examples) else None
        kept = [e for e in self.examples if e.member is not True and (split is None or e.split == split)]
        return kept or self.examples

    def with_member_hashes(self, hashes: Sequence[str]) -> Dataset:
        """Declare as members the examples with one of these hashes (of file bytes or of pixels), the others as
        non-members. Unchanged where no example matches."""
        wanted = {value.lower() for value in hashes}
        found = [example.sha256() in wanted for example in self.examples]
        if sum(found) < len(wanted):  # decode only where the files' own hashes don't account for all of them
            found = [hit or e.pixel_sha256() in wanted for hit, e in zip(found, self.examples, strict=True)]
        if not any(found):
            return self
        return replace(self, examples=[replace(e, member=m) for e, m in zip(self.examples, found, strict=True)])

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of names, labels, attributes and file sizes; it opens no picture."""
        digest = hashlib.sha256()
        for e in self.examples:
            size = (
                e.picture.stat().st_size
                if isinstance(e.picture, Path)
                else hashlib.sha256(e.picture.tobytes()).hexdigest()
            )
            digest.update(json.dumps([e.id, e.label, e.split, e.attributes, e.texts, e.member, size]).encode())
        if self.own_captions is not None:
            digest.update(json.dumps(self.own_captions).encode())
        return digest.hexdigest()


def load_dataset(source: str | Path, groups: Sequence[str] = (), members: str | None = None) -> Dataset:
    """Read a data set: a folder, or ``zoo:roles``, ``zoo:kinds``, ``zoo:things``, ``zoo:captions``.

    ``groups``: attribute columns to compare. ``members``: ``train`` (that split against the others) or a column of
    yes and no. Raises DataError, one sentence for whatever is wrong.
    """
    name = str(source)
    examples = list(_bundled(name) if name.startswith("zoo:") else _folder(Path(source)))
    columns = sorted({column for example in examples for column in example.attributes})
    for group in groups:
        if group not in columns:
            raise DataError(
                f"The data '{name}' have no column '{group}' to group by.",
                did_you_mean(group, columns) if columns else "They have no attribute columns: add a metadata.csv.",
            )
    if members is not None:
        examples = [replace(example, member=_is_member(example, members, columns, name)) for example in examples]
        if not {True, False} <= {example.member for example in examples}:
            raise DataError(
                f"--members {members} does not divide the data '{name}' into members and non-members.",
                "Both are needed to compare.",
            )
    return Dataset(name, examples, tuple(groups))


def read_labels(path: Path) -> list[str]:
    """Labels from a text file, one a line, in that order. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The labels file '{path}' cannot be read as text.", "Give a UTF-8 file with one label a line."
        ) from error
    labels = [line.strip() for line in lines if line.strip()]
    if len(labels) < 2:
        raise DataError(f"The labels file '{path}' has {len(labels)} labels.", "Give at least two, one a line.")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(f"The labels file '{path}' names '{twice[0]}' twice.", "Name every label once.")
    return [_check_label(label, str(path)) for label in labels]


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


# --- bundled sets --------------------------------------------------------------------------------------------------


def _bundled(source: str) -> Iterator[Example]:
    from vlaudit.data import emoji

    name = source.removeprefix("zoo:")
    if name not in BUNDLED:
        raise DataError(f"There are no bundled data '{source}'.", did_you_mean(name, list(BUNDLED)))
    label = {
        "roles": lambda row: row.role,
        "kinds": emoji.kind_of,
        "things": lambda row: row.name,
        "captions": emoji.painted_concept,
    }[name]
    if name == "captions":
        rows, splits = zip(*emoji.painted(), strict=True)
    else:
        rows = {"roles": emoji.roles, "kinds": emoji.kinds, "things": emoji.things}[name](("train", "test"))
        splits = tuple(row.split for row in rows)
    for row, split, pixels in zip(rows, splits, emoji.load_pictures(rows), strict=True):
        attributes = {"style": row.style, "gender": row.gender, "tone": row.tone, "identity": row.unified}
        texts = {"text": emoji.painted_caption(row)} if name == "captions" else {}
        yield Example(f"{split}/{row.style}/{row.unified}", pixels, label(row), split, attributes, texts)


# --- folders -------------------------------------------------------------------------------------------------------


def _folder(root: Path) -> Iterator[Example]:
    if not root.is_dir():
        raise DataError(
            f"The data folder '{root}' does not exist." if not root.exists() else f"'{root}' is not a folder.",
            "Give a folder of pictures, see --data in vlaudit scan --help.",
        )
    children = _subfolders(root)
    splits = [child for child in children if child.name in SPLITS]
    if _metadata_file(root):
        yield from _from_metadata(root, root, "")
    elif splits:
        others = [child.name for child in children if child not in splits]
        if others:
            raise DataError(
                f"The data folder '{root}' has the split '{splits[0].name}' beside the folder '{others[0]}'.",
                "Put every class folder into a split, or none.",
            )
        for split in splits:
            yield from _split(root, split, SPLITS[split.name])
    else:
        yield from _split(root, root, "")


def _split(root: Path, folder: Path, split: str) -> Iterator[Example]:
    """One split: its metadata, or a folder a label."""
    if _metadata_file(folder):
        yield from _from_metadata(root, folder, split)
        return
    classes = _subfolders(folder)
    if not classes:
        loose = "its pictures lie loose in it" if _pictures(folder) else "it holds no pictures"
        raise DataError(
            f"The data folder '{folder}' has no labels: {loose}.",
            "Put the pictures of each label into a folder of that name, or add a metadata.csv.",
        )
    for child in classes:
        label = _check_label(child.name, f"folder name in {folder}")
        pictures = _pictures(child)
        if not pictures:
            raise DataError(
                f"The class folder '{child}' holds no pictures.",
                f"Add some ({', '.join(sorted(SUFFIXES))}), or remove the folder.",
            )
        for path in pictures:
            yield Example(path.relative_to(root).as_posix(), _inside(root, path), label, split)


def _from_metadata(root: Path, folder: Path, split: str) -> Iterator[Example]:
    file = _metadata_file(folder)
    assert file is not None
    rows = list(_rows(file))
    if not rows:
        raise DataError(f"'{file}' lists no pictures.", "Add rows, or remove the file to use class folders.")
    any_labelled = any(row.get("label") for _, row in rows)
    seen: Counter[str] = Counter()
    for line, row in rows:
        where = f"'{file}', line {line}"
        name = row.pop("file_name", "")
        if not name:
            raise DataError(f"{where} has no file_name.", "Every row needs the path of its picture.")
        path = _inside(root, folder / name, where)
        if not path.is_file():
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
        yield Example(example_id, path, _check_label(label, where) if label else None, own_split, row, texts)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells as text of each row."""
    text = _text_of(file)
    if file.suffix == ".csv":
        yield from _csv_rows(file, text, "file_name")
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row: Any = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"'{file}', line {line}, is not JSON ({error}).", "Write one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f"'{file}', line {line}, is not a JSON object.", "Write one object a line.")
        present = {key: value for key, value in row.items() if value is not None}
        yield line, {key: value if isinstance(value, str) else json.dumps(value) for key, value in present.items()}


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' cannot be read as UTF-8 text.", "Save it as UTF-8.") from error


def _csv_rows(file: Path, text: str, needed: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if needed not in (reader.fieldnames or ()):
            cure = "Add it, with paths relative to the file." if needed == "file_name" else "Add it to its heading."
            raise DataError(f"'{file}' has no column {needed}.", cure)
        for cells in reader:
            if None in cells or None in cells.values():
                raise DataError(
                    f"'{file}', line {reader.line_num}, has more or fewer cells than the heading.",
                    "Quote cells that hold commas.",
                )
            yield reader.line_num, {column: cell.strip() for column, cell in cells.items()}
    except csv.Error as error:
        raise DataError(f"'{file}' is not a CSV table ({error}).", "Save it as CSV with commas.") from error


def _metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in _METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"The data folder '{folder}' has both a metadata.csv and a metadata.jsonl.", "Keep one.")
    return found[0] if found else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by their path."""
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def _inside(root: Path, path: Path, where: str = "") -> Path:
    """The path itself, if neither ``..`` nor a link leads out of the data folder."""
    if "\0" in str(path) or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"The picture '{path}'{' of ' + where if where else ''} lies outside the data folder '{root}'.",
            "Copy it into the folder.",
        )
    return path


def _check_label(label: str, where: str) -> str:
    if _MARKUP.search(label):
        raise DataError(
            f"The label {label[:60]!r} ({where}) holds markup or control characters.",
            "Labels are plain text: write what a caption would say.",
        )
    return label


def _is_member(example: Example, members: str, columns: list[str], name: str) -> bool | None:
    if members == "train":
        return example.split == "train"
    if members not in columns:
        raise DataError(
            f"The data '{name}' have no column '{members}' that marks members.",
            did_you_mean(members, ["train", *columns]),
        )
    value = example.attributes.get(members, "").lower()
    if value and value not in _YES | _NO:
        raise DataError(
            f"The column '{members}' says '{value}' for '{example.id}'.",
            "Write yes or no (or leave it empty for neither).",
        )
    return value in _YES if value else None


def _file_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(
            f"The picture '{path}' cannot be read: {error.strerror}.", "Restore it, or take it out."
        ) from error
