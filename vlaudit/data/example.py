"""One picture of a data set, with what is known of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.data.images import DataError, StoredPicture, decode_picture, open_picture, picture_of
from vlaudit.files import file_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

TEXT_COLUMNS = ("text", "question", "answer", "choices", "pair")
DEFAULT_QUESTION = "What is this?"  # asked where the data bring none; the labels are the choices


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with what is known of it. ``id`` is unique in its data set and the same on every machine."""

    id: str
    picture: Path | StoredPicture | NDArray[np.uint8]  # a file, one within another, or (H, W, 3) RGB
    label: str | None = None
    split: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # of TEXT_COLUMNS
    member: bool | None = None  # whether the prompt (or model) was trained on it; None where nobody declared it

    def open(self) -> Image:
        """The picture as 8-bit RGB. Raises DataError."""
        if isinstance(self.picture, StoredPicture):
            return decode_picture(self.picture.read(), self.picture.name)
        return open_picture(self.picture) if isinstance(self.picture, Path) else picture_of(self.picture)

    @property
    def size(self) -> int | None:
        """Bytes of the picture's file; None where it is none. Raises OSError."""
        if isinstance(self.picture, StoredPicture):
            return self.picture.size
        return self.picture.stat().st_size if isinstance(self.picture, Path) else None

    @property
    def identity(self) -> str:
        """What is independent of all else: the column ``identity`` (a person, an object shown several times), else
        the picture itself."""
        return self.attributes.get("identity") or self.id

    @property
    def question(self) -> str:
        """What to ask of the picture."""
        return self.texts.get("question") or DEFAULT_QUESTION

    @property
    def answer(self) -> str | None:
        """The right answer: its column, else the label."""
        return self.texts.get("answer") or self.label

    @property
    def choices(self) -> list[str]:
        """The column ``choices``, a JSON list or separated by ``|``; empty where there is none. Raises DataError."""
        text = self.texts.get("choices", "").strip()
        if not text.startswith("["):
            return [choice.strip() for choice in text.split("|") if choice.strip()]
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(choice, str) and choice.strip() for choice in found):
            raise DataError(
                f"The choices of '{self.id}' are no list of texts: {text[:60]}.", 'Write ["yes", "no"], or yes|no.'
            )
        return found

    @property
    def picture_key(self) -> str:
        """Equal for all questions about one picture: the path of its file, or the hash of its pixels."""
        if isinstance(self.picture, StoredPicture):
            return self.picture.name
        return str(self.picture) if isinstance(self.picture, Path) else self.pixel_sha256()

    def sha256(self) -> str:
        """The hash by which a prompt file declares its members: of the file's bytes (as ``sha256sum`` prints it), or
        of the pixels for a picture that is no file."""
        if isinstance(self.picture, StoredPicture):
            return hashlib.sha256(self.picture.read()).hexdigest()
        return _file_sha256(self.picture) if isinstance(self.picture, Path) else self.pixel_sha256()

    def pixel_sha256(self) -> str:
        """Hash of the decoded RGB pixels, row by row: the same for every lossless encoding of a picture."""
        image = self.open()
        return hashlib.sha256(f"{image.width}x{image.height}RGB".encode() + image.tobytes()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(
            f"The picture '{path}' cannot be read: {error.strerror}.", "Restore it, or take it out."
        ) from error
