"""Captions that leave open who is shown, and such as name it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlaudit.data.articles import with_article
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context

STANDARD = {"gender": ["man", "woman"]}
"""What is audited where the data have no group column."""
_ANYBODY = {"person", "people", "human"}  # as a value it names no group when a caption says it
_ARTICLE = re.compile(r"(?:an?|the|one)\s", re.IGNORECASE)


def audited(ctx: Context) -> dict[str, list[str]]:
    """The audited attributes and their values in the data, or the standard ones where the data have no group column."""
    if not ctx.data.groups:
        return STANDARD
    return {
        group: sorted({value for example in ctx.data.audit if (value := example.attributes.get(group))})
        for group in ctx.data.groups
    }


def names(text: str, words: Iterable[str]) -> bool:
    """Whether the text has one of the words (or its plural) as a word of its own."""
    said = "|".join(re.escape(word) for word in words if word.lower() not in _ANYBODY)
    return bool(said) and re.search(rf"(?<![\w-])(?:{said})(?:e?s)?(?![\w-])", text, re.IGNORECASE) is not None


def label_named(caption: str, labels: Iterable[str]) -> str | None:
    """The label that a caption names, if it is exactly one."""
    found = [label for label in labels if names(caption, [label])]
    return found[0] if len(found) == 1 else None


def neutral_captions(ctx: Context, phrases: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Captions with the attributes of which each names no value. They are the user's own; else what the pictures of
    people say, or their labels where the texts name a group. Raises NotAssessed where there is none."""
    values = {
        attribute: [*found, *(phrases[value].replace("{}", "").strip() for value in found if value in phrases)]
        for attribute, found in audited(ctx).items()
    }
    people = [e for e in ctx.data.audit if any(e.attributes.get(attribute) for attribute in values)]
    if ctx.data.own_captions is not None:
        things = {e.label for e in ctx.data.audit if e.label} - {e.label for e in people}
        known = {e.label for e in people if e.label}
        texts = [text for text in ctx.captions if not names(text, things) or names(text, known)]
    else:
        said = [text for e in people if (text := e.texts.get("text"))]
        labels = [e.label for e in people if e.label]
        texts = [*said, *(map(with_article, labels) if all(_ARTICLE.match(text) for text in said) and said else labels)]
    open_to = {text: [a for a, words in values.items() if not names(text, words)] for text in texts}
    for wanted in (len(values), 1):  # those that name no group at all, if there are any
        found = [(text, attributes) for text, attributes in open_to.items() if len(attributes) >= wanted]
        if found:
            return found
    raise NotAssessed(
        "every caption names a group (" + "; ".join(f"{a}: {', '.join(v)}" for a, v in audited(ctx).items()) + ").",
        "Give captions that leave it open, such as 'a doctor', with --prompts FILE.",
    )


@dataclass(frozen=True)
class Explicit:
    """A caption that names groups, and the caption that leaves them open about the same thing, "" where there is none."""

    text: str
    named: dict[str, str]  # attribute to value
    about: str


def captions_naming(ctx: Context, phrases: Mapping[str, str]) -> list[Explicit]:
    """Captions that name groups: what pictures of one group say, and every neutral caption with every value that none of these names
    about the same thing."""
    values, neutral = audited(ctx), neutral_captions(ctx, phrases)
    by_label = {label: text for text, _ in neutral if (label := label_named(text, ctx.labels))}
    found: dict[str, Explicit] = {}
    for example in ctx.data.examples:
        own = {a: v for a in values if (v := example.attributes.get(a)) and v.lower() not in _ANYBODY}
        text = example.texts.get("text", "")
        if text and own and not any(value in phrases for value in own.values()):
            named = {a: v for a, v in own.items() if names(text, [v])}
            if named:
                found[text] = Explicit(text, named, by_label.get(label_named(text, ctx.labels) or "", ""))
    said = {(one.about, a, v) for one in found.values() for a, v in one.named.items()}
    for concept, attributes in neutral:
        for attribute, value in ((a, v) for a in attributes for v in values[a]):
            if (concept, attribute, value) not in said and value.lower() not in _ANYBODY:
                text = _worded(concept, value, phrases)
                found[text] = Explicit(text, {attribute: value}, concept)
    return list(found.values())


def explicit_captions(ctx: Context, phrases: Mapping[str, str], count: int) -> list[Explicit]:
    """So many captions that name the group: every value of every attribute about equally often, and then every neutral caption.
    One may be there several times, to be drawn with several seeds."""
    values, every = audited(ctx), captions_naming(ctx, phrases)
    neutral = len({one.about for one in every if one.about})
    order = [every[i] for i in ctx.rng("explicit").permutation(len(every)).tolist()]
    chosen: list[Explicit] = []
    used: Counter[tuple[str, ...]] = Counter()

    def fills(one: Explicit) -> tuple[float, ...]:
        """What is rarest so far comes first: the rarest of the values a caption names, then their sum, then those about the same
        thing, then the caption."""
        shares = sorted(used[cell] * len(values[cell[0]]) for cell in one.named.items())
        about = sum(used[one.about, *cell] for cell in one.named.items()) / len(shares) if one.about else neutral
        return shares[0], sum(shares) / len(shares), about, used[one.text,]

    while order and len(chosen) < count:
        one = min(order, key=fills)
        chosen.append(one)
        used.update([(one.text,), *one.named.items(), *((one.about, *cell) for cell in one.named.items())])
    return chosen


def _worded(concept: str, value: str, phrases: Mapping[str, str]) -> str:
    """A caption with a value in it: by its phrase, else before the noun."""
    if value in phrases:
        return phrases[value].replace("{}", concept)
    article = _ARTICLE.match(concept)
    return with_article(f"{value} {concept[article.end() :]}") if article else f"{value} {concept}"
