"""Whether a target of any family reads a picture of a label rightly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from vlaudit.answers import yes_no
from vlaudit.data.articles import mend_articles
from vlaudit.data.example import Example
from vlaudit.probe import Context
from vlaudit.records import Cost, Family

_TOKENS = 8  # most of an answer


def reads(peer: Context, examples: Sequence[Example], names: Sequence[str]) -> list[bool]:
    """For each picture whether it is read rightly where the text of ``names`` stands for its label's name.

    A matcher must name that text among the other labels. A generator must say yes to whether the picture shows it, and must not
    to the next label. A pipeline must draw of it what the scorer calls the label; a blocked picture shows nothing.
    """
    family = peer.target.family
    of = {Family.GENERATION: _asked, Family.TEXT_TO_IMAGE: _drawn}.get(family, _matched)
    return [right for rows in peer.batches(list(zip(examples, names, strict=True))) for right in of(peer, rows)]


def cost(peer: Context, count: int, texts: int) -> Cost:
    """Of ``count`` pictures that are read, of which matchers embed ``texts`` texts."""
    target = peer.target
    if target.family is Family.GENERATION:
        asked: Cost = target.cost(2 * count, _TOKENS)
        return asked
    if target.family is Family.TEXT_TO_IMAGE:
        return Cost(queries=count * target.model.steps * (2 if target.model.guided else 1), decoded=count)
    embedded = target.texts(texts)
    seen: Cost = target.whole(Cost(queries=count), len(peer.labels))
    return seen + Cost(queries=embedded, texts=embedded)


def _asked(peer: Context, rows: Sequence[tuple[Example, str]]) -> list[bool]:
    after = {label: peer.labels[(i + 1) % len(peer.labels)] for i, label in enumerate(peer.labels)}
    questions = [mend_articles(f"Is this a {name}?") for example, text in rows for name in (text, after[str(example.label)])]
    pictures = [picture for picture in peer.pictures([example for example, _ in rows]) for _ in range(2)]
    said = [yes_no(answer) for answer in peer.target.generate(pictures, questions, max_new_tokens=_TOKENS)]
    return [mine is True and other is not True for mine, other in zip(said[::2], said[1::2], strict=True)]


def _drawn(peer: Context, rows: Sequence[tuple[Example, str]]) -> list[bool]:
    import torch

    with torch.no_grad():
        seeds = [peer.seeds(1, example.id)[0] for example, _ in rows]
        drawn = peer.target.generate([mend_articles(f"a photo of a {text}") for _, text in rows], seeds)
        said = peer.scorer.name(drawn.images, peer.labels)
    return [
        not blocked and peer.labels[k] == example.label
        for blocked, k, (example, _) in zip(drawn.blocked, said, rows, strict=True)
    ]  # fmt: skip


def _matched(peer: Context, rows: Sequence[tuple[Example, str]]) -> list[bool]:
    """Pictures that are asked about with the same texts pass together."""
    import torch

    target: Any = peer.target
    together: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, (example, text) in enumerate(rows):
        together[tuple(text if name == example.label else name for name in peer.labels)].append(place)
    right = [False] * len(rows)
    with torch.no_grad(), peer.remembering():
        for labels, places in together.items():
            named = target.asked(list(labels))(target.seen(peer.images([rows[i][0] for i in places]))).argmax(dim=1).tolist()
            for i, k in zip(places, named, strict=True):
                right[i] = labels[k] == rows[i][1]
    return right
