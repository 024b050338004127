"""Data sets of the package ``datasets``: ``hf:PATH`` of what ``save_to_disk`` or parquet files hold, and ``hf:NAME`` of the hub.

    hf:PATH[:SPLIT]                a folder or file on this disk; pictures in folders are read as without ``hf:``
    hf:NAME[@REVISION][:SPLIT]     a data set of the hub, downloaded because the user names it
    SPLIT                          train, train[:1000], train+test as ``datasets`` has it; CONFIG/SPLIT where there are several

No code of a data set runs: those with a loading script are refused by the package, and of the formats that it knows only
tables and pictures are opened here. Cells are read as Arrow has them, so no decoder of the package sees them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.cage import network
from vlaudit.data.example import Example
from vlaudit.data.folder import METADATA, SPLITS, inside, read_folder
from vlaudit.data.images import DataError, StoredPicture, known_suffixes
from vlaudit.data.left_out import Omissions, left_out
from vlaudit.data.rows import IMAGE, LABEL, MAX_ROWS, Rows
from vlaudit.errors import UsageError, VlauditError, first_line
from vlaudit.files import Unreadable, read_json_object, user_path, walk

if TYPE_CHECKING:
    from datasets import Dataset as Table

BUILDERS = frozenset({"parquet", "arrow", "csv", "json", "imagefolder", "webdataset"})  # of the hub: those that open tables and pictures
STEP = 1_000  # rows read at once
PICTURE_BYTES = 500_000_000
_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_SPLIT = re.compile(r"((?P<config>[\w.-]+)/)?(?P<split>[\w.%+:\[\]-]+)")
_NAMED_SPLIT = re.compile(r"(?:^|[^a-z])(train|test|validation|valid|val)(?:[^a-z]|$)")


def local_part(source: str) -> tuple[Path, str] | None:
    """The path on this disk that an ``hf:`` source names, and its split; None where it names a data set of the hub."""
    text = source.removeprefix("hf:")
    parts = text.split(":")
    for count in range(len(parts), 0, -1):  # a path may hold colons, and so may train[:100]
        path = ":".join(parts[:count])
        if path and os.path.lexists(user_path(path)):
            return user_path(path), ":".join(parts[count:])
    if text.startswith((".", "/", "~")) or parts[0].count("/") > 1:
        raise DataError(f"The data '{source}' do not exist.", "Give hf:PATH, or hf:NAME of a data set of the hub.")
    return None


def read_hub(source: str, columns: Mapping[str, str]) -> tuple[list[Example], Omissions]:
    """The examples of an ``hf:`` source, and what was left out. Raises DataError."""
    local = local_part(source)
    if local is not None and os.path.isdir(local[0]) and _kind(local[0]) == "pictures":
        if local[1]:
            raise DataError(f"'{local[0]}' is a folder of pictures, of which all splits are read.", "Leave the split out.")
        examples = list(read_folder(local[0], columns))
        return examples, left_out(local[0], METADATA, [example.picture for example in examples if isinstance(example.picture, Path)])
    if local is not None:
        tables, home = _local_tables(source, *local), local[0]
        said = []
    else:
        tables, commit = _remote_tables(source)
        home, said = None, [f"'{source}' is at commit {commit}."] if commit else []
    rows = Rows(source, columns)
    unread: dict[str, None] = {}
    for split, table in tables.items():
        unread |= dict.fromkeys(_add(rows, table, split, columns, home))
    omitted = rows.finish()
    if unread:
        omitted.notes.append(f"Columns of '{source}' that are not read: {', '.join(islice(unread, 8))}{' …' * (len(unread) > 8)}.")
    return rows.examples, Omissions(said) + omitted


# --- tables -----------------------------------------------------------------------------------------------------------


def _local_tables(source: str, path: Path, wanted: str) -> dict[str, Table]:
    if wanted and not _SPLIT.fullmatch(wanted):
        raise DataError(f"'{wanted}' is no split of '{path}'.", "Write hf:PATH:train, or hf:PATH:train[:1000].")
    kind = _kind(path)
    datasets = _library()
    with _told(source):
        if kind == "saved":
            splits = [str(name) for name in _json(path / "dataset_dict.json").get("splits", [])] if (path / "dataset_dict.json").is_file() else [""]
            found = {}
            for name in splits:
                folder = path / name
                if Path(name).name != name:
                    raise DataError(f"'{path / 'dataset_dict.json'}' names the split '{name}'.", "Save the data set again with save_to_disk.")
                parts = _json(folder / "state.json").get("_data_files")
                for part in parts if isinstance(parts, list) else [None]:
                    file = part.get("filename") if isinstance(part, dict) else None
                    if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
                        raise DataError(f"'{folder / 'state.json'}' is damaged: it names no files beside it.", "Save the data set again with save_to_disk.")
                found[name] = datasets.load_from_disk(str(folder))
            if wanted:
                name, slice_ = re.match(r"([^\[]*)(.*)", wanted).groups()  # type: ignore[union-attr]
                if name not in found:
                    raise DataError(f"The data '{path}' have no split '{name}'.", f"They have: {', '.join(filter(None, found)) or 'none'}.")
                return {name: _sliced(found[name], slice_)}
            return found
        files: dict[str, list[str]] = {}
        for file in _files(path, kind):
            below = file.relative_to(path).as_posix() if file != path else file.name
            files.setdefault(_split_of(below), []).append(str(inside(path if file != path else path.parent, file)))
        if wanted and "" in files and len(files) == 1:
            files = {"train": files[""]}
        order = ["", *SPLITS]
        keyed = {name or "train": files[name] for name in sorted(files, key=order.index)}
        if wanted:
            return {wanted: datasets.load_dataset(kind, data_files=keyed, split=wanted)}
        loaded = datasets.load_dataset(kind, data_files=keyed)
        return {name if name in files else "": loaded[name] for name in keyed}


def _remote_tables(source: str) -> tuple[dict[str, Table], str]:
    """The splits of a data set of the hub, and the commit that they are of, where the package says it."""
    name, colon, wanted = source.removeprefix("hf:").partition(":")
    named, split = _NAME.fullmatch(name), _SPLIT.fullmatch(wanted) if colon else None
    if named is None or (colon and split is None):
        raise DataError(f"'{source}' names no data set.", "Write hf:ORG/NAME, hf:ORG/NAME@REVISION:train, or hf:PATH.")
    config, part = (split["config"], split["split"]) if split else (None, None)
    with network.hub():
        datasets = _library()
        with _told(source, "Check the name and the network, or give a folder that save_to_disk wrote."):
            builder = datasets.load_dataset_builder(named["name"], config, revision=named["revision"])
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in BUILDERS or not type(builder).__module__.startswith("datasets.packaged_modules."):
                raise DataError(f"'{source}' is kept as '{kind}', which is not opened.", "Save it as parquet, or with save_to_disk.")
            known = builder.info.splits or {}
            rows = sum(known[name].num_examples or 0 for name in known)
            if rows > MAX_ROWS and not (part and "[" in part):
                raise DataError(f"'{source}' has {rows:,} rows, of which at most {MAX_ROWS:,} are read.", "Name a part of it, such as :train[:10000].")
            builder.download_and_prepare()
            found = {part: builder.as_dataset(split=part)} if part else dict(builder.as_dataset())
            places = " ".join(map(str, builder.info.download_checksums or {}))
            commit = re.search(r"@([0-9a-f]{40})/", places)
            return found, commit[1] if commit else ""


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError("--data hf:… is read by the package datasets.", "Install it: pip install 'datasets>=4'.") from error
    from huggingface_hub import constants

    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE  # which it asked for when it was imported
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


@contextmanager
def _told(source: str, cure: str = "Save it again with the package datasets.") -> Iterator[None]:
    """What the package raises of a data set becomes one sentence."""
    try:
        yield
    except VlauditError:
        raise
    except Exception as error:  # hostile files make it raise anything
        raise DataError(f"The data '{source}' cannot be loaded: {first_line(error)[:300]}.", cure) from error


def _kind(path: Path) -> str:
    """How data on this disk are kept: ``saved``, ``parquet``, ``arrow`` or ``pictures``. Raises DataError."""
    if os.path.isfile(path) and path.suffix in (".parquet", ".arrow"):
        return path.suffix[1:]
    if any(os.path.isfile(path / name) for name in ("dataset_dict.json", "state.json")):
        return "saved"
    if os.path.isdir(path):
        suffixes = {file.suffix.lower() for file in islice(walk(path), MAX_ROWS)}
        for kind in ("parquet", "arrow"):
            if f".{kind}" in suffixes:
                return kind
        if suffixes & known_suffixes():
            return "pictures"
    raise DataError(
        f"'{path}' holds nothing that hf: reads.", "Give a folder that save_to_disk wrote, parquet files, or pictures in folders of their labels."
    )


def _files(path: Path, kind: str) -> list[Path]:
    return [path] if os.path.isfile(path) else sorted(file for file in walk(path) if file.suffix == f".{kind}" and os.path.isfile(file))


def _split_of(name: str) -> str:
    """The split that a file's path names, as the hub has it: ``train-00000-of-00001.parquet``, ``data/test/0.parquet``."""
    found = _NAMED_SPLIT.search(name.lower())
    return SPLITS[found[1]] if found else ""


