"""Pictures of every kind become 8-bit RGB, or one clear sentence."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlaudit.data.images import DataError, contact_sheet, open_picture


def save(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_plain_picture_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = open_picture(save(tmp_path, "a.png", Image.fromarray(pixels)))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
    ],
)
def test_grey_and_alpha(tmp_path: Path, mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    image = open_picture(save(tmp_path, "a.png", Image.new(mode, (4, 4), colour)))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == expected


def test_palette_with_transparency_is_composited_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    assert open_picture(save(tmp_path, "a.png", image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk(tmp_path: Path) -> None:
    red, green, blue = open_picture(save(tmp_path, "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))).getpixel(
        (4, 4)
    )
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257 * 10, 257 * 128, 65535]] * 2, dtype=np.uint16)
    image = open_picture(save(tmp_path, f"a.{suffix}", Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 10, 128, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    assert open_picture(save(tmp_path, "a.jpg", image, exif=exif)).size == (4, 8)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])  # where Pillow only warns, and where it refuses by itself
def test_bomb_is_refused_before_decoding(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(DataError, match=r"bomb\.png.*pixels, as decompression bombs do"):
        open_picture(path)


@pytest.mark.parametrize(("size", "match"), [((1, 1), "single pixel"), ((1, 300), "sliver"), ((5000, 2), "sliver")])
def test_nothing_to_see(tmp_path: Path, size: tuple[int, int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_picture(save(tmp_path, "a.png", Image.new("RGB", size)))


def test_truncated(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff"):
        path = save(tmp_path, name, Image.fromarray(noise))
        path.write_bytes(path.read_bytes()[:600])
        with pytest.raises(DataError, match=name):
            open_picture(path)


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a picture|is empty|no picture") as caught:
        open_picture(path)
    assert caught.value.cure
    assert caught.value.exit_code == 2


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_picture(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match="not a regular file"):
        open_picture(tmp_path / "x.png")


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.ppm"):
        path = save(tmp_path, name, Image.fromarray(noise))
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(0, min(len(content), 400), 6):
                content[place] = rng.integers(0, 256)
            path.write_bytes(content)
            with contextlib.suppress(DataError):
                assert open_picture(path).mode == "RGB"


def test_contact_sheet_frames_each_picture() -> None:
    pictures = [Image.new("RGB", (10, 20), "black") for _ in range(12)]
    sheet = contact_sheet(pictures, [(255, 0, 0)] * 6 + [None] * 6, columns=5, size=32)
    assert sheet.shape == (3 * 44 + 4, 5 * 44 + 4, 3)
    assert sheet[5, 5].tolist() == [255, 0, 0]
    assert (sheet == [255, 0, 0]).all(axis=-1).sum() == 6 * (40 * 40 - 32 * 32)
