"""A scorer's measured confusion, and how sure it is of one caption's. Pure numpy and scipy.

A scorer does not err alike everywhere: under a helmet a man is read as a woman more often than under a chef's hat. What is
measured over all labels therefore stands for one caption only so far; how far is read off the labels themselves, as the
correlation of errors within a label (beta-binomial), and a label that the caption names adds its own counts.
Shapes: K groups, M captions, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS = 10_000
CORRELATIONS = (0.002, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""The correlations of errors within a label that are thought possible, equally likely before the labels are seen."""


@dataclass(frozen=True)
class Confusion:
    """``counts`` (K, K): rows are the truth; pictures of one identity together weigh as much as one. ``labels``: the same
    counts of each label's pictures, where they have labels."""

    counts: Array
    labels: Mapping[str, Array]

    @classmethod
    def of(
        cls, counts: Sequence[Sequence[int]], identities: Sequence[int], labels: Mapping[str, Sequence[Sequence[int]]]
    ) -> Confusion:
        import numpy as np

        matrix = np.array(counts, dtype=float)
        weight = (np.array(identities) / matrix.sum(axis=1))[:, None]
        return cls(matrix * weight, {label: np.array(own, dtype=float) * weight for label, own in labels.items()})

    @property
    def rates(self) -> Array:
        """(K, K): what the scorer says of each group, rows sum to 1."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @cached_property
    def correlations(self) -> Array:
        """Probabilities of ``CORRELATIONS``, given how the errors spread over the labels."""
        import numpy as np
        from scipy.stats import betabinom

        wrong = (self.counts.sum(axis=1) - np.diag(self.counts) + 0.5) / (self.counts.sum(axis=1) + 1)
        logs = np.zeros(len(CORRELATIONS))
        for own in self.labels.values():
            n = np.rint(own.sum(axis=1)).astype(int)
            errors = np.minimum(np.rint(own.sum(axis=1) - np.diag(own)).astype(int), n)
            for place, rho in enumerate(CORRELATIONS):
                a, b = wrong * (1 / rho - 1), (1 - wrong) * (1 / rho - 1)
                logs[place] += float(betabinom.logpmf(errors, n, a, b)[n > 0].sum())
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()

    def own(self, names: Sequence[str | None]) -> Array:
        """(M, K, K) counts of the labels that captions name, 0 where they name none."""
        import numpy as np

        nothing = np.zeros_like(self.counts)
        return np.array([nothing if name is None else self.labels.get(name, nothing) for name in names])

    def rates_of(self, names: Sequence[str | None]) -> Array:
        """(M, K, K) rates expected under captions that name these labels."""
        import numpy as np

        strength = np.array([1 / rho - 1 for rho in CORRELATIONS]) * 1.0
        own = self.own(names)[:, None]
        mixed = strength[:, None, None] * self.rates + own
        return np.einsum("c,mckl->mkl", self.correlations, mixed / mixed.sum(axis=-1, keepdims=True))

    def draws(self, count: int, names: Sequence[str | None], rng: np.random.Generator) -> Array:
        """(R, M, K, K) confusions under captions, as the counts allow: over all labels a Dirichlet posterior under Perks's
        prior (one picture a row), and about that each caption's own."""
        import numpy as np

        overall = self.overall(count, rng)
        rho = rng.choice(CORRELATIONS, size=count, p=self.correlations)
        strength = (1 / rho - 1)[:, None, None, None]
        return dirichlet(np.maximum(strength * overall[:, None] + self.own(names), 1e-3), rng)

    def overall(self, count: int, rng: np.random.Generator) -> Array:
        """(R, K, K) confusions over all labels."""
        import numpy as np

        weights = self.counts + 1 / len(self.counts)
        return dirichlet(np.broadcast_to(weights, (count, *weights.shape)), rng)

    def accuracy(self, level: float) -> tuple[float, float, float]:
        """Balanced accuracy with its interval."""
        import numpy as np

        draws = np.trace(self.overall(DRAWS, np.random.default_rng(0)), axis1=1, axis2=2) / len(self.counts)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        value = float(np.diag(self.rates).mean())
        return value, min(float(low), value), max(float(high), value)


def dirichlet(weights: Array, rng: np.random.Generator) -> Array:
    """One draw for each vector of weights (..., K)."""
    import numpy as np

    drawn = rng.standard_gamma(weights)
    return drawn / np.maximum(drawn.sum(axis=-1, keepdims=True), 1e-300)
