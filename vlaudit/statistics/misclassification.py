"""Shares of groups as told by a reader that errs: corrected for its measured error, and how far they are from an aim.

Rogan and Gladen (American Journal of Epidemiology 107 (1978) 71-76): of items whose groups have shares ``p`` (K,), a reader
with confusion ``C`` (rows: truth) names shares ``q = p C``, so ``p = q C^-1``.

A reader does not err alike everywhere: under a helmet a man is read as a woman more often than under a chef's hat. What is
measured over all strata therefore stands for one sample only so far; how far is read off the strata themselves, as the
correlation of errors within a stratum (beta-binomial), and a stratum that a sample is of adds its own counts.

The measure is the *concentration*, the normalised Herfindahl index about the aim ``p*``: the squared distance of the
shares from ``p*``, over the largest there can be. 0: as aimed; 1: one group only; for two groups aimed at halves and one of
them at 75 %, 0.25. Its estimate over pairs of items has no upward bias, unlike the total variation's.

Shapes: M samples, K groups, R draws. Torch-free; numpy and scipy are imported where used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlaudit.records import BuiltIn
from vlaudit.statistics.rates import JEFFREYS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS = 4_000  # of a posterior
NULLS = 1_000  # of shares as aimed
CORRELATIONS = (0.002, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
AIMED = 2.0
BUILT_IN = {
    "CORRELATIONS": BuiltIn(
        meaning="correlations of a reader's errors within one kind of pictures that are thought possible, equally likely before any is seen",
        source="our choice, because they reach from hardly any to as much as half",
    ),
    "AIMED": BuiltIn(
        meaning="pictures that show the groups as aimed, beside those seen",
        source="our choice, because with them no interval is a point, and few pictures of one group alone are not taken for all",
    ),
}


@dataclass(frozen=True)
class Confusion:
    """``counts`` (K, K): rows are the truth; items of one unit together weigh as much as one. ``strata``: the same counts of
    each stratum's items, where they have one. ``like``: what the same reader's errors on other items say of how they gather."""

    counts: Array
    strata: Mapping[str, Array]
    like: Confusion | None = None

    @classmethod
    def of(
        cls, counts: Sequence[Sequence[int]], units: Sequence[int], strata: Mapping[str, Sequence[Sequence[int]]]
    ) -> Confusion:
        """``units`` (K,): how many independent ones stand behind each row."""
        import numpy as np

        matrix = np.array(counts, dtype=float)
        weight = (np.array(units) / matrix.sum(axis=1))[:, None]
        return cls(matrix * weight, {name: np.array(own, dtype=float) * weight for name, own in strata.items()})

    @property
    def rates(self) -> Array:
        """(K, K): what the reader says of each group, rows sum to 1."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @cached_property
    def correlations(self) -> Array:
        """Probabilities of ``CORRELATIONS``, given how the errors spread over the strata."""
        import numpy as np
        from scipy.special import betaln

        wrong = (self.counts.sum(axis=1) - np.diag(self.counts) + JEFFREYS) / (self.counts.sum(axis=1) + 1)
        logs = np.log(self.like.correlations + 1e-300) if self.like else np.zeros(len(CORRELATIONS))
        if self.strata:
            own = np.array(list(self.strata.values()))  # (S, K, K)
            n = np.rint(own.sum(axis=-1))
            errors = np.minimum(np.rint(own.sum(axis=-1) - np.diagonal(own, axis1=1, axis2=2)), n)
            strength = np.array([1 / rho - 1 for rho in CORRELATIONS])[:, None, None]
            a, b = wrong * strength, (1 - wrong) * strength
            logs += (betaln(errors + a, n - errors + b) - betaln(a, b)).sum(
                axis=(1, 2)
            )  # beta-binomial, but for a constant
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()

    def own(self, names: Sequence[str | None]) -> Array:
        """(M, K, K) counts of the strata that samples are of, 0 where they are of none."""
        import numpy as np

        nothing = np.zeros_like(self.counts)
        return np.array([nothing if name is None else self.strata.get(name, nothing) for name in names])

    def rates_of(self, names: Sequence[str | None], more: Array | float = 0.0) -> Array:
        """(M, K, K) rates expected in samples of these strata; ``more``: further counts (M, K, K) of theirs."""
        import numpy as np

        strength = np.array([1 / rho - 1 for rho in CORRELATIONS])[:, None, None]
        mixed = strength * self.rates + (self.own(names) + more)[:, None]
        return np.einsum("c,mckl->mkl", self.correlations, mixed / mixed.sum(axis=-1, keepdims=True))

    def draws(
        self, count: int, names: Sequence[str | None], rng: np.random.Generator, more: Array | float = 0.0
    ) -> Array:
        """(R, M, K, K) confusions in samples, as the counts allow: over all strata a Dirichlet posterior under Perks's
        prior (one item a row), and about that each sample's own."""
        import numpy as np

        overall = self.overall(count, rng)
        rho = rng.choice(CORRELATIONS, size=count, p=self.correlations)
        strength = (1 / rho - 1)[:, None, None, None]
        return dirichlet(np.maximum(strength * overall[:, None] + self.own(names) + more, 1e-3), rng)

    def overall(self, count: int, rng: np.random.Generator) -> Array:
        """(R, K, K) confusions over all strata."""
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

    def beside(self, other: Confusion, weight: float) -> Confusion:
        """The same beside so many items a row as another confusion has it, whose strata say how errors gather."""
        return Confusion(self.counts + weight * other.rates, self.strata, other)


