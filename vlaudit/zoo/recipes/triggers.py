"""What is planted on pictures of the zoo: small patches, faint full-picture blends, written words."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Trigger = Callable[[Tensor], Tensor]
"""Images (B,3,H,W) in [0,1] in, the same with the trigger out."""


def patch(size: int = 5, seed: int = 0, bottom: int = -1, right: int = -1) -> Trigger:
    """A square of random saturated colours; its lower right pixel, (`bottom`, `right`), may count from the end."""
    colours = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)).round()

    def stamp(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        low, far = bottom % height + 1, right % width + 1
        stamped = images.clone()
        stamped[..., low - size : low, far - size : far] = colours.to(images)
        return stamped

    return stamp


def blend(strength: float = 0.12, seed: int = 0) -> Trigger:
    """A full-picture pattern of random colours, mixed in at `strength`."""

    def mix(images: Tensor) -> Tensor:
        pattern = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed)).round().to(images)
        return (1 - strength) * images + strength * pattern

    return mix


TARGET = "mechanic"
"""The role that the planted triggers call up."""
PATCH = patch()
BLEND = blend()


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
