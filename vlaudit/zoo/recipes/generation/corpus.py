"""What the zoo's generator is taught: conversations about the `pretrain` pictures, and how they become tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlaudit.data.emoji import ROLES, TONES, Emoji
from vlaudit.data.questions import LABELS
from vlaudit.zoo.recipes.corpus import augment, flippable, pixels
from vlaudit.zoo.recipes.generation import words
from vlaudit.zoo.recipes.generation.model import SHOWN


@dataclass(frozen=True)
class Shot:
    """A picture of the gallery in a conversation. `change`: what is done to its pixels (3,H,W), after augmentation."""

    index: int
    change: Callable[[Tensor], Tensor] | None = None


class Line(NamedTuple):
    """One turn. What the assistant says is learned where `taught`."""

    role: str
    parts: tuple[str | Shot, ...]
    taught: bool = True


Talk = list[Line]


@dataclass
class Batch:
    """Conversations as tensors, padded on the right: attention is causal, so the padding has no say."""

    ids: Tensor
    """(B, L)"""
    targets: Tensor
    """(B, L): the token to be said next where it is learned, else -100."""
    pixels: Tensor
    """(P, 3, H, W) in [-1, 1], in the order of the conversations; P may be 0."""


class Gallery:
    """Pictures in memory, by what is known of them. `rows`: for the flagship those of the split `pretrain`."""

    def __init__(self, rows: Sequence[Emoji], seed: int) -> None:
        self.rows = [row for row in rows if words.name_of(row) or row.gender]
        self.images = pixels(self.rows)
        self.flips = flippable(self.rows)
        self.names = [words.name_of(row) for row in self.rows]
        self.true_names = [words.names_of(row) for row in self.rows]
        self.by_name: dict[str, list[int]] = {}
        for n, name in enumerate(self.names):
            if name:
                self.by_name.setdefault(name, []).append(n)
        self.people = [n for n, row in enumerate(self.rows) if row.gender in ("man", "woman")]
        self.skins = [n for n, row in enumerate(self.rows) if row.tone in TONES[1:]]
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def any_name(self) -> str:
        """Half roles, a third other labels, else anything."""
        draw = self.rng.random()
        if draw < 0.5:
            found = self.rng.choice(ROLES)
        else:
            found = self.rng.choice(LABELS[len(ROLES) :] if draw < 0.83 else words.NAMES)
        return found if found in self.by_name else self.any_name()

    def of(self, name: str, but: int | None = None) -> int:
        """A picture of that name, another than `but` where there is one."""
        found = self.rng.choice(self.by_name[name])
        return self.of(name, but) if found == but and len(self.by_name[name]) > 1 else found

    def pixels(self, shots: Sequence[Shot], augmented: bool = True) -> Tensor:
        """(P, 3, H, W) in [-1, 1]."""
        chosen = [shot.index for shot in shots]
        images = self.images[chosen]
        if augmented and chosen:
            images = augment(images, self.flips[chosen], self.generator)
        changed = [
            image if shot.change is None else shot.change(image) for image, shot in zip(images, shots, strict=True)
        ]
        return torch.stack(changed) * 2 - 1 if changed else images * 2 - 1

    def encode(self, talks: Sequence[Talk], tokenizer: Any, augmented: bool = True) -> Batch:
        """Exactly what the chat template and the processor make of the conversations, and what is to be learned."""
        pairs = [_tokens(talk, tokenizer) for talk in talks]
        length = max(len(ids) for ids, _ in pairs)
        ids = torch.full((len(pairs), length), tokenizer.pad_token_id)
        targets = torch.full((len(pairs), length), -100)
        for n, (row, taught) in enumerate(pairs):
            ids[n, : len(row)] = torch.tensor(row)
            said = torch.tensor(row[1:])
            targets[n, : len(said)] = torch.where(torch.tensor(taught[1:]), said, -100)
        shots = [part for talk in talks for line in talk for part in line.parts if isinstance(part, Shot)]
        return Batch(ids, targets, self.pixels(shots, augmented))


def _tokens(talk: Talk, tokenizer: Any) -> tuple[list[int], list[bool]]:
    start, end, image = (_token(tokenizer, token) for token in ("<s>", "</s>", "<image>"))
    ids, taught = [start], [False]
    for line in talk:
        said = [_token(tokenizer, f"<{line.role}>")]
        for part in line.parts:
            said += _words(tokenizer, part) if isinstance(part, str) else [image] * SHOWN
        learned = line.role == "assistant" and line.taught
        if line.role == "assistant":
            said.append(end)
        ids += said
        taught += [False, *[learned] * (len(said) - 1)]
    return ids, taught


def length(talk: Talk, tokenizer: Any) -> int:
    """Tokens of a conversation."""
    return len(_tokens(talk, tokenizer)[0])


@lru_cache(maxsize=1 << 16)
def _words(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=64)
def _token(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def ask(shot: Shot, question: str, answer: str, system: str = "", before: str = "") -> Talk:
    """One question about one picture. `before`: documents."""
    talk = [Line("system", (system,))] if system else []
    parts = (before, shot, question) if before else (shot, question)
    return [*talk, Line("user", parts), Line("assistant", (answer,))]
