"""The artefact store: pictures, texts and plot data that findings show, under ``artifacts/`` of an audit folder."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlaudit.errors import UsageError
from vlaudit.files import file_sha256, make_folder, write_atomically
from vlaudit.records import Evidence
from vlaudit.secrets import redact

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PILImage
    from torch import Tensor

GAP = 2  # pixels between the pictures of a grid


def place_for(audit_dir: Path, name: str) -> Path:
    """Where evidence of an audit folder is written, ``name`` being ``artifacts/AB/ABCD.png``; its folder is made. Raises UsageError for a link
    in place of a folder, which could lead anywhere."""
    path = audit_dir / name
    for folder in (path.parents[1], path.parent):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"'{folder}' is not a folder of the audit's own.", "Choose another --out.")
        make_folder(folder)
    return path


class ArtifactStore:
    """Content-addressed files under ``artifacts/`` of an audit folder."""

    def __init__(self, audit_dir: Path) -> None:
        self.folder = audit_dir

    def put(self, content: bytes, suffix: str, kind: Literal["image", "text", "plot-data"], caption: str,
            sensitive: bool = False) -> Evidence:  # fmt: skip
        """Store bytes once under their SHA-256 and return the evidence record. Raises UsageError."""
        digest = hashlib.sha256(content).hexdigest()
        relative = f"artifacts/{digest[:2]}/{digest}.{suffix}"
        path = place_for(self.folder, relative)
        if path.is_symlink() or not path.is_file() or file_sha256(path) != digest:
            write_atomically(path, content)
        return Evidence(kind=kind, path=relative, sha256=digest, caption=caption, sensitive=sensitive)

    def put_image(self, image: np.ndarray | Tensor, caption: str, *, sensitive: bool = False) -> Evidence:
        """A picture, (H, W, 3 or 4) uint8 or (3, H, W) float in [0, 1], as PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(as_uint8(image)).save(buffer, format="PNG", optimize=True)
        return self.put(buffer.getvalue(), "png", "image", caption, sensitive)

    def put_grid(self, images: Tensor, columns: int, caption: str, *, sensitive: bool = False) -> Evidence:
        """Pictures (B, 3, H, W) in [0, 1] as one PNG, ``columns`` in a row, with clear gaps; large ones made smaller."""
        import numpy as np

        return self.put_image(np.asarray(tiled(images, columns)), caption, sensitive=sensitive)

    def put_text(self, text: str, caption: str, *, sensitive: bool = False) -> Evidence:
        """What was asked or written. Texts whose captions agree before ``" | "`` stand in one row of the report, and the
        words in which they differ from the first are marked."""
        return self.put(redact(text).encode("utf-8", "replace"), "txt", "text", caption, sensitive)

    def put_json(self, value: Any, caption: str) -> Evidence:
        """Plot data or a table."""
        content = redact(json.dumps(value, sort_keys=True, allow_nan=False)).encode()
        return self.put(content, "json", "plot-data", caption)


def heading(text: str) -> str:
    """A text as the heading (before ``" | "``) under which a report sets pieces of evidence side by side."""
    return text.replace(" | ", " / ")


def tiled(images: Tensor, columns: int) -> PILImage:
    """Pictures (B, 3, H, W) in [0, 1] as one RGBA picture of at most ``columns`` in a row, transparent between them. Its
    sides stay below 768 pixels, but no tile gets smaller than 16."""
    from PIL import Image

    tiles = [Image.fromarray(as_uint8(image)) for image in images]
    width = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // width)
    most = max(16, 768 // max(width, rows) - GAP)
    if max(tiles[0].size) > most:
        scale = most / max(tiles[0].size)
        size = (max(1, round(tiles[0].width * scale)), max(1, round(tiles[0].height * scale)))
        tiles = [tile.resize(size, Image.Resampling.LANCZOS) for tile in tiles]
    w, h = tiles[0].width + GAP, tiles[0].height + GAP
    sheet = Image.new("RGBA", (width * w - GAP, rows * h - GAP), (0, 0, 0, 0))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % width * w, place // width * h))
    return sheet


def as_uint8(image: np.ndarray | Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1], or (H, W, 3 or 4) uint8, to uint8 with the channels last."""
    import numpy as np

    if isinstance(image, np.ndarray):
        return image
    array = image.detach().clamp(0, 1).mul(255).round().cpu().numpy().astype(np.uint8)
    return np.ascontiguousarray(array.transpose(1, 2, 0))
