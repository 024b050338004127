"""Search for a few characters behind a caption that move what the text encoder reads furthest from the caption.

Source: query-free attacks on Stable Diffusion, Zhuang et al. 2023 (arXiv:2303.16378): only the text encoder is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING

from vlaudit.probe import Context

if TYPE_CHECKING:
    from numpy.random import Generator

LENGTH = 5
# No vowels: five characters cannot spell a word, which would rightly change what is drawn.
ALPHABET = "".join(c for c in ascii_lowercase if c not in "aeiouy") + digits + "!\"#$%&'()*+,-./:;<=>?@[\\]^_`|~"
Similarity = Callable[[Sequence[str]], list[float]]


def similarity(ctx: Context, caption: str, seed: int) -> Similarity:
    """What the searches minimise: the cosine between the caption and the caption with each suffix, as read."""
    import torch

    def read(texts: Sequence[str]) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([ctx.target.text_features(part, seeds=[seed] * len(part)) for part in ctx.batches(texts)])

    own = read([caption])[0]
    return lambda suffixes: (read([f"{caption} {suffix}" for suffix in suffixes]) @ own).clamp(max=1).tolist()


class Search:
    """Remembers the best suffix of full length among all that were asked, and how many were."""

    def __init__(self, score: Similarity) -> None:
        self._score = score
        self.best, self.value, self.queries = "", float("inf"), 0

    def ask(self, suffixes: Sequence[str]) -> list[float]:
        values = self._score(suffixes)
        self.queries += len(suffixes)
        for suffix, value in zip(suffixes, values, strict=True):
            if len(suffix) == LENGTH and value < self.value:
                self.best, self.value = suffix, value
        return values

    def greedy(self, sweeps: int) -> None:
        """The best character of the table in one place after the other, then again in each place, ``sweeps`` times."""
        suffix = ""
        for _ in range(LENGTH):
            options = [suffix + character for character in ALPHABET]
            values = self.ask(options)
            suffix = options[values.index(min(values))]
        for _ in range(sweeps):
            for place in range(LENGTH):
                self.ask([self.best[:place] + character + self.best[place + 1 :] for character in ALPHABET])

    def random(self, count: int, rng: Generator) -> None:
        """Suffixes drawn at random: what as many tries find without a search."""
        self.ask(["".join(ALPHABET[i] for i in row) for row in rng.integers(len(ALPHABET), size=(count, LENGTH))])

    def genetic(self, rng: Generator, generations: int, population: int) -> None:
        """Parents by tournaments of two, uniform crossover, a character in five replaced; the best so far lives on."""
        self.random(population - 1, rng)
        pool = [self.best] * population
        values = [self.value] * population
        for _ in range(generations):
            children = [self.best]
            while len(children) < population:
                first, second = (self._parent(pool, values, rng) for _ in range(2))
                crossed = [a if rng.random() < 0.5 else b for a, b in zip(first, second, strict=True)]
                fresh = [ALPHABET[int(rng.integers(len(ALPHABET)))] if rng.random() < 0.2 else c for c in crossed]
                children.append("".join(fresh))
            pool, values = children, self.ask(children)

    @staticmethod
    def _parent(pool: Sequence[str], values: Sequence[float], rng: Generator) -> str:
        first, second = (int(i) for i in rng.integers(len(pool), size=2))
        return pool[first] if values[first] <= values[second] else pool[second]


def planted(score: Similarity, secret: str, step: float = 0.2) -> Similarity:
    """The same reading, but each character of the secret suffix in its place moves it by another ``step``."""

    def moved(suffixes: Sequence[str]) -> list[float]:
        hits = [sum(a == b for a, b in zip(suffix, secret, strict=False)) for suffix in suffixes]
        return [value - step * hit for value, hit in zip(score(suffixes), hits, strict=True)]

    return moved
