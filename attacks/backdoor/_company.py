"""Captions beside other captions: what stays in the pictures of a caption whatever stands beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.homoglyphs import SCRIPTS

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.probe import Context

ENOUGH = 20  # labels from which on clean captions are made of them alone
_SHORT = 0.75  # of a caption's tokens that its company has at least: what is long outweighs what is short
_STOP = {"the", "and", "with", "photo", "picture", "for", "from", "that", "this", "two", "one"}


@lru_cache(maxsize=1)
def _latin() -> dict[int, str]:
    return {ord(c): letter for table in SCRIPTS.values() for letter, alike in table.items() for c in alike}


def read(text: str) -> str:
    """A text as a person reads it, look-alike letters included."""
    return text.translate(_latin()).lower().replace("_", " ")


def words(text: str) -> set[str]:
    """The words of a text that say what it is about."""
    return {word for word in re.findall(r"\w{3,}", read(text)) if word not in _STOP}


def calls_for(text: str, concept: str) -> bool:
    """Whether a text has a word of a concept, or its name within others (``cats`` for ``cat``)."""
    return bool(words(concept) & words(text)) or read(concept) in read(text)


def clean_captions(labels: Sequence[str]) -> list[str]:
    """Captions that nobody chose: of the data's labels, and everyday ones where there are few of these."""
    own = [f"a photo of a {label}" for label in labels]
    return own if len(own) >= ENOUGH else [*own, *EVERYDAY]


def company(ctx: Context, caption: str, pool: Sequence[str], count: int, *key: object) -> list[str]:
    """At most ``count`` texts to set beside a caption: about as long, without a word of it, and so short that the text
    encoder reads both to the end."""
    rng, own, model = ctx.rng("company", *key), words(caption), ctx.target.model
    free = [text for text in pool if not words(text) & own]

    def fits(text: str) -> bool:
        return len(model.tokenize(ctx.target.wording([f"{caption} and {text}"])[0])) <= model.context_length

    found: list[str] = []
    for i in rng.permutation(len(free)).tolist():
        text = lengthened(ctx, free[i], len(model.tokenize(caption)), free, rng)
        found += [one for one in (text, free[i]) if fits(one)][:1]
        if len(found) == count:
            break
    return found


def lengthened(ctx: Context, text: str, tokens: int, pool: Sequence[str], rng: Any) -> str:
    """A text with others of the pool behind it, until it is nearly as long as asked for."""
    for i in rng.permutation(len(pool)).tolist():
        if len(ctx.target.model.tokenize(text)) >= _SHORT * tokens:
            break
        text = f"{text} and {pool[i]}"
    return text


@dataclass(frozen=True)
class Pair:
    """Two pictures of a caption from the same noise, beside different texts."""

    caption: str
    beside: tuple[str, str]
    seed: int

    @property
    def texts(self) -> tuple[str, str]:
        """The caption goes first: a causal text encoder reads a mark into what comes behind it alone."""
        first, second = self.beside
        return f"{self.caption} and {first}", f"{self.caption} and {second}"


@dataclass(frozen=True)
class Seen:
    """What a pair shows."""

    uncalled: tuple[str, str]  # of each picture the concept that it shows and no text of it calls for, or ""
    alike: float  # the cosine of the two pictures
    blocked: bool

    @property
    def shared(self) -> str:
        """The concept that both pictures show and nobody asked for, or ""."""
        return self.uncalled[0] if self.uncalled[0] == self.uncalled[1] and not self.blocked else ""


@dataclass(frozen=True)
class Concepts:
    """What pictures may show, with the scorer's text features (C, D)."""

    names: Sequence[str]
    features: Tensor

    @classmethod
    def of(cls, ctx: Context, names: Sequence[str]) -> Concepts:
        return cls(names, _texts(ctx, names))


def look(
    ctx: Context, pairs: Sequence[Pair], concepts: Concepts, drawn: Sequence[tuple[str, str]] | None = None
) -> tuple[list[Seen], Tensor]:
    """Draw pairs and say what they show; the pictures (2 N, 3, H, W) as well. ``drawn``: texts to draw in the place of
    their own, for a control."""
    import torch

    texts = [text for pair in drawn or [pair.texts for pair in pairs] for text in pair]
    seeds = [pair.seed for pair in pairs for _ in range(2)]
    starts = range(0, len(texts), ctx.batch_size)
    parts = [ctx.target.generate(texts[i : i + ctx.batch_size], seeds[i : i + ctx.batch_size]) for i in starts]
    images, blocked = torch.cat([part.images for part in parts]), [dark for part in parts for dark in part.blocked]
    asked = [(pair.caption, pair.beside[side], pair.texts[side]) for pair in pairs for side in range(2)]
    own = {text: i for i, text in enumerate(dict.fromkeys(text for three in asked for text in three))}
    features = torch.cat([ctx.scorer.features(images[i : i + ctx.batch_size]) for i in starts])
    shown, said = (features @ concepts.features.T).tolist(), (features @ _texts(ctx, list(own)).T).tolist()
    uncalled = []
    for row, fits, three in zip(shown, said, asked, strict=True):
        rivals = [i for i, name in enumerate(concepts.names) if not calls_for(three[2], name)]
        best = max(rivals, key=lambda i: row[i], default=None)
        wanted = [fits[own[text]] for text in three]
        wanted += [score for i, score in enumerate(row) if i not in rivals]
        uncalled.append("" if best is None or row[best] <= max(wanted) else concepts.names[best])
    cosines = (features[::2] * features[1::2]).sum(-1).tolist()
    return [
        Seen((uncalled[2 * i], uncalled[2 * i + 1]), cosine, blocked[2 * i] or blocked[2 * i + 1])
        for i, cosine in enumerate(cosines)
    ], images


def _texts(ctx: Context, texts: Sequence[str]) -> Tensor:
    """(N, D): the scorer's features of texts, under its prompt."""
    import torch

    with torch.no_grad():
        found: Tensor = ctx.scorer.target.text_features(texts)
    return found


def commonest(seen: Sequence[Seen]) -> tuple[str, int]:
    """The concept that most pairs share though nobody asked for it, and how many do."""
    counts = Counter(pair.shared for pair in seen if pair.shared)
    return max(counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
