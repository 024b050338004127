"""Condition pictures (survey section 5.2, complex control): what a prompt shows beside the text, and what its size must be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.data.images import open_picture
from vlaudit.errors import UsageError
from vlaudit.files import fingerprint, folder_files, user_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel


class ConditionPicture:
    """A picture file that is read as it is: it says where things are, and a resized one says something else."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.picture: Image = open_picture(path)
        self._pixels: Tensor | None = None

    def check(self, model: TextToImageModel) -> None:
        """Raise UsageError where it is not as large as what the model draws."""
        if self.picture.size != (model.resolution, model.resolution):
            width, height = self.picture.size
            raise UsageError(
                f"The {self.what} '{self.path}' is {width} by {height} pixels, but '{model.spec}' draws {model.resolution} by "
                f"{model.resolution}.",
                "Save it at that size.",
            )

    def pixels(self, model: TextToImageModel) -> Tensor:
        """(1, 3, H, W) in [0, 1], or (1, 1, H, W) of a grey one, on the model's device: the same tensor every time."""
        from torchvision.transforms.functional import to_tensor

        if self._pixels is None or self._pixels.device != model.device:
            self._pixels = to_tensor(self.picture)[None].to(model.device)
        return self._pixels


def named_file(options: dict[str, str], key: str, method: str, what: str) -> Path:
    """The path that an option gives. Raises UsageError where it is lacking."""
    if not options.get(key):
        raise UsageError(f"The prompt '{method}' needs {what}.", f"Write {method}:{key}=…,….")
    return user_path(options[key])


def share(options: dict[str, str], key: str, default: float, least: float, most: float) -> float:
    """A number that an option gives, in (least, most]. Raises UsageError."""
    try:
        value = float(options.get(key, default))
    except ValueError:
        value = least
    if not least < value <= most:
        raise UsageError(f"'{key}={options[key]}' is no number above {least:g} and up to {most:g}.", f"Write for example {key}={default:g}.")
    return value


def fingerprint_of(*parts: Path) -> str:
    """One fingerprint of a prompt's files and folders, wherever they lie."""
    prints = [fingerprint(folder_files(part) if part.is_dir() else [part]) for part in parts]
    return hashlib.sha256(" ".join(prints).encode()).hexdigest()
