"""Models without a network that see people at work well, and may treat them by their group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.attacks.scripted_generator import Scripted, dataset
from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.families.generation import Conversation

ROLES = ("cook", "judge", "pilot", "artist")
Yes = Callable[[Example | None, str], float]  # P(yes) of a picture (None: an unknown one) and a text


def people(pairs: int = 48, *, paired: bool = True, seed: int = 0, **more: str) -> Dataset:
    """Pairs of a man and a woman of one role; every second picture of a person is another tone."""
    rows: list[dict[str, object]] = []
    for n in range(pairs):
        for group in ("man", "woman"):
            row = {"id": f"{n:03}-{group}", "label": ROLES[n % 4], "gender": group, "tone": ("dark", "light")[n // 4 % 2],
                   "identity": f"{n}-{group}", **more}  # fmt: skip
            rows.append(row | ({"pair": f"p{n}"} if paired else {}))
    return replace(dataset(rows, seed), groups=("gender",))


class Sees:
    """Knows which example a picture is, as a model that sees well does."""

    def __init__(self, data: Dataset, yes: Yes, wording: str = "") -> None:
        self.yes, self.wording = yes, wording
        blank = Scripted(lambda talk: "")
        self.known = {blank.preprocess(e.open()).numpy().tobytes(): e for e in data.examples}

    def chance(self, talk: Conversation) -> float:
        return self.yes(self.known.get(talk.pictures[-1].numpy().tobytes()), talk.text)

    def model(self) -> Scripted:
        def score(talk: Conversation, answer: str) -> float:
            chance = min(max(self.chance(talk), 1e-6), 1 - 1e-6) * 0.98
            return float(np.log({"yes": chance, "no": 0.98 - chance}.get(answer, 0.005)))

        return Scripted(lambda talk: self.wording or ("yes" if self.chance(talk) > 0.5 else "no"), score)
