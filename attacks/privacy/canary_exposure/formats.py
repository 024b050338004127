"""The format of canaries' codes, read off their answers, and never-seen codes of the same format."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.answers import says
from vlaudit.attacks.shared.secret_codes import codes_in

if TYPE_CHECKING:
    import numpy as np

LEAST_DIGITS = 3
TELLING = 40  # codes from which on a digit that never stands in a place is none of that place's
FEW_REPEATS = 20  # codes from which on it is no accident that no digit comes twice in any
_PIECES = re.compile(r"\d|[^\W\d_]+|[\W_]")


@dataclass(frozen=True)
class Format:
    """An answer in pieces (digits, words, all else), which of them are the code, and what may stand there instead.

    With three digits or more the code is the digits; else the words in which answers of the same build differ. A place may
    hold any digit (from 40 codes on: any that stands there in some answer), or any word that stands there in some answer.
    ``distinct``: no digit comes twice in any of the codes, so it doesn't in drawn ones either.
    """

    pieces: tuple[str, ...]
    slots: tuple[int, ...]
    pools: tuple[tuple[str, ...], ...]
    distinct: bool

    @property
    def size(self) -> int:
        """How many codes there are, at least."""
        if self.distinct:
            return math.prod(max(0, len(pool) - taken) for taken, pool in enumerate(self.pools)) if self.slots else 0
        return math.prod(len(pool) for pool in self.pools) if self.slots else 0

    @property
    def frame(self) -> tuple[str, ...]:
        """What stands around the code: answers that share it are compared with the same drawn codes."""
        return tuple("" if i in self.slots else piece for i, piece in enumerate(self.pieces))

    def draw(self, rng: np.random.Generator, count: int, seen: Iterable[str]) -> list[str]:
        """Distinct answers with other codes than those seen. There must be enough of them: see ``size``."""
        found: dict[str, None] = {}
        refused = set(seen)
        while len(found) < count:
            code = [pool[int(rng.integers(len(pool)))] for pool in self.pools]
            if self.distinct and len(set(code)) < len(code):
                continue
            pieces = list(self.pieces)
            for slot, piece in zip(self.slots, code, strict=True):
                pieces[slot] = piece
            answer = "".join(pieces)
            if answer not in refused:
                found[answer] = None
        return list(found)

    def written(self, answer: str) -> bool:
        """Whether an answer holds the code."""
        return self.written_of(answer, ["".join(self.pieces)]) > 0

    def written_of(self, answer: str, others: Iterable[str]) -> int:
        """How many codes of other answers of this format an answer holds."""
        rows = [_PIECES.findall(other) for other in others]
        codes = [[row[slot] for slot in self.slots] for row in rows]
        if codes and codes[0] and codes[0][0].isdigit():
            held = codes_in(answer, len(self.slots))
            return sum("".join(code) in held for code in codes)
        return sum(
            says(answer, "".join(row)) or says(answer, " ".join(code)) for row, code in zip(rows, codes, strict=True)
        )


def formats(answers: Sequence[str]) -> list[Format]:
    """The format of every answer, by what all of them have in common."""
    cut = [tuple(_PIECES.findall(answer)) for answer in answers]
    builds: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for pieces in cut:
        builds.setdefault(_build(pieces), []).append(pieces)
    return [_format(pieces, builds[_build(pieces)]) for pieces in cut]


def _build(pieces: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("digit" if p.isdigit() else "word" if p.isalpha() else p for p in pieces)


def _format(pieces: tuple[str, ...], alike: list[tuple[str, ...]]) -> Format:
    digits = tuple(i for i, piece in enumerate(pieces) if piece.isdigit())
    seen = [sorted({other[i] for other in alike}) for i in range(len(pieces))]
    if len(digits) >= LEAST_DIGITS:
        slots = digits
        pools = tuple(tuple(seen[i]) if len(alike) >= TELLING else tuple("0123456789") for i in slots)
    else:
        slots = tuple(i for i, piece in enumerate(pieces) if piece.isalpha() and len(seen[i]) > 1)
        pools = tuple(tuple(seen[i]) for i in slots)
    codes = [[other[i] for i in slots] for other in alike] if slots is digits else []
    distinct = len(codes) >= FEW_REPEATS and all(len(set(code)) == len(code) for code in codes)
    return Format(pieces, slots, pools, distinct)
