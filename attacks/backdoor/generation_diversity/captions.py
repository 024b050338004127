"""Captions that nobody chose, what may stand beside a caption, and what a text calls for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.homoglyphs import SCRIPTS
from vlaudit.probe import Context

if TYPE_CHECKING:
    import numpy as np

FEW = 20  # labels from which on clean captions are made of them alone
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
    return own if len(own) >= FEW else [*own, *EVERYDAY]


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


def lengthened(ctx: Context, text: str, tokens: int, pool: Sequence[str], rng: np.random.Generator) -> str:
    """A text with others of the pool behind it, until it is nearly as long as asked for."""
    for i in rng.permutation(len(pool)).tolist():
        if len(ctx.target.model.tokenize(text)) >= _SHORT * tokens:
            break
        text = f"{text} and {pool[i]}"
    return text
