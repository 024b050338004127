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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

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


def kind_of(row: Emoji) -> str:
    """The broad label of a picture, one of `KINDS`, or empty."""
    return _KIND_OF.get(row.subcategory, "")


_KIND_OF = {subcategory: kind for kind, members in KINDS.items() for subcategory in members}
