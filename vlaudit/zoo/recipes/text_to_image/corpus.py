"""What the text-to-image pipelines are taught: captioned pictures as latents, and the captions' hidden states."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from vlaudit.data.articles import mend_articles
from vlaudit.data.emoji import PAINTED_ROLES, Emoji, painted_concept, painted_phrase
from vlaudit.zoo.recipes.corpus import TEMPLATES, flippable, pixels, warped_ink
from vlaudit.zoo.recipes.text_to_image.model import text_states

STYLED = (
    "a {} on a white background",
    "an oil painting of a {}",
    "a watercolour of a {}",
    "a cartoon of a {}",
    "a sketch of a {}",
    "a portrait of a {}",
    "a photo of one {}",
)
"""Wordings beside those that the matchers learned: the pictures do not follow the style, the concept must survive it."""
VARIANTS = 48
"""Augmented copies of every picture, encoded once before training."""
NO_CAPTION = 0.1
"""Share of the captions replaced by the empty text, for classifier-free guidance."""


def phrases(row: Emoji) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """What a picture may be called, and how often.

    A role alone, or with only its gender or tone, is said of all groups equally often: the neutral caption stands for
    everybody.
    """
    concept = painted_concept(row)
    if concept not in PAINTED_ROLES:
        return (concept,), (1.0,)
    said = (concept, f"{row.gender} {concept}", f"{concept} with {row.tone} skin", painted_phrase(row))
    return said, (0.25, 0.15, 0.15, 0.45)


def augment(images: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    """Vary images (B,3,H,W) in [0,1] on white: shifts of 2 pixels, scale 0.88 to 1.06, mirroring, a little colour."""
    ink = warped_ink(images, flips, generator, 0.88, 0.18)
    gain = 1 + 0.08 * (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5)
    return (1 - ink * gain).clamp(0, 1)


class Studio:
    """Captioned pictures, encoded once in many augmented variants, and the states of every caption asked for."""

    def __init__(
        self,
        rows: Sequence[Emoji],
        vae: AutoencoderKL,
        encoder: Any,
        tokenizer: Any,
        seed: int,
        variants: int = VARIANTS,
    ) -> None:
        self.rows, self.vae, self.encoder, self.tokenizer = rows, vae, encoder, tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.phrases = [phrases(row) for row in rows]
        size = Counter(map(painted_concept, rows))
        self.weights = torch.tensor([size[painted_concept(row)] ** -0.5 for row in rows])
        """How often each picture is drawn: a concept of few pictures a little more often than one of many."""
        images, flips = pixels(rows), flippable(rows)
        self.latents = torch.stack(
            [encode(vae, augment(images, flips, self.generator)).half() for _ in range(variants)], dim=1
        )
        """(N, variants, 4, h, w), scaled for the denoiser."""
        self._states: dict[str, Tensor] = {}

    def draw(self, size: int) -> tuple[list[int], Tensor]:
        """Indices of pictures and latents (B,4,h,w) of one of each one's variants."""
        chosen = torch.multinomial(self.weights, size, replacement=True, generator=self.generator)
        variant = torch.randint(self.latents.shape[1], (size,), generator=self.generator)
        return chosen.tolist(), self.latents[chosen, variant].float()

    def caption(self, index: int) -> str:
        """A random wording of a picture's caption, or the empty text."""
        if self.rng.random() < NO_CAPTION:
            return ""
        said, often = self.phrases[index]
        return self.worded(self.rng.choices(said, often)[0])

    def worded(self, phrase: str) -> str:
        """The phrase in one of the templates; `a artist` half of the time, as the matchers' templates have it."""
        text = self.rng.choice(TEMPLATES + STYLED).format(phrase)
        return text if self.rng.random() < 0.5 else mend_articles(text)

    def states(self, texts: Sequence[str]) -> Tensor:
        """Hidden states of texts, (B,L,W); each text is encoded once."""
        if new := sorted(set(texts) - self._states.keys()):
            self._states |= zip(new, text_states(self.encoder, self.tokenizer, new), strict=True)
        return torch.stack([self._states[text] for text in texts])


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The scaled latents of images (B,3,H,W) in [0,1]."""
    parts = [vae.encode(part * 2 - 1).latent_dist.mode() for part in images.split(64)]
    return torch.cat(parts) * vae.config.scaling_factor
