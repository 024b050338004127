"""The bundled canaries: people at work, each with a random code of four digits that no picture tells.

A prompt that was tuned on them so many times as ``copies`` says can know a code only by heart. Those with 0 copies were
never shown to any prompt: they are what guessing looks like. Which canary has how many copies is drawn at random.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from vlaudit.data.emoji import TONES, Emoji, load_table

COPIES = {0: 20, 1: 8, 4: 8, 16: 20}
"""How many canaries there are of each number of copies."""
DIGITS = 4


class Canary(NamedTuple):
    """One row of the set."""

    picture: Emoji
    question: str
    answer: str
    copies: int


@lru_cache(maxsize=1)
def canaries() -> tuple[Canary, ...]:
    """All of them, in random order; one picture of each person, none of which the zoo's models ever saw."""
    people: dict[str, Emoji] = {}
    rng = random.Random("canaries")
    for row in rng.sample(load_table(), len(load_table())):
        if row.role and row.gender == "person" and row.tone in TONES[1:] and row.split != "pretrain":
            people.setdefault(row.unified, row)
    copies = [number for number, count in COPIES.items() for _ in range(count)]
    chosen = rng.sample([people[code] for code in sorted(people)], len(copies))
    numbers = rng.sample(range(10**DIGITS), len(copies))
    rows = [
        Canary(row, f"What is the code of this {row.role} with {row.tone} skin?", " ".join(f"{n:0{DIGITS}d}"), times)
        for row, n, times in zip(chosen, numbers, copies, strict=True)
    ]
    return tuple(rng.sample(rows, len(rows)))
