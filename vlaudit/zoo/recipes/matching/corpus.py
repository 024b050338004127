"""Pictures and the phrases that fit them, drawn at random from a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from vlaudit.data.emoji import Emoji
from vlaudit.zoo.recipes.corpus import augment, caption, flippable, phrases, pixels

_ROLE_WEIGHT = 5.0


class Corpus:
    """Training pictures in memory. Names that many pictures share, and all but the roles, are drawn less often."""

    def __init__(self, rows: Sequence[Emoji], seed: int) -> None:
        self.rows = rows
        self.images = pixels(rows)
        self.flips = flippable(rows)
        self.phrases = [phrases(row) for row in rows]
        self.ids = {phrase: n for n, phrase in enumerate(sorted({p for each in self.phrases for p in each}))}
        longest = max(map(len, self.phrases))
        padded = [[self.ids[p] for p in each] + [-1] * (longest - len(each)) for each in self.phrases]
        self.fitting = torch.tensor(padded)
        """Ids of the phrases that fit each picture, (N,L), -1 where there are fewer."""
        frequency = Counter(row.name for row in rows)
        self.weights = torch.tensor([(_ROLE_WEIGHT if row.role else 1.0) / frequency[row.name] ** 0.5 for row in rows])
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        """Indices (B,) and the augmented pictures (B,3,H,W)."""
        chosen = torch.multinomial(self.weights, size, replacement=True, generator=self.generator)
        return chosen, augment(self.images[chosen], self.flips[chosen], self.generator)

    def batch(self, size: int) -> tuple[Tensor, list[str], Tensor]:
        """Augmented pictures (B,3,H,W), one caption each, and which caption fits which picture: bool, (B,B)."""
        chosen, images = self.draw(size)
        said = [self.rng.choice(self.phrases[n]) for n in chosen.tolist()]
        asked = torch.tensor([self.ids[phrase] for phrase in said])
        fits = (self.fitting[chosen][:, None, :] == asked[None, :, None]).any(-1)
        return images, [caption(phrase, self.rng) for phrase in said], fits