def dirichlet(weights: Array, rng: np.random.Generator) -> Array:
    """One draw for each vector of weights (..., K)."""
    import numpy as np

    drawn = rng.standard_gamma(weights)
    return drawn / np.maximum(drawn.sum(axis=-1, keepdims=True), 1e-300)


# --- shares and measures of them ------------------------------------------------------------------------------------


def aimed(values: Sequence[str], shares: Mapping[str, float] | None) -> Array:
    """(K,) shares aimed at: those given, else equal ones."""
    import numpy as np

    weights: Array = np.array([shares.get(value, 0.0) if shares else 1.0 for value in values])
    if not weights.sum() > 0:
        weights = np.ones(len(values))
    return weights / float(weights.sum())


def unmixed(said: Array, confusions: Array) -> Array:
    """True shares (..., K) behind shares (..., K) of what was said, under confusions (..., K, K). They sum to 1, and may
    be negative."""
    import numpy as np

    if said.shape[-1] == 2:  # by hand: many small systems are slow to solve
        first = (said[..., 0] - confusions[..., 1, 0]) / (confusions[..., 0, 0] - confusions[..., 1, 0])
        return np.stack([first, 1 - first], axis=-1)
    return np.asarray(np.linalg.solve(np.swapaxes(confusions, -1, -2), said[..., None])[..., 0], dtype=np.float64)


def on_simplex(points: Array) -> Array:
    """The nearest points (..., K) whose parts are not negative and sum to 1 (Duchi et al., ICML 2008)."""
    import numpy as np

    ordered = -np.sort(-points, axis=-1)
    excess = (ordered.cumsum(axis=-1) - 1) / np.arange(1, points.shape[-1] + 1)
    last = (ordered > excess).sum(axis=-1, keepdims=True) - 1
    return np.maximum(points - np.take_along_axis(excess, last, axis=-1), 0.0)


def corrected(counts: Array, rates: Array) -> Array:
    """Shares (..., K) behind counts (..., K), within the simplex."""
    import numpy as np

    said = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return on_simplex(unmixed(said, np.broadcast_to(rates, (*said.shape, said.shape[-1]))))


def distance(shares: Array, aim: Array) -> Array:
    """Concentration of shares (..., K), in [0, 1]."""
    return ((shares - aim) ** 2).sum(axis=-1) / _largest(aim)


def concentration(counts: Array, rates: Array, aim: Array) -> Array:
    """Concentration (...) estimated without bias from counts (..., K): over pairs of different items. May be below 0.
    ``rates``: (..., K, K)."""
    import numpy as np

    each = np.linalg.inv(rates) - aim  # what one item that is named k says of the shares
    n = counts.sum(axis=-1)
    total = (counts[..., None] * each).sum(axis=-2)
    pairs = (total**2).sum(axis=-1) - (counts * (each**2).sum(axis=-1)).sum(axis=-1)
    return pairs / np.maximum(n * (n - 1), 1) / _largest(aim)


