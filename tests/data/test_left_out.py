"""Pictures that are not taken are counted and said, in the terminal and in every report; more kinds are read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

from vlaudit.data import images
from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.errors import VlauditWarning
from vlaudit.zoo import WEIGHTS

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def picture(path: Path, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), "red").save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        picture(tmp_path / "data" / label / "1.png")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "reads_heif", lambda: False)


def load(folder: Path) -> tuple[Dataset, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(folder)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, VlauditWarning)]
    assert said == list(data.notes)
    return data, said


def test_nothing_is_said_of_a_folder_that_is_taken_whole(folder: Path) -> None:
    for name in ("notes.txt", "cat/labels.csv", ".DS_Store", "cat/._1.png", "cat/model.bin", "Thumbs.db"):
        (folder / name).write_bytes(b"no picture")
    assert load(folder)[1] == []


def test_formats_that_are_not_read_are_counted_by_name_and_by_first_bytes(folder: Path) -> None:
    for number in range(3):
        (folder / "cat" / f"IMG_{number}.HEIC").write_bytes(HEIC)
    (folder / "dog" / "raw.nef").write_bytes(b"II*\0" + bytes(20))
    (folder / "dog" / "saved").write_bytes((folder / "dog" / "1.png").read_bytes())
    (folder / "dog" / "phone.xyz").write_bytes(HEIC)
    (folder / "dog" / ".hidden.png").write_bytes((folder / "dog" / "1.png").read_bytes())
    data, (said,) = load(folder)
    assert len(data) == 2
    assert said.startswith(f"7 files in '{folder}' look like pictures and are left out: 3 .heic (not read), ")
    for part in ("1 .nef (not read)", "1 without the suffix of a picture", "1 .xyz (not read)", "1 hidden"):
        assert part in said


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.pbm", "a.apng", "a.avif"])
def test_more_kinds_are_read(folder: Path, name: str) -> None:
    if name.endswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".pbm": "PPM", ".apng": "PNG", ".avif": "AVIF"}[Path(name).suffix.lower()]
    picture(folder / "cat" / name, format=kind)
    data, said = load(folder)
    assert {example.id for example in data.examples} == {f"cat/{name}", "cat/1.png", "dog/1.png"}
    assert said == [] and all(example.open().mode == "RGB" for example in data.examples)


def test_pictures_beside_the_class_folders_are_said(folder: Path) -> None:
    picture(folder / "loose.jpg")
    assert "1 outside the folders of the labels" in load(folder)[1][0]
    split = folder.parent / "split"
    for part in ("train", "test"):
        picture(split / part / "cat" / "1.png")
    picture(split / "test" / "loose.jpg")
    data, said = load(split)
    assert "1 outside the folders of the labels" in said[0] and (data.unlisted, data.unlisted_share) == (1, 1 / 3)


def test_what_hides_is_told_and_counts_for_nothing(folder: Path) -> None:
    for name in (".loose.png", ".thumbnails/1.png", "cat/.thumbnails/2.png"):
        picture(folder / name)
    (folder / "metadata.csv").write_text("file_name,label\ncat/1.png,cat\ndog/1.png,dog\n")
    data, (said,) = load(folder)
    assert "3 hidden" in said and (data.unlisted, data.unlisted_share, data.unread_share) == (0, 0.0, 0.0)


@pytest.mark.parametrize("inside", ["", "test/"])
def test_pictures_without_a_row_are_said(tmp_path: Path, inside: str) -> None:
    for name in ("1.png", "2.png", "more/3.png", "4.heic"):
        picture(tmp_path / inside / name, format="PNG")
    (tmp_path / inside / "metadata.csv").write_text("file_name,label\nmore/../1.png,cat\n")
    data, (said,) = load(tmp_path)
    assert (data.unlisted, data.unlisted_share) == (3, 3 / 4)
    assert len(data) == 1 and said.endswith(f"3 without a row in the metadata; such as '{inside}2.png'.")


def test_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "cat" / "pipe")
    assert load(folder)[1] == []


def test_terminal_and_reports_say_it(
    folder: Path, tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "IMG.HEIC").write_bytes(HEIC)
    out = tmp_path / "out"
    flags = ("--probe", "unsafe-file", "--format", "html,markdown,model-card", "--out", out)
    with pytest.warns(VlauditWarning, match="1 .heic"):
        assert vlaudit("scan", f"hf:{WEIGHTS / 'tiny-clean'}", "--data", folder, *flags) == 0
    assert "1 .heic (not read)" in " ".join(capsys.readouterr().out.split())
    (target,) = json.loads((out / "report.json").read_text())["targets"]
    assert "1 .heic (not read)" in target["data"]["notes"][0]
    written = [path for path in out.iterdir() if path.name.startswith("report.") and path.suffix != ".json"]
    assert len(written) == 3
    for path in written:
        assert ".heic" in path.read_text(), path.name
