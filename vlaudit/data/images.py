"""Opening pictures that nobody has vouched for: every kind Pillow knows becomes 8-bit RGB, or one clear sentence.

Only raster formats are tried (no EPS, which would start Ghostscript), pictures above Pillow's ``MAX_IMAGE_PIXELS`` are
refused before they are decoded, and so are slivers, which a resize of the short side would blow up. HEIC is read where pillow-heif
is installed.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vlaudit.errors import UsageError, first_line
from vlaudit.files import Unreadable, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".avif",
})  # fmt: skip
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIF_CURE = "pip install pillow-heif reads it; or save it as JPEG."
MAX_ASPECT = 100  # a 1 x 10,000,000 sliver is small, its 224 x 2,240,000,000 resize is not
PICTURE_BYTES = 500_000_000  # a raw picture of all the pixels that Pillow allows
Colour = tuple[int, int, int]


class DataError(UsageError):
    """A picture, a metadata file or a data folder that cannot be used."""


class UnreadablePicture(DataError):
    """A picture that cannot be used. ``reason`` completes "it is ...", the same for all that fail in the same way."""

    def __init__(self, message: str, cure: str, reason: str) -> None:
        super().__init__(message, cure)
        self.reason = reason


@dataclass(frozen=True)
class StoredPicture:
    """The bytes of a picture file within another file. ``name`` tells it from all others of its data set; ``read`` may raise
    DataError."""

    name: str
    size: int  # bytes
    read: Callable[[], bytes] = field(compare=False)


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Whether HEIC pictures can be read: by pillow-heif, which then becomes a part of Pillow."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False)
    return True


def known_suffixes() -> frozenset[str]:
    """How the names of pictures end that can be read."""
    return SUFFIXES | HEIF_SUFFIXES if reads_heif() else SUFFIXES


def known_formats() -> list[str]:
    """The formats that can be read, as Pillow calls them; not every Pillow is built with all."""
    from PIL import features

    parts = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    return [name for name in FORMATS if name not in parts or features.check(parts[name])] + (["HEIF"] if reads_heif() else [])


def open_picture(path: Path) -> Image:
    """Read a picture file as 8-bit RGB, upright (EXIF), alpha on white, 16-bit scaled. Raises DataError."""
    if not os.path.lexists(path):
        raise DataError(f"The picture '{path}' does not exist.", "Restore it, or take its row out of the data.")
    try:
        content = read_bytes(path, PICTURE_BYTES)
    except Unreadable as error:
        raise DataError(f"The picture '{path}' {error}.", "Replace it, or take it out of the data.") from error
    return decode_picture(content, str(path))


def decode_picture(content: bytes, name: str) -> Image:
    """Decode the bytes of a picture file as 8-bit RGB; ``name`` is how errors call it."""
    from PIL import ImageOps

    with opened(io.BytesIO(content), name) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), name)


@contextmanager
def opened(file: BinaryIO, name: str) -> Iterator[Image]:
    """A picture of which only the header has been read. What goes wrong until the end of the block is an UnreadablePicture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken EXIF and the like, which the pixels survive
            with Image.open(file, formats=known_formats()) as image:
                _check_size(image.size, name)
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePicture(
            f"The picture '{name}' has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as decompression bombs do.",
            "Scale it down, or take it out of the data.",
            f"larger than {Image.MAX_IMAGE_PIXELS:,} pixels",
        ) from error
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        what, cure = _what_it_is(file.read(4096))
        raise UnreadablePicture(f"The file '{name}' is {what}.", cure, what) from error
    except DataError:
        raise
    except Exception as error:  # a hostile file can make a decoder raise anything
        raise UnreadablePicture(
            f"The picture '{name}' is damaged or cut off ({first_line(error)}).", "Replace it, or take it out of the data.",
            "damaged or cut off",
        ) from error  # fmt: skip


def _what_it_is(start: bytes) -> tuple[str, str]:
    """What a file is that is no picture to Pillow, by its first bytes, and what to do."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "empty", "It is often what a failed download leaves: replace it, or take it out of the data."
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return ("damaged HEIC", "Replace it.") if reads_heif() else ("a HEIC picture, which Pillow alone does not read", HEIF_CURE)
    if start[4:8] == b"ftyp" and start[8:11] == b"avi":
        return "an AVIF picture that this Pillow does not read", "Install a newer Pillow, or save it as PNG."
    if b"<svg" in text and text[:1] == b"<":
        return "an SVG drawing, which has no pixels", "Draw it as PNG at the size that it should be seen at."
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"{")):
        return "text of a server and no picture", "It is what a failed download leaves: download the picture again."
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of git LFS and not the picture", "Run git lfs pull."
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL picture, which is not read", "Save it as PNG."
    if start.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF of a kind that is not read, such as 16-bit colour", "Save it as PNG."
    return "not a picture in a known format", f"Use one of {', '.join(known_formats())}."


def picture_of(array: NDArray[np.uint8]) -> Image:
    """A picture held in memory, (H, W, 3) uint8 RGB."""
    from PIL import Image

    return Image.fromarray(array)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height <= 1:
        raise UnreadablePicture(
            f"The picture '{name}' is a single pixel: it shows nothing that could be audited.",
            "It is often what a failed download leaves: replace it, or take it out of the data.",
            "a single pixel",
        )
    if max(size) > MAX_ASPECT * min(size):
        raise UnreadablePicture(
            f"The picture '{name}' is {width} x {height} pixels, a sliver that no model can see whole.",
            f"Crop it to an aspect ratio below {MAX_ASPECT}, or take it out of the data.",
            "a sliver that no model can see whole",
        )


def _to_rgb(image: Image, name: str) -> Image:
    import numpy as np
    from PIL import Image as Pillow

    if image.mode.startswith("I"):  # 16 bits, also where Pillow holds them in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadablePicture(
                f"The picture '{name}' has values beyond 16 bits.", "Save it with 8 or 16 bits a channel.", "of more than 16 bits"
            )
        return Pillow.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnreadablePicture(
            f"The picture '{name}' has floating-point pixels.", "Save it with 8 or 16 bits a channel.", "of floating-point pixels"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Pillow.new("RGBA", layer.size, (255, 255, 255, 255))
        return Pillow.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def contact_sheet(
    pictures: Sequence[Image], frames: Sequence[Colour | None], columns: int = 10, size: int = 64
) -> NDArray[np.uint8]:
    """Pictures in reading order, each fitted into ``size`` pixels within a coloured frame: (H, W, 3) uint8."""
    import numpy as np
    from PIL import Image, ImageOps

    border, gap = 4, 4
    cell = size + 2 * border + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * cell + gap, rows * cell + gap), "white")
    for position, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
        row, column = divmod(position, columns)
        tile = ImageOps.expand(ImageOps.pad(picture, (size, size), color="white"), border, frame or (255, 255, 255))
        sheet.paste(tile, (gap + column * cell, gap + row * cell))
    return np.asarray(sheet)
