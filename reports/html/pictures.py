"""The evidence files of a report: checked, budgeted, and embedded as data URIs."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from markupsafe import Markup

from vlaudit.files import Unreadable, read_bytes
from vlaudit.records import Evidence, Finding, Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 1_000  # a page with more takes long to lay out
MAX_BYTES = 5_000_000  # of the whole page
MISFITS = 24  # pictures in a row that found no room: the page is full
LEAST_GAIN = 0.9  # of a file's bytes: what is written anew must be smaller than that
MAX_FILE = 64_000_000  # a larger file is not even read
MAX_READ = 2_000_000_000  # bytes read and pixels decoded for one page, so that no folder keeps a reader waiting for hours
LEAST_READ = 50_000  # what a file counts at least: opening and laying out take time too
MAX_SIDE = 768  # pixels; a larger picture is embedded smaller
SHOWN_WIDTH, MAX_ZOOM = 544, 4  # a small picture is enlarged by a whole factor, its pixels kept sharp
ROW_WIDTH = 760  # a row of small pictures is enlarged together, if by less than twice it wraps
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


Embeddable: TypeAlias = tuple[str, tuple[int, int]]  # a picture's data URI and its size in pixels


@dataclass(frozen=True)
class Picture:
    """One evidence picture: embedded (``uri``), or the reason why not (``refused``)."""

    caption: str
    path: str
    sensitive: bool = False
    uri: str = ""
    refused: str = ""
    width: int = 0  # as shown, in CSS pixels
    height: int = 0
    enlarged: bool = False


@dataclass(frozen=True)
class PictureRow:
    """Pictures to be seen side by side."""

    heading: str
    pictures: list[Picture]


_QUOTED = re.compile(r"“([^“”]{2,60})”|'([^']{2,60})'")


class RefusedError(Exception):
    """An evidence file that must not be shown; the message says why."""


@dataclass
class EvidenceFiles:
    """Reads the evidence of one page within ``MAX_READ``."""

    audit_dir: Path
    left: int = field(default_factory=lambda: MAX_READ)

    def spend(self, size: int) -> None:
        """Raises RefusedError where so many bytes, pixels or comparisons are not left."""
        if size > self.left:
            raise RefusedError("left out, because this page would take too long to make")
        self.left -= size

    def read(self, evidence: Evidence, limit: int = MAX_FILE) -> bytes:
        """The bytes of an evidence file. Raises RefusedError unless it lies in ``audit_dir/artifacts`` and is the file
        that was recorded, by its SHA-256."""
        self.spend(LEAST_READ)
        try:
            root = self.audit_dir.resolve()  # the folder itself may be reached by a link; nothing in it is
            path = root / evidence.path
            if path.resolve() != path or not path.is_relative_to(root / "artifacts"):
                raise RefusedError("its path leaves the audit folder")
            if not os.path.lexists(path):
                raise RefusedError("the file is missing")
            self.spend(min(path.stat().st_size, limit))
            content = read_bytes(path, limit, follow=False)
        except Unreadable as error:
            raise RefusedError(f"the file {error}") from error
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a path with a null byte
            raise RefusedError("the file cannot be read") from error
        if hashlib.sha256(content).hexdigest() != evidence.sha256:
            raise RefusedError("the file is not the one that was recorded (its SHA-256 differs)")
        return content


def heading_of(evidence: Evidence) -> tuple[str, str]:
    """The row that a piece of evidence belongs to, empty for none, and its own caption."""
    heading, bar, caption = evidence.caption.partition(" | ")
    return (heading, caption) if bar else ("", heading)


@dataclass
class Gallery:
    """Embeds the pictures of all findings within one budget: those of what is vulnerable first, then those of the others. Either is
    shared fairly: a row of every finding, the worst finding first, then a second row of every finding, and so on; in each finding the
    rows of the case that it names come first."""

    files: EvidenceFiles
    budget: int = MAX_BYTES  # characters of all pictures
    shrunk: dict[tuple[str, str], Embeddable] = field(default_factory=dict)  # by path and SHA-256; kept for a page made again
    embedded: int = 0
    size: int = 0
    left_out: int = 0
    misfits: int = 0

    def rows(self, findings: Iterable[Finding]) -> dict[str, list[PictureRow]]:
        """The rows of pictures by finding id."""
        shown: dict[str, list[PictureRow]] = {}
        for grave in (True, False):
            queues = {f.id: _named_first(f) for f in findings if (f.verdict is Verdict.VULNERABLE) is grave}
            shown |= {name: [] for name in queues}
            for turn in zip_longest(*queues.values()):
                for name, row in zip(queues, turn, strict=True):
                    if row is not None:
                        heading, files = row
                        shown[name].append(PictureRow(heading, _enlarged([self._embed(*file) for file in files])))
        return shown

    def _embed(self, evidence: Evidence, caption: str) -> Picture:
        if self.embedded >= MAX_PICTURES or self.size >= self.budget or self.misfits >= MISFITS:
            return self._left_out(evidence, caption)
        name = evidence.path, evidence.sha256
        try:
            uri, (width, height) = self.shrunk[name] = self.shrunk.get(name) or self._embeddable(evidence)
        except RefusedError as refusal:
            return Picture(caption, evidence.path, refused=str(refusal))
        if self.size + len(uri) > self.budget:
            self.misfits += 1
            return self._left_out(evidence, caption)
        self.misfits = 0
        self.embedded += 1
        self.size += len(uri)
        return Picture(
            caption=caption,
            path=evidence.path,
            sensitive=evidence.sensitive,
            uri=uri,
            width=width,
            height=height,
        )

    def _left_out(self, evidence: Evidence, caption: str) -> Picture:
        self.left_out += 1
        return Picture(caption, evidence.path, refused="left out to keep this file small (--max-size)")

    def _embeddable(self, evidence: Evidence) -> Embeddable:
        media_type, content, size = self._browser_ready(self.files.read(evidence))
        return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}"), size  # nothing in it to escape

    def _browser_ready(self, content: bytes) -> tuple[str, bytes, tuple[int, int]]:
        """Media type, bytes and size of a picture: made smaller where it is large, else as it is, in the smallest form without loss. Raises RefusedError for anything that
        is not a plain PNG, JPEG or WebP, and for picture bombs."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(content), formats=list(MEDIA_TYPES)) as image:
                if image.width * image.height > (Image.MAX_IMAGE_PIXELS or MAX_FILE):
                    raise RefusedError("the picture has too many pixels")
                if max(image.size) <= MAX_SIDE:
                    self.files.spend(image.width * image.height)
                    return *_smallest(image, content), image.size
                self.files.spend(image.width * image.height)
                smaller = image.convert("RGB")
                smaller.thumbnail((MAX_SIDE, MAX_SIDE))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            raise RefusedError("the file is not a picture that can be shown") from error
        buffer = io.BytesIO()
        smaller.save(buffer, format="WEBP", quality=85)
        return "image/webp", buffer.getvalue(), smaller.size


