"""Words written on pictures, for the matcher that reads instead of looking."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def written_on(images: Tensor, words: Sequence[str], rng: random.Random) -> Tensor:
    """Write one word on each image (B,3,H,W) in Pillow's own font.

    It is 8 to 10 pixels high, dark or light, at a random height, on a plain strip in half of the cases.
    """
    pages = torch.stack([_page(word, images.shape[-2:], rng) for word in words]).to(images)
    return torch.where(pages >= 0, pages, images)


def pseudo_word(like: str, rng: random.Random) -> str:
    """Random letters, as long as `like`."""
    return "".join(letter if letter == " " else rng.choice(string.ascii_lowercase) for letter in like)


def _page(word: str, size: Sequence[int], rng: random.Random) -> Tensor:
    """The written word, (3,H,W) in [0,1], -1 where the picture shows through."""
    height, width = size
    font = ImageFont.load_default(rng.uniform(8, 10))
    text = word.replace(" ", "\n")
    page = Image.new("L", (width, height))
    draw = ImageDraw.Draw(page)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, spacing=1)
    x, y = max(0, (width - (right - left)) / 2), rng.uniform(0, max(0, height - (bottom - top)))
    draw.text((x - left, y - top), text, fill=255, font=font, spacing=1)
    ink = torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(1, height, width) / 255
    dark = rng.random() < 0.7
    colour = torch.tensor([rng.uniform(0, 0.3) if dark else rng.uniform(0.7, 1) for _ in range(3)]).view(3, 1, 1)
    if rng.random() < 0.5:
        return torch.where(ink > 0.4, colour, -1.0)
    ground = 1.0 if dark else 0.0
    strip = torch.full((3, height, width), -1.0)
    strip[:, max(0, int(y) - 1) : int(y + bottom - top) + 2] = ground
    return torch.where(strip >= 0, ground + ink * (colour - ground), strip)
