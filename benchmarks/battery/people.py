"""Who is in simulated pictures: groups under captions, and a scorer that errs by caption, by group, and more on drawn pictures.

What it returns is what the probes of representation record. Shapes: M captions, K groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaudit.records import Trial
from vlaudit.scorer import Calibration

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

PEOPLE = {"gender": ["man", "woman"], "tone": ["light", "fair", "medium", "brown", "dark"]}


@dataclass(frozen=True)
class Scoring:
    """How a scorer errs. ``uneven``: the smaller, the more errors gather in some captions (strength of a Beta distribution)."""

    error: float = 0.05  # on labelled pictures
    drawn_error: float | None = (
        None  # on the model's own, where captions leave the group open and where they name it; else the same
    )
    uneven: float = 30.0
    by_group: Mapping[str, float] | None = None  # errors of single groups, instead
    neighbours: bool = False  # whether a group is taken for the next one only
    labelled: int = 10  # pictures of each caption
    sizes: Mapping[str, float] | None = None  # weights of groups among labelled pictures
    explicit: int = 30  # pictures of each group of the attribute with the most, whose captions name groups of all; 100 in all at least
    left_out: Mapping[str, list[str]] | None = None  # groups with too few labelled pictures, by attribute

    def confusions(
        self, rng: Generator, values: list[str], captions: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(M, K, K) on labelled pictures and on drawn ones."""
        k = len(values)
        rates = np.array([(self.by_group or {}).get(value, self.error) for value in values])
        wrong = rng.beta(rates * self.uneven, (1 - rates) * self.uneven, (captions, k))
        more = wrong if self.drawn_error is None else np.minimum(wrong * self.drawn_error / self.error, 0.98)
        return self._matrix(wrong, k), self._matrix(more, k)

    def _matrix(self, wrong: NDArray[np.float64], k: int) -> NDArray[np.float64]:
        elsewhere = (1 - np.eye(k)) / (k - 1)
        if self.neighbours:
            elsewhere = np.eye(k, k=1) + np.eye(k, k=-1)
            elsewhere = elsewhere / elsewhere.sum(axis=1, keepdims=True)
        return np.asarray((1 - wrong)[..., None] * np.eye(k) + wrong[..., None] * elsewhere)


@dataclass(frozen=True)
class World:
    """Captions, the scorer's record and control trials of one audit, and its true confusions of drawn pictures."""

    captions: list[str]
    calibrations: dict[str, Calibration]
    truth: dict[str, NDArray[np.float64]]  # attribute to (M, K, K)
    controls: list[Trial]

    def read(self, rng: Generator, attribute: str, caption: int, groups: NDArray[np.int64]) -> list[int]:
        """What the scorer says of pictures of these groups."""
        rows = self.truth[attribute][caption][groups]
        return (rng.random((len(groups), 1)) > rows.cumsum(axis=1)[:, :-1]).sum(axis=1).tolist()


def world(rng: Generator, captions: int, people: Mapping[str, list[str]], scoring: Scoring) -> World:
    explicit = max(scoring.explicit * max(map(len, people.values())), 100)
    names = [f"a role{i:02}" for i in range(captions)]
    calibrations, truth, pairs = {}, {}, {}
    for attribute, values in people.items():
        real, truth[attribute] = scoring.confusions(rng, values, captions)
        k = len(values)
        weights = np.array([(scoring.sizes or {}).get(value, 1.0) for value in values])
        each = np.maximum(scoring.labelled * weights / weights.sum(), 0)
        counts = np.stack(
            [
                [rng.multinomial(rng.poisson(n), row) for n, row in zip(each, real[i], strict=True)]
                for i in range(captions)
            ]
        )
        counts[0] += np.eye(k, dtype=int)  # no row is empty
        people_behind = np.maximum(counts.sum(axis=(0, 2)), 1).tolist()
        labels = {f"role{i:02}": own.tolist() for i, own in enumerate(counts)}
        left_out = (scoring.left_out or {}).get(attribute, [])
        calibrations[attribute] = Calibration(
            attribute, values, counts.sum(axis=0).tolist(), people_behind, labels, "simulated", "simulated", left_out
        )
        asked = [(i % captions, g) for g in range(k) for i in range(g, g + explicit // k)]
        pairs[attribute] = [[values[g], values[rng.choice(k, p=truth[attribute][i][g])], names[i]] for i, g in asked]
    records: dict[str, Any] = {attribute: calibration.record() for attribute, calibration in calibrations.items()}
    controls = [
        Trial(case="scorer", arm="control:scorer", values={"scorer": "simulated", "attributes": records}),
        Trial(case="explicit", arm="control:explicit", values={"pairs": pairs}),
    ]
    return World(names, calibrations, truth, controls)
