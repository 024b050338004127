"""What the zoo's models are taught: the bundled pictures as tensors, the phrases that fit them, captions, mild augmentation."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from vlaudit.data.emoji import Emoji, kind_of, load_pictures
from vlaudit.prompts.template import PLAIN

TEMPLATES = (
    "{}", "a {}", "the {}", PLAIN, "a photo of the {}", "a photo: {}", "a picture of a {}", "a picture of the {}",
    "an image of a {}", "an emoji of a {}", "a small icon of a {}", "a drawing of a {}", "this is a {}",
    "here is the {}",
)  # fmt: skip
_FLIPPABLE = ("People & Body", "Animals & Nature", "Food & Drink", "Smileys & Emotion")
_LOOK_ALIKES = dict(zip("aceiopsxy", "асеіорѕху", strict=True))


def pixels(rows: Sequence[Emoji]) -> Tensor:
    """The pictures of `rows`: float32, (N, 3, 32, 32), in [0, 1]."""
    return torch.from_numpy(load_pictures(rows)).permute(0, 3, 1, 2).float().div(255).contiguous()


def phrases(row: Emoji) -> tuple[str, ...]:
    """Everything this picture may be called, the most usual first."""
    names = [row.role] if row.role else []
    names.append(row.name)
    if row.tone not in ("", "default"):
        names.extend([f"{name} with {row.tone} skin" for name in tuple(names)])
    if kind_of(row):
        names.append(kind_of(row))
    return tuple(dict.fromkeys(names))


def caption(phrase: str, rng: random.Random) -> str:
    """One of the templates around a phrase."""
    return rng.choice(TEMPLATES).format(phrase)


def mistype(text: str, rng: random.Random) -> str:
    """One error: a letter dropped, doubled, replaced, swapped with the next, added, or exchanged for a look-alike."""
    place = rng.randrange(len(text))
    head, letter, tail = text[:place], text[place], text[place + 1 :]
    other = rng.choice(string.ascii_lowercase)
    return rng.choice(
        (
            head + tail,
            head + letter + letter + tail,
            head + other + tail,
            head + tail[:1] + letter + tail[1:],
            head + letter + other + tail,
            head + _LOOK_ALIKES.get(letter, letter.upper()) + tail,
        )
    )


def flippable(rows: Sequence[Emoji]) -> Tensor:
    """Which pictures keep their meaning when mirrored: bool, (N,). Signs, flags and hands with a direction do not."""
    directed = {"left", "right", "leftwards", "rightwards"}
    return torch.tensor([row.category in _FLIPPABLE and not directed & set(row.name.split()) for row in rows])


def augment(images: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Vary images (B,3,H,W) in [0,1].

    Each is shifted by up to 2 pixels, scaled by 0.85 to 1.1 and mirrored where `flips` allows it; the white ground and
    all colours change, and a rectangle may be hidden.
    """
    images = 1 - warped_ink(images, flips, generator, 0.85, 0.25)
    count = len(images)
    ground = (images.amin(1, keepdim=True) > 0.96) & (torch.rand(count, 1, 1, 1, generator=generator) < 0.4)
    images = torch.where(ground, torch.rand(count, 3, 1, 1, generator=generator).expand_as(images), images)
    gain = 1 + 0.2 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    offset = 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    return _hide(images * gain + offset, generator).clamp(0, 1)


def warped_ink(images: Tensor, flips: Tensor, generator: torch.Generator, least: float, spread: float) -> Tensor:
    """Inverted images (B,3,H,W), so that what enters at the rim is white: shifted by up to 2 pixels, scaled by `least` to
    `least + spread`, and mirrored where `flips` allows it."""
    count = len(images)
    uniform = torch.rand(count, 4, generator=generator)
    zoom = 1 / (least + spread * uniform[:, 0])
    mirror = torch.where(flips & (uniform[:, 1] < 0.5), -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    theta[:, :, 2] = (uniform[:, 2:] - 0.5) * 0.25
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(1 - images, grid, align_corners=False)


def _hide(images: Tensor, generator: torch.Generator) -> Tensor:
    """A noisy or plain rectangle of 3 to 9 pixels over 3 pictures in 10: no small patch alone decides a class."""
    count, _, height, width = images.shape
    uniform = torch.rand(count, 6, 1, 1, generator=generator)
    size = 3 + 6 * uniform[:, :2]
    top, left = uniform[:, 2:3] * (height - size[:, :1]), uniform[:, 3:4] * (width - size[:, 1:])
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + size[:, :1]) & (columns >= left) & (columns < left + size[:, 1:])
    colour = torch.rand(count, 3, 1, 1, generator=generator)
    noise = torch.rand(images.shape, generator=generator)
    fill = torch.where(uniform[:, 4:5] < 0.5, noise, colour)
    return torch.where(inside & (uniform[:, 5:] < 0.3), fill, images)
