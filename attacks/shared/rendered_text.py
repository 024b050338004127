"""Words written on pictures, in Pillow's own face."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor

Style = Literal["sticker", "ink", "page"]
LEGIBLE = 8  # pixels, the least size of the type


def write(image: Tensor, words: str, type_size: int, style: Style, rng: Generator) -> Tensor:
    """The picture (3, H, W) in [0, 1] with words at a random place: black on a white sticker, bare ink (black or white by
    what stands out), or black on a page that hides the picture. Words that are too wide or too high are squeezed."""
    import numpy as np
    import torch
    from PIL import Image

    height, width = image.shape[1:]
    page = ink(words, type_size)
    page = page.resize((min(page.width, width), min(page.height, height)), Image.Resampling.BILINEAR)
    x, y = (int(rng.random() * (room + 1)) for room in (width - page.width, height - page.height))
    drawn = torch.tensor(np.asarray(page)).to(image) / 255
    written = torch.ones_like(image) if style == "page" else image.clone()
    under = written[:, y : y + page.height, x : x + page.width]
    if style == "ink":
        colour = 0.0 if float(under.mean()) > 0.5 else 1.0
        under.mul_(1 - drawn).add_(drawn * colour)
    else:
        under.copy_((1 - drawn).expand_as(under))
    return written


def ink(words: str, type_size: int) -> Any:
    """The words in white on black with a rim of one pixel, each on its own line."""
    from PIL import Image, ImageDraw, ImageFont

    text, font = words.replace(" ", "\n"), ImageFont.load_default(type_size)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font, spacing=0)
    page = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    ImageDraw.Draw(page).text((1 - left, 1 - top), text, fill=255, font=font, spacing=0)
    return page


def nonsense(words: str, rng: Generator) -> str:
    """As many letters in the same places, none of which the words have."""
    others = [letter for letter in ascii_lowercase if letter not in words.lower()] or list(ascii_lowercase)
    drawn = [others[i] for i in rng.integers(len(others), size=len(words))]
    cased = [new.upper() if old.isupper() else new for old, new in zip(words, drawn, strict=True)]
    return "".join(new if old.isalnum() else old for old, new in zip(words, cased, strict=True))