def _sliced(table: Table, text: str) -> Table:
    """``[:100]``, ``[100:200]``."""
    if not text:
        return table
    found = re.fullmatch(r"\[(\d{0,9}):(\d{0,9})\]", text)
    if found is None:
        raise DataError(f"'{text}' is no part of a split.", "Write for example train[:1000].")
    return table.select(range(*slice(int(found[1] or 0), int(found[2]) if found[2] else None).indices(len(table))))


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except Unreadable as error:
        raise DataError(f"'{path}' {error}.", "Save the data set again with save_to_disk.") from error


# --- rows -------------------------------------------------------------------------------------------------------------


def _add(rows: Rows, table: Table, split: str, columns: Mapping[str, str], home: Path | None) -> list[str]:
    """The rows of a table; returns the columns that are not read. ``home``: where files that it names may lie."""
    import pyarrow.compute as pc

    if len(table) + len(rows.examples) > MAX_ROWS:
        raise DataError(f"The data '{rows.source}' have more than {MAX_ROWS:,} rows.", "Name a part of them, such as :train[:10000].")
    features = table.features
    rows.check(list(features))
    picture = _picture_column(rows.source, features, columns)
    kept = {name: _reader(feature) for name, feature in features.items() if name != picture}
    read = {name: reader for name, reader in kept.items() if reader is not None}
    if LABEL not in columns and LABEL not in read:
        classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
        columns = dict(columns) | ({LABEL: classes[0]} if len(classes) == 1 else {})
        rows._columns = columns
    cells = table.select_columns(list(read)).with_format("arrow") if read else None
    pictures = table.select_columns([picture]).with_format("arrow")
    named = SPLITS.get(split, "")
    root = home if home is None or os.path.isdir(home) else home.parent
    with _told(rows.source):
        for start in range(0, len(table), STEP):
            held = pictures[start : start + STEP].column(0).combine_chunks()
            is_struct = str(held.type).startswith("struct")
            names = [field.name for field in held.type] if is_struct else []
            content = held if not is_struct else pc.struct_field(held, "bytes") if "bytes" in names else None
            sizes = pc.binary_length(content).to_pylist() if content is not None else [None] * len(held)
            paths = pc.struct_field(held, "path").to_pylist() if "path" in names else [None] * len(held)
            values = cells[start : start + STEP].to_pydict() if cells is not None else {}
            for place, (size, path) in enumerate(zip(sizes, paths, strict=True)):
                number = start + place
                id_ = f"{split or 'row'}/{number}"
                where: Path | StoredPicture | None = None
                if size is not None:
                    where = StoredPicture(f"{rows.source} {id_} {os.path.basename(path or '')}".rstrip(), size, _reading(pictures, number, rows.source))
                elif isinstance(path, str) and root is not None:
                    where = _beside(root, path)
                if where is None:
                    rows.without["whose picture lies elsewhere" if path else "without a picture"] += 1
                    continue
                rows.add(id_, where, {name: reader(values[name][place]) for name, reader in read.items()}, named)
    return [name for name in kept if name not in read]


