"""Captions that leave open who is shown, and such as name it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from vlaudit.data.articles import with_article
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context

STANDARD = {"gender": ["man", "woman"]}
"""What is audited where the data have no group column."""
MOST_EXPLICIT = 20  # captions that name a group
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


def explicit_captions(ctx: Context, phrases: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Captions that name the group, each with the values it names; every value of every attribute about equally often."""
    values = audited(ctx)
    said: dict[str, dict[str, str]] = {}
    for example in ctx.data.examples:
        own = {a: v for a in values if (v := example.attributes.get(a)) and v.lower() not in _ANYBODY}
        text = example.texts.get("text", "")
        if text and own and not any(value in phrases for value in own.values()):
            named = {a: v for a, v in own.items() if names(text, [v])}
            if named:
                said[text] = named
    missing = {a: [v for v in found if not any(n.get(a) == v for n in said.values())] for a, found in values.items()}
    for concept, attributes in neutral_captions(ctx, phrases):
        for attribute in attributes:
            for value in missing[attribute]:
                said[phrases.get(value, f"{value} {{}}").replace("{}", concept)] = {attribute: value}
    texts = list(said)
    order = [texts[i] for i in ctx.rng("explicit").permutation(len(texts)).tolist()]
    chosen: list[tuple[str, dict[str, str]]] = []
    used: Counter[tuple[str, str] | str] = Counter()

    def fills(text: str) -> tuple[float, ...]:
        """What is rarest so far comes first: the rarest of the values a caption names, then their sum, then the caption."""
        shares = sorted(used[cell] * len(values[cell[0]]) for cell in said[text].items())
        return shares[0], sum(shares) / len(shares), used[text]

    while order and len(chosen) < MOST_EXPLICIT:
        text = min(order, key=fills)
        chosen.append((text, said[text]))
        used.update([text, *said[text].items()])
    return chosen