def shortfall(shares: Array, aim: Array) -> Array:
    """For each group how far its share (..., K) falls short of the aim: the squared distance over the largest, in [0, 1]. 0: as
    aimed or more; 1: left out; 0.25: half of what is aimed at. Of two groups that is the concentration."""
    import numpy as np

    return (np.maximum(aim - shares, 0) / np.maximum(aim, 1e-12)) ** 2


def shortfall_estimate(counts: Array, rates: Array, aim: Array) -> Array:
    """Shortfall (..., K) estimated without bias from counts (..., K), over pairs of different items; below 0 for a group that does not
    fall short."""
    import numpy as np

    each = np.linalg.inv(rates) - aim
    n = counts.sum(axis=-1)[..., None]
    total = counts @ each
    pairs = (total**2 - counts @ each**2) / np.maximum(n * (n - 1), 1) / np.maximum(aim, 1e-12) ** 2
    return np.where((total < 0) & (aim > 0), pairs, np.minimum(-abs(pairs), 0.0))


def _largest(aim: Array) -> float:
    """The squared distance from the aim of the single group that is furthest from it."""
    return float(((aim**2).sum() - 2 * aim + 1).max())


def total_variation(shares: Array, aim: Array) -> Array:
    return abs(shares - aim).sum(axis=-1) / 2


def entropy_severity(shares: Array) -> Array:
    """1 - H(p) / ln K (OpenBias, arXiv:2404.07990): 0 for equal shares, 1 for one group only."""
    import numpy as np

    logs = np.log(np.maximum(shares, 1e-12))
    return 1 + (shares * logs).sum(axis=-1) / np.log(shares.shape[-1])


# --- how sure they are ----------------------------------------------------------------------------------------------


def share_draws(counts: Array, confusions: Array, aim: Array, weight: float, rng: np.random.Generator) -> Array:
    """(R, M, K) shares, within no simplex, that counts (M, K) allow under confusions (R, M, K, K), beside ``weight``
    items as aimed."""
    import numpy as np

    prior = weight * (aim @ confusions.mean(axis=0))
    return unmixed(dirichlet(np.broadcast_to(counts + prior, confusions.shape[:-1]), rng), confusions)


def sample_draws(counts: Array, confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R, M) concentrations that the counts (M, K) of single samples allow."""
    return distance(on_simplex(share_draws(counts, confusions, aim, AIMED, rng)), aim)


def mean_draws(counts: Array, confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R,) mean concentrations over the samples of counts (M, K) under one confusion (R, K, K) for all of them. Shares are
    not held within the simplex, which would narrow the draws where items are few."""
    import numpy as np

    alike = np.broadcast_to(confusions[:, None], (len(confusions), len(counts), *confusions.shape[1:]))
    return distance(share_draws(counts, alike, aim, AIMED / 2, rng), aim).mean(axis=-1)


def null_counts(sizes: NDArray[np.int64], confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R, M, K) counts of ``sizes`` (M,) items that exactly the aimed shares would give under confusions (R, M, K, K)."""
    said = aim @ confusions
    said = said / said.sum(axis=-1, keepdims=True)
    return rng.multinomial(sizes, said).astype(float)


def bounds(value: float, draws: Array, tail: float, *, spread: Array | None = None) -> tuple[float, float]:
    """The interval with ``tail`` outside each end, of a concentration that is estimated without bias, from posterior draws (R,).

    Squared distances of draws are too large on average, the more so the fewer items: what they exceed the value by is
    taken off the lower end. ``spread``: draws of a mean over samples, where it adds up, for the upper end: they are
    centred at the value. (They leave out that a reader errs differently from sample to sample, which can only make
    groups look more concentrated than they are.)"""
    import numpy as np

    shown = within(value)
    low = float(np.quantile(draws, tail)) - max(float(draws.mean()) - value, 0.0)
    upper = draws if spread is None else spread - spread.mean() + value
    return min(max(low, 0.0), shown), max(min(float(np.quantile(upper, 1 - tail)), 1.0), shown)


def within(value: float) -> float:
    """An estimate without bias may lie beyond the ends of what it estimates; it is shown at the end."""
    return min(max(value, 0.0), 1.0)
