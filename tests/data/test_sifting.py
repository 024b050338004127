"""Pictures as people have them: what can be read is, what cannot is left out and counted by reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from vlaudit.data import images
from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.data.images import DataError, open_picture

RAMP = Image.fromarray(
    np.stack([np.tile(np.linspace(0, 255, 48), (32, 1)), np.tile(np.linspace(0, 255, 32)[:, None], (1, 48)), np.full((32, 48), 60)], -1).astype("uint8")
)


def load(folder: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(folder)


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    (tmp_path / "cat").mkdir()
    RAMP.save(tmp_path / "cat" / "0.png")
    return tmp_path / "cat"


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def cut(kind: str, keep: float = 0.7) -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, kind)
    return buffer.getvalue()[: int(len(buffer.getvalue()) * keep)]


@pytest.mark.parametrize("content, reason", [
    (b"", "1 empty"),
    (b"<!DOCTYPE html><html>404</html>", "1 text of a server and no picture"),
    (b'{"error": "not found"}', "1 text of a server and no picture"),
    (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "1 an SVG drawing, which has no pixels"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "1 a pointer of git LFS"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    (b"%PDF-1.7", "1 not a picture in a known format"),
    (struct.pack("<2sHIH", b"II", 42, 8, 5) + b"".join(struct.pack("<HHII", *tag) for tag in (
        (256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 16), (262, 3, 1, 2), (277, 3, 1, 3))) + bytes(64), "1 a TIFF of a kind that is not read"),
    (bomb(), "1 larger than 89,478,485 pixels"),
    *((cut(kind), "1 damaged or cut off") for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")),
])  # fmt: skip
def test_what_cannot_be_read_is_left_out_with_its_reason(cat: Path, content: bytes, reason: str) -> None:
    (cat / "1.jpg").write_bytes(content)
    data = load(cat.parent)
    assert [example.id for example in data.examples] == ["cat/0.png"]
    (said,) = data.notes
    assert said.startswith("1 picture in ") and reason in said and "such as 'cat/1.jpg'" in said


def test_reasons_are_counted_and_a_label_without_pictures_is_an_error(cat: Path) -> None:
    for number in range(3):
        (cat / f"empty{number}.jpg").touch()
    (cat / "page.jpg").write_bytes(b"<html></html>")
    data = load(cat.parent)
    (said,) = data.notes
    assert data.unread == {"cat": 4} and data.unread_share == 4 / 5
    assert said.startswith("4 pictures in ") and "left out: 3 empty (such as 'cat/empty0.jpg'), 1 text of a server" in said
    (cat.parent / "dog").mkdir()
    for number in range(8):
        RAMP.save(cat.parent / "dog" / f"whole{number}.png")
    assert load(cat.parent).unread_share == 4 / 5  # of the label that lost most, where all lost 4 of 13
    (cat.parent / "dog" / "a.psd").touch()
    assert load(cat.parent).unread == {"cat": 4, "dog": 1}  # of a kind that is not opened
    for file in (cat.parent / "dog").iterdir():
        file.unlink()
    for number in range(2):
        (cat.parent / "dog" / f"{number}.jpg").touch()
    with pytest.raises(DataError, match=r"None of the 2 pictures with the label 'dog'.*is empty"):
        load(cat.parent)


def test_whole_pictures_of_every_kind_are_kept_with_their_pixels(cat: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    saved: dict[str, dict[str, object]] = {
        "a.jpg": {}, "b.bmp": {}, "c.dib": {}, "d.tif": {}, "e.ppm": {}, "f.jfif": {"format": "JPEG"}, "png.jpg": {"format": "PNG"},
        "turned.jpg": {"exif": exif},
    }  # fmt: skip
    saved |= {"g.avif": {}} if features.check("avif") else {}
    saved |= {"h.jp2": {}} if features.check("jpg_2000") else {}
    for name, options in saved.items():
        (RAMP.rotate(90, expand=True) if name == "turned.jpg" else RAMP).save(cat / name, **options)
    RAMP.convert("CMYK").save(cat / "inverted.jpg")
    Image.fromarray(np.asarray(RAMP)[..., 0].astype("uint16") * 257).save(cat / "deep.tif")
    data = load(cat.parent)
    assert len(data) == len(saved) + 3 and not data.notes
    for example in data.examples:
        pixels = np.asarray(example.open()).astype(int)
        wanted = np.asarray(RAMP) if "deep" not in example.id else np.asarray(RAMP)[..., :1].repeat(3, -1)
        assert pixels.shape == wanted.shape and abs(pixels - wanted).mean() < 4, example.id


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng", "a.tif"])
def test_of_animated_pictures_the_first_frame_is_seen_and_that_is_said(cat: Path, name: str) -> None:
    RAMP.save(cat / name, save_all=True, append_images=[RAMP.rotate(180)], **({"format": "PNG"} if "png" in name else {}))
    data = load(cat.parent)
    assert data.notes == (f"1 picture has several frames or pages, and the first alone is seen: 'cat/{name}'.",)
    shown = next(example for example in data.examples if example.id.endswith(name))
    assert abs(np.asarray(shown.open()).astype(int) - np.asarray(RAMP)).mean() < 8


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "named.jpg"])
def test_pictures_of_phones_are_read_where_the_plugin_is(cat: Path, name: str) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(RAMP).save(cat / "a.heic", quality=95)
    (cat / "a.heic").rename(cat / name)
    data = load(cat.parent)
    assert len(data) == 2 and not data.notes
    assert abs(np.asarray(data.examples[-1].open()).astype(int) - np.asarray(RAMP)).mean() < 6
    (cat / name).write_bytes((cat / name).read_bytes()[:-200])
    assert "1 damaged" in load(cat.parent).notes[0]


def test_without_the_plugin_its_name_is_said(cat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without: Callable[[], bool] = lambda: False  # noqa: E731
    monkeypatch.setattr(images, "reads_heif", without)
    (cat / "1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (said,) = load(cat.parent).notes
    assert "1 .heic (not read); such as 'cat/1.heic'" in said and "pip install pillow-heif" in said
    with pytest.raises(DataError, match=r"HEIC.*pip install pillow-heif"):
        open_picture(cat / "1.heic")


