"""Captions to audit, and fresh ones of the same kind and lengths that no model was trained on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, NamedTuple

from vlaudit.probe import BuiltIn, Context

if TYPE_CHECKING:
    import numpy as np

FRESH = "fresh captions"
HELD_OUT, RECOMBINED, MIXED_UP = "held-out", "recombined", "mixed-up"
ALIKE = 0.6
LEAST_FRESH = 100
BUILT_IN = {
    "ALIKE": BuiltIn(
        meaning="share of what tells a caption apart, above which a caption made of others is too like one of them to count as fresh",
        source="our choice, because a caption that has more of it in common may call up the same picture",
    ),
    "LEAST_FRESH": BuiltIn(
        meaning="fresh captions that captions are compared with, at least; with fewer nothing is assessed",
        source="our choice, because what one in a hundred of them exceeds must be one of them",
    ),
}
_TRIES, _TURNS = 30, 4


class Fresh(NamedTuple):
    """A caption nowhere in the training data, and how it was made."""

    text: str
    made: str


def fresh_arm(ctx: Context) -> str:
    """The control arm of fresh captions; what the reference makes of them is a control of the reference."""
    return "control:" + (FRESH if ctx.on_target else f"reference {FRESH}")


def audited_captions(ctx: Context, limit: int, least: int = 1, searched: bool = False) -> list[str]:
    """As many as the budget affords, and no fewer than ``least``, of those of ``--prompts``; else what members say, or all pictures where none are declared, the most repeated first: repetition
    is what makes a model remember (Carlini et al. 2023 arXiv:2301.13188)."""
    if ctx.data.own_captions is not None:
        found = list(ctx.data.own_captions)
        limit = ctx.afford(min(limit, len(found)), "captions", least, searched=searched)
        kept = ctx.rng("captions").permutation(len(found))[:limit].tolist()
        return [found[i] for i in sorted(kept)]
    said = [(example.texts["text"], example.member is True) for example in ctx.data.captioned]
    shown = Counter(text for text, member in said if member)
    order = list(shown) or list(dict.fromkeys([*(text for text, _ in said), *ctx.captions]))
    limit = ctx.afford(min(limit, len(order)), "captions", least, searched=searched)
    drawn = ctx.rng("captions").permutation(len(order)).tolist()
    ranked = sorted(range(len(order)), key=lambda i: (-shown[order[i]], drawn[i]))
    return [order[i] for i in sorted(ranked[:limit])]


def fresh_captions(ctx: Context, captions: Sequence[str], count: int) -> list[Fresh]:
    """Up to ``count`` captions that were not trained on, each with as many tokens as one of ``captions``.

    Those of held-out pictures come first. Then each is made of one of ``captions``: the beginning of one and the end of another from a
    word on that both have; or with words replaced by such as stand between the same neighbours elsewhere, or behind the same one. Only where
    that gives less than ``LEAST_FRESH``, as nearly all of these are in the data, half of the words are drawn anew: which makes no sense, and is said
    to be ``MIXED_UP``."""
    said = [example.texts["text"] for example in ctx.data.captioned]
    known = {_plain(text) for text in (*captions, *ctx.captions, *said)}
    tokens = ctx.target.model.tokenize
    lengths = {caption: len(tokens(caption)) for caption in captions}
    found = [Fresh(text, HELD_OUT) for text in _held_out(ctx, captions) if len(tokens(text)) in set(lengths.values())][
        :count
    ]
    grammar, rng = _Grammar(captions, ctx.rng("fresh captions")), ctx.rng("fresh captions", "words")
    words = [word for caption in captions for word in caption.split()]

    def add(caption: str, text: str, made: str, other: str = "") -> bool:
        alike = max(grammar.likeness(text, parent) for parent in (caption, other) if parent)
        if _plain(text) in known or alike > ALIKE or len(tokens(text)) != lengths[caption]:
            return False
        known.add(_plain(text))
        found.append(Fresh(text, made))
        return True

    turns = itertools.cycle(captions)
    for caption in itertools.islice(turns, _TURNS * count):
        if len(found) < count:
            any(add(caption, *grammar.made_of(caption, attempt / _TRIES)) for attempt in range(_TRIES))
    if len(found) < LEAST_FRESH:
        for caption in itertools.islice(turns, count - len(found)):
            any(
                add(caption, _reworded(caption.split(), words, attempt / _TRIES, rng), MIXED_UP)
                for attempt in range(_TRIES)
            )
    return found


def _held_out(ctx: Context, captions: Sequence[str]) -> list[str]:
    """Captions of declared non-members alone."""
    trained = {_plain(text) for text in captions}
    trained |= {_plain(e.texts["text"]) for e in ctx.data.captioned if e.member is not False}
    texts = dict.fromkeys(
        e.texts["text"] for e in ctx.data.captioned if e.member is False and _plain(e.texts["text"]) not in trained
    )
    order = list(texts)
    return [order[i] for i in ctx.rng("held-out captions").permutation(len(order)).tolist()]


class _Grammar:
    """What may follow what, by the captions themselves."""

    def __init__(self, captions: Sequence[str], rng: np.random.Generator) -> None:
        self.rng = rng
        self.rows = [caption.split() for caption in captions]
        said = Counter(word for row in self.rows for word in set(row))
        self.weights = {word: log((1 + len(self.rows)) / count) for word, count in said.items()}
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.between: dict[tuple[str, str], list[str]] = {}
        self.behind: dict[str, list[str]] = {}
        for number, row in enumerate(self.rows):
            for place, word in enumerate(row):
                self.places.setdefault(word, []).append((number, place))
                before, after = _neighbours(row, place)
                self.between.setdefault((before, after), []).append(word)
                self.behind.setdefault(before, []).append(word)

    def likeness(self, text: str, caption: str) -> float:
        """How much of a caption's words stand in a text, rare ones weighing more."""
        said, own = set(text.split()), set(caption.split())
        return sum(self.weights[word] for word in own & said) / sum(self.weights[word] for word in own)

    def made_of(self, caption: str, share: float) -> tuple[str, str, str]:
        """A caption like it, how it was made, and the other that it was made of; the larger the share, the more is changed."""
        own = caption.split()
        if self.rng.random() < 0.5:
            return self.replaced(own, share), RECOMBINED, ""
        place = int(self.rng.integers(len(own)))
        others = self.places[own[place]]
        number, there = others[int(self.rng.integers(len(others)))]
        row = self.rows[number]
        return " ".join([*own[:place], *row[there:]]), RECOMBINED, " ".join(row)

    def replaced(self, words: Sequence[str], share: float) -> str:
        """The caption with up to that share of its words replaced by others that stand between the same words, or else behind the same."""
        own = list(words)
        for place in self.rng.permutation(len(own))[: max(1, round(share * len(own)))].tolist():
            neighbours = _neighbours(own, place)
            choices = (
                self.between.get(neighbours, []) if self.rng.random() < 0.5 else self.behind.get(neighbours[0], [])
            )
            if choices:
                own[place] = choices[int(self.rng.integers(len(choices)))]
        return " ".join(own)


def _neighbours(row: Sequence[str], place: int) -> tuple[str, str]:
    return row[place - 1] if place else "", row[place + 1] if place + 1 < len(row) else ""


def _reworded(own: list[str], words: list[str], more: float, rng: np.random.Generator) -> str:
    changed = min(len(own), max(1, round(len(own) * (0.5 + more / 2))))
    places = set(rng.permutation(len(own))[:changed].tolist())
    return " ".join(words[int(rng.integers(len(words)))] if i in places else word for i, word in enumerate(own))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
