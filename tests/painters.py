"""Constructed text-to-image targets of known truth: how they read a text is given, and the picture is what they read.

A painter reads a caption as a unit vector; the picture of (caption, seed) is that vector, seen through seeded noise, as
pixels. The viewer, which stands for the scorer, compares a picture with how the captions are read rightly.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlaudit.data.dataset import Dataset
from vlaudit.families.base import Meter
from vlaudit.families.text_to_image import Conditioning, Generated
from vlaudit.policy import Policy
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Judgement, Trials

SIDE, WIDTH = 4, 48
COLOURS = ("crimson", "violet", "golden", "silver", "copper")
NOUNS = ("tractor", "penguin", "bottle", "castle", "dragon", "kettle", "lantern", "mountain", "piano", "rocket")
CAPTIONS = tuple(f"{colour} {noun} outside" for noun, colour in itertools.product(NOUNS, COLOURS))
Reader = Callable[[str], np.ndarray]


@functools.cache
def vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).normal(size=WIDTH)
    drawn.flags.writeable = False
    return drawn


def by_words(text: str) -> np.ndarray:
    """Each word has its own vector: a word with one letter changed is another word."""
    return np.sum([vector(word) for word in text.split()] or [vector("")], axis=0)


class Model:
    steps, guided, spec, context_length = 1, False, "painter", 1000

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(self.tokenize(text)) for text in texts]


class Painter:
    """A target that draws what ``read`` makes of a caption; ``blocks`` says which captions its checker blacks out."""

    def __init__(self, read: Reader, noise: float = 0.3, blocks: Callable[[str], bool] = lambda text: False) -> None:
        self.read, self.noise, self.blocks = read, noise, blocks
        self.meter, self.model, self.device = Meter(), Model(), torch.device("cpu")
        self.drawn = 0
        self.capabilities = frozenset({Needs.GENERATED_PICTURES})

    def features(self, captions: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.tensor(np.stack([self.read(c) for c in captions])), dim=1).float()

    def wording(self, captions: Sequence[str], seeds: Any = None) -> list[str]:
        return list(captions)

    def text_features(self, captions: Sequence[str], embeddings: Any = None, seeds: Any = None) -> Tensor:
        self.meter.queries += len(captions)
        return self.features(captions)

    def encode(self, captions: Sequence[str], seeds: Any = None) -> Conditioning:
        return Conditioning({"prompt_embeds": self.features(captions)[:, None]})

    def generate(self, captions: Sequence[str], seeds: Sequence[int]) -> Generated:
        self.drawn += len(captions)
        grain = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        pixels = 0.5 + 0.4 * (self.features(captions) + self.noise * grain / WIDTH**0.5)
        dark = [self.blocks(caption) for caption in captions]
        pixels[torch.tensor(dark)] = 0.0
        return Generated(pixels.clamp(0, 1).view(-1, 3, SIDE, SIDE), dark)


class Viewer:
    def __init__(self, read: Reader) -> None:
        self.read = read

    def scores(self, images: Tensor, labels: Sequence[str]) -> Tensor:
        texts = Painter(self.read).features(labels)
        return torch.nn.functional.normalize(images.flatten(1) - 0.5, dim=1) @ texts.T


def context(probe: Probe, painter: Painter, folder: Path, *, view: Reader, captions: Sequence[str] = CAPTIONS,
            arm: str = TARGET, seed: int = 0, **options: Any) -> Context:  # fmt: skip
    viewer: Any = Viewer(view)
    data, target = Dataset("constructed", [], own_captions=tuple(captions)), painter
    return Context(probe=probe.info.id, arm=arm, data=data, labels=[], artifacts=ArtifactStore(folder), seed=seed,
                   _target=target, _scorer=lambda: viewer, **options)  # type: ignore[arg-type]  # fmt: skip


def audit(probe: Probe, painter: Painter, folder: Path, *, reference: Painter | None = None, view: Reader | None = None,
          **options: Any) -> Judgement:  # fmt: skip
    """Attempt all cases on the painter (and on a reference), and judge."""
    trials = []
    for arm, target in ((TARGET, painter), (REFERENCE, reference)):
        if target is not None:
            ctx = context(probe, target, folder, view=view or painter.read, arm=arm, **options)
            ctx.start_clock()
            trials += list(probe.attempt(ctx, probe.cases(ctx)))
    return probe.judge(Trials(trials), Policy())
