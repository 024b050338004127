"""Opening pictures that nobody has vouched for: every kind Pillow knows becomes 8-bit RGB, or one clear sentence.

Only raster formats are tried (no EPS, which would start Ghostscript), pictures above Pillow's ``MAX_IMAGE_PIXELS`` are
refused before they are decoded, and so are slivers, which a resize of the short side would blow up.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError, first_line
from vlaudit.files import Unreadable, read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".webp", ".bmp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
})  # fmt: skip
MAX_ASPECT = 100  # a 1 x 10,000,000 sliver is small, its 224 x 2,240,000,000 resize is not
PICTURE_BYTES = 500_000_000  # a raw picture of all the pixels that Pillow allows
Colour = tuple[int, int, int]


class DataError(UsageError):
    """A picture, a metadata file or a data folder that cannot be used."""


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
    from PIL import Image, ImageOps, features

    known = [name for name in FORMATS if name != "AVIF" or features.check("avif")]  # which not every Pillow is built with
    bomb = DataError(
        f"The picture '{name}' has more than {Image.MAX_IMAGE_PIXELS:,} pixels, as decompression bombs do.",
        "Scale it down, or take it out of the data.",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken EXIF and the like, which the pixels survive
            with Image.open(io.BytesIO(content), formats=known) as image:
                _check_size(image.size, name)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image), name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bomb from error
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"The file '{name}' is not a picture in a known format.", f"Use one of {', '.join(known)}."
        ) from error
    except DataError:
        raise
    except Exception as error:  # a hostile file can make a decoder raise anything
        raise DataError(
            f"The picture '{name}' is damaged or cut off ({first_line(error)}).", "Replace it, or take it out of the data."
        ) from error


def picture_of(array: NDArray[np.uint8]) -> Image:
    """A picture held in memory, (H, W, 3) uint8 RGB."""
    from PIL import Image

    return Image.fromarray(array)


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height <= 1:
        raise DataError(
            f"The picture '{name}' is a single pixel: it shows nothing that could be audited.",
            "It is often what a failed download leaves: replace it, or take it out of the data.",
        )
    if max(size) > MAX_ASPECT * min(size):
        raise DataError(
            f"The picture '{name}' is {width} x {height} pixels, a sliver that no model can see whole.",
            f"Crop it to an aspect ratio below {MAX_ASPECT}, or take it out of the data.",
        )


def _to_rgb(image: Image, name: str) -> Image:
    import numpy as np
    from PIL import Image as Pillow

    if image.mode.startswith("I"):  # 16 bits, also where Pillow holds them in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"The picture '{name}' has values beyond 16 bits.", "Save it with 8 or 16 bits a channel.")
        return Pillow.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"The picture '{name}' has floating-point pixels.", "Save it with 8 or 16 bits a channel.")
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
