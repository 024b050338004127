"""Groups of two attributes at once: dark women may be left out where women and dark people are not. Pure numpy.

The scorer is taken to err on either attribute as if the other were not there, and what is aimed at is the product of both aims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.scorer_readings import Reading
from vlaudit.records import Trial
from vlaudit.statistics.misclassification import AIMED, DRAWS, NULLS, dirichlet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Crossed:
    """Two attributes as one, with K groups."""

    one: Reading
    two: Reading

    @property
    def attribute(self) -> str:
        return f"{self.one.attribute} and {self.two.attribute}"

    @property
    def values(self) -> list[str]:
        return [f"{a} and {b}" for a in self.one.values for b in self.two.values]

    @property
    def aim(self) -> Array:
        """(K,) shares aimed at."""
        import numpy as np

        return np.outer(self.one.aim, self.two.aim).ravel()

    def rates(self, captions: Sequence[str]) -> Array:
        """(K, K) rates expected over these captions."""
        import numpy as np

        return np.kron(*(part.rates_of(captions).mean(axis=0) for part in (self.one, self.two)))

    def draws(self, counts: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """(R, K) shares, within no simplex, that counts (K,) allow, and (N, K) as many pictures as the aimed shares would give. Each
        attribute is corrected on its own axis, so that no matrix of all groups is drawn."""
        import numpy as np

        one, two = (part.overall(DRAWS, rng) for part in (self.one, self.two))
        said = (self.one.aim @ one)[:, :, None] * (self.two.aim @ two)[:, None]
        prior = AIMED * said.mean(axis=0).ravel()
        drawn = dirichlet(np.broadcast_to(counts + prior, (DRAWS, len(counts))), rng).reshape(said.shape)
        shares = np.linalg.solve(two.swapaxes(1, 2), np.linalg.solve(one.swapaxes(1, 2), drawn).swapaxes(1, 2)).swapaxes(1, 2)
        nulls = said[:NULLS].reshape(-1, len(counts))
        return shares.reshape(DRAWS, -1), rng.multinomial(int(counts.sum()), nulls / nulls.sum(axis=1, keepdims=True)).astype(float)

    def first(self, trial: Trial) -> Array:
        """(K,) counts of the trial's first lot; 0 where its caption leaves one of the attributes not open."""
        import numpy as np

        sides = [trial["said"].get(part.attribute, [])[: trial["first"]] for part in (self.one, self.two)]
        counts = np.zeros((len(self.one.values), len(self.two.values)))
        if all(sides):
            np.add.at(counts, tuple(sides), 1)
        return counts.ravel()


def crossed(found: Sequence[Reading], trials: Sequence[Trial], least: float) -> tuple[list[Crossed], list[str]]:
    """Every two attributes of whose groups at least ``least`` pictures are expected; and those of which fewer are, by name."""
    every = [Crossed(*two) for two in combinations(found, 2)]
    expected = {pair.attribute: sum(pair.first(t).sum() for t in trials) * pair.aim[pair.aim > 0].min() for pair in every}
    kept = [pair for pair in every if expected[pair.attribute] >= least]
    return kept, [name for name, count in expected.items() if count < least]