def _beside(root: Path, path: str) -> Path | None:
    """A file that a table names, where it lies in the folder of the table."""
    try:
        found = inside(root, root / path)
    except DataError:
        return None
    return found if os.path.isfile(found) else None


def _reading(pictures: Any, number: int, source: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with _told(source):
            value = pictures[number : number + 1].column(0)[0].as_py()
            content = value.get("bytes") if isinstance(value, dict) else value
            return bytes(content or b"")

    return read


def _picture_column(source: str, features: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    if IMAGE in columns:
        return columns[IMAGE]
    found = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    found = [name for name in found if name == IMAGE] or found
    if not found and type(features.get(IMAGE)).__name__ in ("Value", "dict"):
        found = [IMAGE]
    if len(found) != 1:
        what = "several columns of pictures" if found else "no column of pictures"
        raise DataError(f"The data '{source}' have {what}.", f"Name it with --columns image=COLUMN; there are: {', '.join(found or features)}.")
    return found[0]


def _reader(feature: Any) -> Callable[[Any], Any] | None:
    """How a cell of a column becomes a text, a number or a list of these; None for what is neither."""
    kind = type(feature).__name__
    if kind == "ClassLabel":
        names = list(feature.names or ())
        return lambda value: names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    if kind == "Value":
        plain = re.match(r"(large_)?string|u?int|float|bool", feature.dtype)
        return (lambda value: value) if plain else None
    inner = feature[0] if isinstance(feature, list) and len(feature) == 1 else getattr(feature, "feature", None)
    if inner is not None and kind in ("Sequence", "List", "LargeList", "list"):
        each = _reader(inner) if type(inner).__name__ in ("Value", "ClassLabel") else None
        return None if each is None else lambda value: None if value is None else [each(item) for item in value]
    return None