def _smallest(image: Image, content: bytes) -> tuple[str, bytes]:
    """Media type and bytes of a picture: its own file, or a WebP, the same to the bit, where that is smaller (it has palettes too, and is
    smaller than a PNG with one)."""
    if image.format == "PNG" and getattr(image, "n_frames", 1) == 1:
        again = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if image.has_transparency_data else "RGB")
        webp = io.BytesIO()
        again.save(webp, format="WEBP", lossless=True, exact=True, method=1)  # 2 % larger than the slowest, in a third of its time
        if webp.tell() < LEAST_GAIN * len(content):
            return "image/webp", webp.getvalue()
    return MEDIA_TYPES[str(image.format)], content


def _named_first(finding: Finding) -> list[tuple[str, list[tuple[Evidence, str]]]]:
    """The rows of a finding's pictures, before all others those of what its reason puts in quotation marks."""
    named = [word for pair in _QUOTED.findall(f"{finding.headline} {finding.reason}") for word in pair if word]

    def place(row: tuple[str, list[tuple[Evidence, str]]]) -> int:
        told = " ".join([row[0], *(caption for _, caption in row[1])])
        return next((n for n, word in enumerate(named) if word in told), len(named))

    return sorted(_in_rows(finding.evidence), key=place)


def _enlarged(pictures: list[Picture]) -> list[Picture]:
    """The pictures of a row at the size at which they are shown."""
    own = [max(1, min(MAX_ZOOM, SHOWN_WIDTH // max(picture.width, 1))) for picture in pictures]
    small = sum(picture.width for picture, zoom in zip(pictures, own, strict=True) if zoom > 1)
    fits = max(2, ROW_WIDTH // max(small, 1))
    zooms = [min(zoom, fits) for zoom in own]
    return [
        replace(picture, width=zoom * picture.width, height=zoom * picture.height, enlarged=zoom > 1)
        for picture, zoom in zip(pictures, zooms, strict=True)
    ]


def _in_rows(evidence: Iterable[Evidence]) -> Iterator[tuple[str, list[tuple[Evidence, str]]]]:
    """Pictures grouped by the part of their caption before ``" | "``; those without one form a row of their own."""
    grouped: dict[str, list[tuple[Evidence, str]]] = {}
    for item in evidence:
        if item.kind == "image":
            heading, caption = heading_of(item)
            grouped.setdefault(heading, []).append((item, caption))
    yield from grouped.items()
