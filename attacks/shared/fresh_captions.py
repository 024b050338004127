"""Captions to audit, and fresh ones of the same words and lengths that no model was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.probe import Context

if TYPE_CHECKING:
    import numpy as np

FRESH = "fresh captions"
_TRIES = 40


def fresh_arm(ctx: Context) -> str:
    """The control arm of fresh captions; what the reference makes of them is a control of the reference."""
    return "control:" + (FRESH if ctx.on_target else f"reference {FRESH}")


def audited_captions(ctx: Context, limit: int) -> list[str]:
    """Those of ``--prompts``; else what the pictures say, members' captions first and among them the most repeated:
    repetition is what makes a model remember (Carlini et al. 2023 arXiv:2301.13188)."""
    if ctx.data.own_captions is not None:
        found = list(ctx.data.own_captions)
        kept = ctx.rng("captions").permutation(len(found))[:limit].tolist()
        return [found[i] for i in sorted(kept)]
    said = [(example.texts["text"], example.member is True) for example in ctx.data.captioned]
    shown = Counter(text for text, member in said if member)
    order = list(dict.fromkeys([*(text for text, _ in said), *ctx.captions]))
    drawn = ctx.rng("captions").permutation(len(order)).tolist()
    ranked = sorted(range(len(order)), key=lambda i: (-shown[order[i]], drawn[i]))
    return [order[i] for i in sorted(ranked[:limit])]


def fresh_captions(ctx: Context, captions: Sequence[str], count: int) -> list[str]:
    """Up to ``count`` captions that occur nowhere in the data: each is one of ``captions`` with half of its words (or
    more, if need be) drawn anew from the words of all, and as many tokens as before."""
    known = {_plain(text) for text in (*captions, *ctx.captions)}
    known |= {_plain(example.texts["text"]) for example in ctx.data.captioned}
    words = [word for caption in captions for word in caption.split()]
    rng, tokens = ctx.rng("fresh captions"), ctx.target.model.tokenize
    lengths = {caption: len(tokens(caption)) for caption in captions}
    found: list[str] = []
    for turn in range(count):
        caption = captions[turn % len(captions)]
        for attempt in range(_TRIES):
            fresh = _reworded(caption.split(), words, attempt / _TRIES, rng)
            if _plain(fresh) not in known and len(tokens(fresh)) == lengths[caption]:
                known.add(_plain(fresh))
                found.append(fresh)
                break
    return found


def _reworded(own: list[str], words: list[str], more: float, rng: np.random.Generator) -> str:
    changed = min(len(own), max(1, round(len(own) * (0.5 + more / 2))))
    places = set(rng.permutation(len(own))[:changed].tolist())
    return " ".join(words[int(rng.integers(len(words)))] if i in places else word for i, word in enumerate(own))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
