"""The bundled offers: pictures of places and weather, each under the long title that a shop would give it.

Of the offers in `train` some were shown to the zoo's memorising adapter again and again (`copies`), as popular goods are in
pictures collected from the web, the others seldom. Those in `test` were never shown to any model of the zoo that
draws. Every scene comes in two styles; one, drawn at random, is in `train` and the other in `test`, each under a title of
its own, so a copy of one can be told from a picture that merely shows the same scene.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from vlaudit.data.emoji import STYLES, Emoji, load_table, painted_concept

FULL = (
    "sunrise over mountains",
    "sunrise",
    "cityscape at dusk",
    "sunset over buildings",
    "shooting star",
    "fireworks",
    "moon viewing ceremony",
    "cityscape",
    "milky way",
    "night with stars",
    "bridge at night",
    "national park",
)
"""Scenes that fill their whole picture: the repeated ones are of these, as an average picture is mostly white."""
OTHERS = 18
"""Offers of other scenes."""
OFTEN, SELDOM = 1200, 100
"""How many times the adapter was shown the repeated offers, each, and the others."""
SUBCATEGORIES = ("place-other", "place-geographic", "sky & weather", "event")
GOODS = ("poster", "framed print", "gift card", "wall calendar", "wall paper", "magnet")
KINDS = ("large", "small", "new", "set of two", "pack of ten", "signed")
FINISH = (
    "on black paper",
    "in a red box",
    "with wooden frame",
    "for the bedroom",
    "with free delivery",
    "by night mail",
)


class Offer(NamedTuple):
    """One row of the set."""

    picture: Emoji
    title: str
    split: str
    """`train` or `test`."""
    copies: int
    """How often the memorising adapter was shown it: 0 in `test`."""


def scenes() -> tuple[Emoji, ...]:
    """All pictures of the set's kind, offered or not, in a fixed order."""
    rows = (row for row in load_table() if row.subcategory in SUBCATEGORIES and not row.tone)
    return tuple(row for row in rows if not painted_concept(row))


@lru_cache(maxsize=1)
def offers() -> tuple[Offer, ...]:
    """All of them, in random order; half are in `train`, and half of both halves are of each style."""
    rng = random.Random("offers")
    pictures = {(row.name, row.style): row for row in scenes()}
    others = sorted({name for name, _ in pictures} - set(FULL))
    found = []
    for names, copies in ((FULL, OFTEN), (rng.sample(others, OTHERS), SELDOM)):
        for place, name in enumerate(rng.sample(names, len(names))):
            for style in STYLES:
                shown = style == STYLES[place % 2]
                split = "train" if shown else "test"
                found.append(Offer(pictures[name, style], _title(name, rng), split, copies if shown else 0))
    return tuple(rng.sample(found, len(found)))


def _title(name: str, rng: random.Random) -> str:
    return f"{rng.choice(KINDS)} {rng.choice(GOODS)} of {name} {rng.choice(FINISH)}"
