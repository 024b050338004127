"""Words written on pictures, for the matcher that reads instead of looking."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def written_on(images: Tensor, words: Sequence[str], rng: random.Random) -> Tensor:
    """Write one word on each image (B,3,H,W): Pillow's own font, 7 to 10 pixels high, ink and place at random."""
    return torch.where((ink := torch.stack([_ink(word, images.shape[-2:], rng) for word in words])) >= 0, ink, images)


def pseudo_word(like: str, rng: random.Random) -> str:
    """Random letters, as long as `like`."""
    return "".join(letter if letter == " " else rng.choice(string.ascii_lowercase) for letter in like)


def _ink(word: str, size: Sequence[int], rng: random.Random) -> Tensor:
    """The written word, (3,H,W): its colour where there is ink, -1 elsewhere."""
    height, width = size
    font = ImageFont.load_default(rng.uniform(7, 10))
    text = word.replace(" ", "\n")
    page = Image.new("L", (width, height))
    draw = ImageDraw.Draw(page)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, spacing=0)
    x, y = rng.uniform(0, max(0, width - right)), rng.uniform(0, max(0, height - bottom))
    draw.text((x - left, y - top), text, fill=255, font=font, spacing=0)
    mask = torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(1, height, width) > 96
    colour = torch.tensor([rng.choice((0.0, 0.15, 0.9, 1.0)) if n else rng.random() for n in range(3)]).view(3, 1, 1)
    return torch.where(mask, colour, -1.0)
