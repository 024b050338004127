"""Data folders of the ImageFolder convention, and what is said of those that are not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlaudit.data import folder
from vlaudit.data.dataset import DataError, Dataset, load_dataset
from vlaudit.data.example import Example
from vlaudit.data.text_files import read_captions, read_labels


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, 10, 20)).save(path)
    return path


def table(folder: Path, text: str, *names: str) -> Path:
    for shade, name in enumerate(names):
        picture(folder / name, shade)
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    return folder


def test_class_folders_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.JPG", "cat/deep/1.png", "cat/notes.txt", ".git/x.png"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    data = load_dataset(tmp_path)
    assert [(e.id, e.label, e.split) for e in data.examples] == [
        ("cat/deep/1.png", "cat", ""),
        ("dog/a.JPG", "dog", ""),
        ("dog/b.png", "dog", ""),
    ]
    assert data.labels == ["cat", "dog"]
    assert data.audit == data.examples
    assert not data.has_members


def test_splits_and_members(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            picture(tmp_path / split / label / "1.png")
    data = load_dataset(tmp_path, members="train")
    assert [(e.split, e.label, e.member) for e in data.examples] == [
        ("test", "cat", False),
        ("test", "dog", False),
        ("train", "cat", True),
        ("train", "dog", True),
    ]
    assert data.has_members
    assert {e.split for e in data.audit} == {"test"}


def test_metadata_csv_with_groups_texts_and_member_column(tmp_path: Path) -> None:
    text = "file_name,label,question,gender,seen\nx/a.png,cat,what?,man,yes\nb.png,dog,,woman,no\nc.png,dog,,,\n"
    data = load_dataset(table(tmp_path, text, "x/a.png", "b.png", "c.png"), groups=["gender"], members="seen")
    first = data.examples[0]
    assert (first.id, first.label, first.texts, first.attributes["gender"]) == (
        "x/a.png",
        "cat",
        {"question": "what?"},
        "man",
    )
    assert [e.member for e in data.examples] == [True, False, None]
    assert data.groups == ("gender",)
    assert [e.id for e in data.audit] == ["b.png", "c.png"]


def test_metadata_without_labels_takes_folder_and_split_from_the_path(tmp_path: Path) -> None:
    text = "file_name,gender\ntrain/cat/a.png,man\ntest/dog/b.png,woman\n"
    data = load_dataset(table(tmp_path, text, "train/cat/a.png", "test/dog/b.png"))
    assert [(e.split, e.label) for e in data.examples] == [("train", "cat"), ("test", "dog")]


def test_metadata_jsonl_inside_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png")
        row = {"file_name": "a.png", "label": 3, "choices": ["x", "y"], "age": None}
        (tmp_path / split / "metadata.jsonl").write_text("\n" + json.dumps(row) + "\n")
    data = load_dataset(tmp_path)
    assert [(e.id, e.label, e.split) for e in data.examples] == [
        ("train/a.png", "3", "train"),
        ("val/a.png", "3", "validation"),
    ]
    assert data.examples[0].texts == {"choices": '["x", "y"]'}


def test_several_questions_about_one_picture(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "file_name,question\na.png,what?\na.png,where?\n", "a.png"))
    assert [e.id for e in data.examples] == ["a.png", "a.png#2"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file_name,label\na.png,cat\nb.png,\n", "line 3 has no label, other rows have one"),
        ("file_name,label\na.png,cat\na.png,cat\n", "lists the picture 'a.png' again"),
        ("file_name,label\nnone.png,cat\n", "none.png' of .*metadata.csv', line 2 does not exist"),
        ("file_name,label\n../../etc/passwd,cat\n", "outside the data folder"),
        ("file_name,label\n/etc/passwd,cat\n", "outside the data folder"),
        ("file_name,label\n,cat\n", "line 2 has no file_name"),
        ("file_name,label\na.png,<b>cat</b>\n", "markup"),
        ("file_name,label\na.png,<script src=x>\n", "markup"),
        ("file_name,label\na.png,c\x1bat\n", "control characters"),
        ("file_name,label\na.png,cat,dog\n", "more or fewer cells"),
        ("file_name,label\na.png\n", "more or fewer cells"),
        ("name,label\na.png,cat\n", "no column file_name"),
        ("file_name,label\n", "lists no pictures"),
        ("", "no column file_name"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_dataset(table(tmp_path, text, "a.png", "b.png"))
    assert caught.value.cure


@pytest.mark.parametrize("line", ["{", "[1]", '{"file_name": "\\u0000"}'])
def test_bad_jsonl(tmp_path: Path, line: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError):
        load_dataset(tmp_path)


def test_text_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "cat" / "1.png").rename(os.fsdecode(os.fsencode(tmp_path / "a" / "cat") + b"/\xff.png"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_dataset(tmp_path / "a")
    picture(tmp_path / "b" / "1.png")
    (tmp_path / "b" / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "\\ud83d"}')
    with pytest.raises(DataError, match="half of a surrogate pair"):
        load_dataset(tmp_path / "b")


def test_less_than_is_no_markup(tmp_path: Path) -> None:
    assert load_dataset(table(tmp_path, "file_name,label\na.png,a < b > c\n", "a.png")).labels == ["a < b > c"]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="holds no pictures"):
        load_dataset(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="lie loose"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        load_dataset(tmp_path / "a.png")
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dog' holds no pictures"):
        load_dataset(tmp_path)
    picture(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match="beside the folder 'cat'"):
        load_dataset(tmp_path)
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).write_text("file_name\n")
    with pytest.raises(DataError, match="both"):
        load_dataset(tmp_path)


def test_link_out_of_the_folder(tmp_path: Path) -> None:
    outside = picture(tmp_path / "secret.png")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    os.symlink(outside, tmp_path / "data" / "cat" / "1.png")
    with pytest.raises(DataError, match="outside the data folder"):
        load_dataset(tmp_path / "data")


def test_unknown_columns(tmp_path: Path) -> None:
    table(tmp_path, "file_name,label,gender,seen\na.png,cat,man,perhaps\n", "a.png")
    with pytest.raises(DataError, match="no column 'gendre'") as caught:
        load_dataset(tmp_path, groups=["gendre"])
    assert "gender" in caught.value.cure
    with pytest.raises(DataError, match="no column 'sen' that marks members"):
        load_dataset(tmp_path, members="sen")
    with pytest.raises(DataError, match="says 'perhaps'"):
        load_dataset(tmp_path, members="seen")
    with pytest.raises(DataError, match="does not divide"):
        load_dataset(tmp_path, members="train")


def test_member_hashes_of_files_and_of_pixels(tmp_path: Path) -> None:
    for shade, name in enumerate(("a/1.png", "a/2.png", "b/3.png")):
        picture(tmp_path / name, shade)
    data = load_dataset(tmp_path)
    by_bytes = hashlib.sha256((tmp_path / "a/1.png").read_bytes()).hexdigest()
    pixels = np.asarray(Image.open(tmp_path / "b/3.png"))
    by_pixels = Example("x", pixels).sha256()
    assert [e.member for e in data.with_member_hashes([by_bytes.upper()]).examples] == [True, False, False]
    assert [e.member for e in data.with_member_hashes([by_bytes, by_pixels]).examples] == [True, False, True]
    assert data.with_member_hashes(["0" * 64]) is data


def test_a_picture_damaged_in_its_middle_is_an_error_when_it_is_shown(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "1.png")
    content = bytearray(file.read_bytes())
    place = content.index(b"IDAT") + 4
    content[place : place + 8] = b"\xff" * 8
    file.write_bytes(content)
    data = load_dataset(tmp_path)
    with pytest.raises(DataError, match=r"1\.png.*damaged"):
        data.examples[0].open()


def test_fingerprint_sees_labels_and_sizes(tmp_path: Path) -> None:
    file = picture(tmp_path / "cat" / "1.png")
    before = load_dataset(tmp_path).sha256
    assert load_dataset(tmp_path).sha256 == before
    assert Dataset("x", [Example("cat/1.png", file, "dog")]).sha256 != before
    file.write_bytes(file.read_bytes() + b"\0")
    assert load_dataset(tmp_path).sha256 != before


def test_bundled_set_has_both_splits_and_opens() -> None:
    data = load_dataset("zoo:roles", groups=["gender", "tone"], members="train")
    assert data.has_members
    assert {e.split for e in data.audit} == {"test"}
    assert data.examples[0].open().size == (32, 32)
    assert len({e.id for e in data.examples}) == len(data.examples)
    with pytest.raises(DataError, match="no bundled data"):
        load_dataset("zoo:rolse")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"cat\n", "has 1 labels"),
        (b"cat\ndog\ncat\n", "'cat' twice"),
        (b"cat\n<b>x</b>\n", "markup"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_labels_file(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("metadata.csv", "file_name,label,label\na.png,cat,dog\n", "'label' twice"),
        ("metadata.csv", "file_name," + ",".join(f"c{n}" for n in range(100_000)) + "\n", "100,001 columns"),
        ("metadata.csv", f"file_name,label\na.png,{'x' * 200_000}\n", "field larger"),
        ("metadata.csv", "", "no column file_name"),
        ("metadata.csv", "file_name\n" + "a.png\n" * 1_002, "more than 1,000 rows"),
        ("metadata.jsonl", "[" * 200_000 + "\n", "nested too deeply"),
        ("metadata.jsonl", '{"file_name": ' + "9" * 5_000 + "}\n", "is not JSON"),
        ("metadata.jsonl", '{"file_name": "' + "x" * 300 + '.png"}\n', "does not exist"),
        ("metadata.jsonl", '{"file_name": "a\\u0000.png"}\n', "outside"),
        ("metadata.jsonl", '{"file_name": "loop/a.png"}\n', "does not exist"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_metadata_that_is_junk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, match: str
) -> None:
    monkeypatch.setattr(folder, "MAX_ROWS", 1_000)
    (tmp_path / name).write_text(content)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match=match):
        load_dataset(tmp_path)


def test_metadata_that_is_no_file_is_not_passed_over(picture_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(picture_folder / "test", tmp_path / "data")
    assert load_dataset(tmp_path / "data").labels
    os.mkfifo(tmp_path / "data" / "metadata.csv")
    with pytest.raises(DataError, match="not a regular file"):
        load_dataset(tmp_path / "data")


def test_labels_file_keeps_its_order(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeffzebra\n\n ant \nbee\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ["zebra", "ant", "bee"]


def test_import_is_light() -> None:
    heavy = "{'torch', 'scipy', 'numpy', 'PIL'}"
    code = f"import sys, vlaudit.data.dataset, vlaudit.statistics; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_captions_come_from_a_file_or_from_the_pictures(tmp_path: Path) -> None:
    lines = tmp_path / "captions.txt"
    lines.write_text("\ufeffa cook\n\n  a <my-cat> on a boat \na cook\n", encoding="utf-8")
    assert read_captions(lines) == ("a cook", "a <my-cat> on a boat")
    table = tmp_path / "captions.csv"
    table.write_text('text,source\n"a cook, smiling",x\n', encoding="utf-8")
    assert read_captions(table) == ("a cook, smiling",)
    data = load_dataset("zoo:roles")
    assert data.captions == tuple(dict.fromkeys(e.label for e in data.audit)), "labels stand in for missing texts"
    own = replace(data, own_captions=("a cook",))
    assert own.captions == ("a cook",) and own.sha256 != data.sha256


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("c.txt", "\n \n", "holds no caption"),
        ("c.csv", "caption\na cook\n", "no column text"),
        ("c.txt", "a cook\x1b[2J\n", "control characters"),
    ],
)
def test_captions_that_cannot_be_audited(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / name)
