"""Webdataset shards: members of one name are one example; what is damaged, foreign or endless is one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlaudit.data import shards
from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.data.images import DataError


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, members: Mapping[str, bytes | str | tarfile.TarInfo], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def load(source: object, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(str(source), **options)


def test_examples_with_labels_captions_and_columns(tmp_path: Path) -> None:
    for shard in range(3):
        rows = {}
        for n in range(shard * 2, shard * 2 + 2):
            rows |= {f"a/{n:04d}.png": png(n), f"a/{n:04d}.cls": str(n % 2), f"a/{n:04d}.txt": f"picture {n}\n",
                     f"a/{n:04d}.json": json.dumps({"gender": "man" if n % 3 else "woman", "age": n, "deep": {"x": 1}, "choices": ["yes", "no"]})}  # fmt: skip
        write(tmp_path / f"{shard:03d}.tar", rows)
    (tmp_path / "classnames.txt").write_text("cat\nhot dog\n")
    data = load(f"wds:{tmp_path}/{{000..002}}.tar", groups=["gender"])
    assert len(data) == 6 and data.labels == ["cat", "hot dog"] and data.captions == tuple(f"picture {n}" for n in range(6))
    for n, example in enumerate(data.examples):
        assert (np.asarray(example.open()) == n).all() and example.sha256() == hashlib.sha256(png(n)).hexdigest()
        assert example.id == f"{n // 2:03d}/a/{n:04d}" and example.attributes == {"gender": "man" if n % 3 else "woman", "age": str(n)}
        assert example.choices == ["yes", "no"] and example.label == ("cat", "hot dog")[n % 2]
    assert load(f"wds:{tmp_path}").sha256 == data.sha256 and len(load(f"wds:{tmp_path}/{{000,002}}.tar")) == 4
    assert load(f"wds:{tmp_path}", columns={"label": "gender", "answer": "text"}).questions[0].answer == "picture 0"


def test_splits_are_folders_and_names_stand_beside_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split / "0.tar", {f"{n}.{suffix}": content for n in range(2) for suffix, content in (("webp.png", png(n)), ("cls", "01"[n]))})
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    data = load(f"wds:{tmp_path}", members="train")
    assert [e.id for e in data.examples] == ["train/0/0", "train/0/1", "test/0/0", "test/0/1"] and len(data.audit) == 2
    assert [e.member for e in data.examples] == [True, True, False, False]


def test_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    link = tarfile.TarInfo("c.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write(tmp_path / "0.tar", {"a.png": png(0), "a.cls": "cat", "b.cls": "cat", "c.png": link, "c.cls": "cat", "d.mp4": b"x", "d.cls": "cat",
                               "e.png": b"<html>", "e.cls": "cat", "__meta__": "no field"})  # fmt: skip
    data = load(f"wds:{tmp_path}/0.tar")
    assert [e.id for e in data.examples] == ["0/a"]
    assert any("3 rows" in note and "2 without a picture that is read (.cls)" in note for note in data.notes)
    assert any("1 text of a server" in note for note in data.notes)


def test_damaged_and_hostile_shards_are_one_sentence(tmp_path: Path) -> None:
    good = {"a.png": png(0), "a.cls": "cat", "b.png": png(1), "b.cls": "dog"}
    whole = write(tmp_path / "whole.tar", good).read_bytes()
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "not a readable tar|hold no picture"),
        "noise": (b"\xff" * 4096, "not a readable tar"),
        "cut": (whole[:700], "cut off|not a readable tar"),
        "packed": (write(tmp_path / "p.tar.gz", good, "w:gz").read_bytes(), "not a readable tar"),
        "number": (write(tmp_path / "t", good | {"c.png": png(0), "c.cls": "7"}).read_bytes(), "numbers without names"),
        "half": (write(tmp_path / "t", good | {"c.png": png(0)}).read_bytes(), "1 of 3 rows .* no label"),
        "json": (write(tmp_path / "t", good | {"b.json": "[1"}).read_bytes(), r"'b.json' in the shard .* is not JSON"),
        "bytes": (write(tmp_path / "t", good | {"b.txt": b"\xff\xfe"}).read_bytes(), "is not UTF-8"),
        "long": (write(tmp_path / "t", good | {"b.txt": b"x" * 1_000_001}).read_bytes(), "larger than 1 MB"),
        "markup": (write(tmp_path / "t", {"a.png": png(0), "a.cls": "<b>cat</b>"}).read_bytes(), "markup"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match=said):
            load(f"wds:{tmp_path}/x.tar")
        assert name
    write(tmp_path / "x.tar", good)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("b.cls"))
    with pytest.raises(DataError, match=r"has 'b\.cls' twice"):
        load(f"wds:{tmp_path}/x.tar")
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    write(tmp_path / "x.tar", {"a.png": png(0), "a.cls": "2"})
    with pytest.raises(DataError, match=r"says 2, and there are 2 class names"):
        load(f"wds:{tmp_path}/x.tar")


@pytest.mark.parametrize("source, said", [
    ("s3://bucket/{0..1}.tar", "not on this disk"), ("pipe:cat x", "not on this disk"), ("nowhere.tar", "does not exist"),
    ("{0..99999999}.tar", "names 100,000,000 shards"), ("{3..1}.tar", "names 0 shards"), ("{0..999}{0..999}.tar", "more than 10,000"),
    ("", "no .tar|not exist|readable"), (".", "no .tar"), ("packed", r"Unpack.*0\.tar\.gz"),
])  # fmt: skip
def test_names_that_are_no_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "packed" / "0.tar.gz", {"a.png": png(0)}, "w:gz")
    with pytest.raises(DataError, match=said):
        load(f"wds:{source}")


def test_examples_of_one_name_and_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("x", "y"):
        write(tmp_path / folder / "0.tar", {"a.png": png(0), "a.cls": "cat"})
    with pytest.raises(DataError, match="two examples '0/a'"):
        load(f"wds:{tmp_path}/{{x,y}}/0.tar")
    monkeypatch.setattr(shards, "MEMBERS", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        load(f"wds:{tmp_path}/x/0.tar")
