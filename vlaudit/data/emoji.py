"""The bundled pictures: 7,572 emoji of 32 x 32 pixels in two styles, each named, many with gender and skin tone.

Google's pictures are under Apache-2.0, Twitter's under CC-BY-4.0: see `bundled/ATTRIBUTION.md`. Every emoji belongs to
one split:

* `pretrain`: the flagship matcher of the zoo was trained on it;
* `train`: the flagship never saw it, a learned prompt may be fitted on it (the *members* of a privacy audit);
* `test`: neither the flagship nor any prompt of the zoo saw it (the pictures of an audit, the *non-members*).

`train` and `test` are a random halving of the same pictures, so they follow one distribution.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.data.articles import mend_articles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUNDLED = Path(__file__).parent / "bundled"
SIZE = 32
"""Height and width of a picture, in pixels."""
COLUMNS = 64
"""Pictures in a row of a sprite sheet."""
STYLES = ("google", "twitter")
TONES = ("default", "light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("person", "man", "woman")
ROLES = (
    "farmer",
    "cook",
    "student",
    "singer",
    "artist",
    "teacher",
    "factory worker",
    "firefighter",
    "health worker",
    "judge",
    "pilot",
    "mechanic",
)
"""The labels of the main audit set; each role comes as three genders, six tones and two styles."""
KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("animal-mammal", "animal-bird", "animal-marine", "animal-bug", "animal-reptile", "animal-amphibian"),
    "food": ("food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "drink"),
    "face": (
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-hand",
        "face-neutral-skeptical",
        "face-sleepy",
        "face-unwell",
        "face-concerned",
        "face-negative",
    ),
    "flag": ("country-flag", "flag", "subdivision-flag"),
    "hand": (
        "hand-fingers-open",
        "hand-fingers-partial",
        "hand-single-finger",
        "hand-fingers-closed",
        "hands",
        "hand-prop",
    ),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
    "clothing": ("clothing",),
    "building": ("place-building", "place-religious"),
    "athlete": ("person-sport",),
    "plant": ("plant-flower", "plant-other"),
}
"""Ten broad labels and the Unicode subcategories each gathers."""

PAINTED_ROLES = (*ROLES, "astronaut", "construction worker", "detective", "police officer")
"""The people of the captioned set: each as man and woman, in five tones and two styles."""
PAINTED_THINGS: dict[str, tuple[str, ...]] = {
    "cat": (
        "cat",
        "cat face",
        "black cat",
        "smiling cat face with open mouth",
        "grinning cat face with smiling eyes",
        "cat face with tears of joy",
        "pouting cat face",
        "weary cat face",
    ),
    "dog": ("dog", "dog face", "poodle", "guide dog", "service dog"),
    "pig": ("pig", "pig face", "boar"),
    "car": (
        "automobile",
        "oncoming automobile",
        "taxi",
        "oncoming taxi",
        "police car",
        "oncoming police car",
        "recreational vehicle",
    ),
    "clock": tuple(
        f"clock face {hour} oclock"
        for hour in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    ),
    "flower": ("blossom", "hibiscus", "sunflower", "tulip", "rose", "cherry blossom", "white flower"),
    "heart": (
        "heavy black heart",
        "orange heart",
        "yellow heart",
        "green heart",
        "blue heart",
        "purple heart",
        "brown heart",
        "pink heart",
        "light blue heart",
        "white heart",
        "black heart",
        "grey heart",
    ),
    "moon": (
        "new moon symbol",
        "waxing crescent moon symbol",
        "first quarter moon symbol",
        "waxing gibbous moon symbol",
        "full moon symbol",
        "waning gibbous moon symbol",
        "last quarter moon symbol",
        "waning crescent moon symbol",
        "crescent moon",
    ),
    "smiling face": (
        "slightly smiling face",
        "smiling face with open mouth",
        "smiling face with open mouth and smiling eyes",
        "smiling face with smiling eyes",
        "white smiling face",
        "grinning face",
        "grinning face with smiling eyes",
    ),
    "tree": ("deciduous tree", "evergreen tree", "palm tree", "christmas tree"),
}
"""The animals and things of the captioned set, each concept with the emoji that its caption stands for."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """One picture of the bundle."""

    index: int
    """Position in the sprite sheet of its style."""
    style: str
    """`google` or `twitter`."""
    unified: str
    """Unicode code points, hexadecimal, joined by `-`: the same emoji has the same code in both styles."""
    name: str
    """Lower-case name, without its tone: `woman firefighter`."""
    category: str
    subcategory: str
    role: str
    """One of `ROLES`, or empty."""
    gender: str
    """One of `GENDERS`, or empty where the picture shows no single person."""
    tone: str
    """One of `TONES`, two of them joined by ` and ` for couples, or empty where the emoji has no tones."""
    split: str
    """`pretrain`, `train` or `test`."""


@lru_cache(maxsize=1)
def load_table() -> tuple[Emoji, ...]:
    """Read the metadata of all pictures, in a fixed order."""
    with (BUNDLED / "emoji.csv").open(newline="", encoding="utf-8") as file:
        return tuple(Emoji(index=int(row.pop("index")), **row) for row in csv.DictReader(file))


def load_pictures(rows: Sequence[Emoji]) -> NDArray[np.uint8]:
    """Cut the pictures of `rows` from the sprite sheets: uint8, (N, 32, 32, 3), RGB on white."""
    import numpy as np

    pictures = np.empty((len(rows), SIZE, SIZE, 3), dtype=np.uint8)
    for position, row in enumerate(rows):
        top, left = (SIZE * n for n in divmod(row.index, COLUMNS))
        pictures[position] = _sheet(row.style)[top : top + SIZE, left : left + SIZE]
    return pictures


@lru_cache(maxsize=len(STYLES))
def _sheet(style: str) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    with Image.open(BUNDLED / f"{style}.webp") as image:
        return np.asarray(image.convert("RGB"))


def roles(splits: Iterable[str] = ("test",)) -> tuple[Emoji, ...]:
    """The main audit set: people at work. Label: `role`; groups: `gender` and `tone`."""
    wanted = set(splits)
    return tuple(row for row in load_table() if row.role and row.split in wanted)


def kinds(splits: Iterable[str] = ("test",)) -> tuple[Emoji, ...]:
    """The ten-label set with many different pictures a label. Label: `kind_of(row)`."""
    wanted = set(splits)
    return tuple(row for row in load_table() if kind_of(row) and row.split in wanted)


def things(splits: Iterable[str] = ("train", "test")) -> tuple[Emoji, ...]:
    """Animals and foods, hundreds of labels with one or two pictures each. Label: `name`."""
    wanted = set(splits)
    return tuple(row for row in load_table() if kind_of(row) in ("animal", "food") and row.split in wanted)


def painted_concept(row: Emoji) -> str:
    """What the captioned set calls a picture, one of `PAINTED_ROLES` or `PAINTED_THINGS`; empty outside that set."""
    if row.gender in ("man", "woman"):
        role = row.name.removeprefix(f"{row.gender} ")
        return role if role in PAINTED_ROLES and row.tone in TONES[1:] else ""
    return _PAINTED_THING_OF.get(row.name, "") if not row.tone else ""


def painted_phrase(row: Emoji) -> str:
    """The whole caption of a captioned picture: `woman farmer with dark skin`, `cat`."""
    concept = painted_concept(row)
    return f"{row.gender} {concept} with {row.tone} skin" if concept in PAINTED_ROLES else concept


def painted_caption(row: Emoji) -> str:
    """The caption of a captioned picture as its data set gives it: `a woman farmer with dark skin`."""
    return mend_articles(f"a {painted_phrase(row)}")


@lru_cache(maxsize=1)
def painted() -> tuple[tuple[Emoji, str], ...]:
    """The captioned set, each picture with its split: `train` was shown to the zoo's text-to-image pipelines.

    Every emoji comes in two styles; one, drawn at random, is in `train` and the other in `test`, and the draw gives each
    style half of every kind of person or thing: the two splits follow one distribution. (`Emoji.split` is the
    matchers', and plays no part.)
    """
    pairs: dict[str, dict[str, list[Emoji]]] = {}
    for row in load_table():
        if concept := painted_concept(row):
            pairs.setdefault(f"{concept} {row.gender}", {}).setdefault(row.unified, []).append(row)
    split: dict[tuple[str, str], str] = {}
    for cell, emoji in sorted(pairs.items()):
        rng = random.Random(f"painted {cell}")
        codes = rng.sample(sorted(emoji), len(emoji))
        first = rng.randrange(2)
        for place, code in enumerate(codes):
            for row in emoji[code]:
                shown = STYLES[(place + first) % 2] == row.style
                split[row.style, code] = "train" if shown else "test"
    rows = (row for row in load_table() if painted_concept(row))
    return tuple((row, split[row.style, row.unified]) for row in rows)


def kind_of(row: Emoji) -> str:
    """The broad label of a picture, one of `KINDS`, or empty."""
    return _KIND_OF.get(row.subcategory, "")


_KIND_OF = {subcategory: kind for kind, members in KINDS.items() for subcategory in members}
_PAINTED_THING_OF = {name: thing for thing, names in PAINTED_THINGS.items() for name in names}
