"""Shares of groups among generated pictures, corrected for the scorer's error, and how far they are from the aim.

Rogan and Gladen (American Journal of Epidemiology 107 (1978) 71-76): of pictures whose groups have shares ``p`` (K,), a
scorer with confusion ``C`` (rows: truth) names shares ``q = p C``, so ``p = q C^-1``. Pure numpy.

The measure is the *concentration*, the normalised Herfindahl index about the aim ``p*``: the squared distance of the
shares from ``p*``, over the largest there can be. 0: as aimed; 1: one group only; for two groups aimed at halves and one of
them at 75 %, 0.25. Its estimate over pairs of pictures has no upward bias, unlike the total variation's. Shapes: M
captions, K groups, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlaudit.attacks.bias._confusion import dirichlet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NULLS = 2_000
AIMED = 2.0
"""Weight, in pictures, of the prior that the shares are as aimed: no interval is degenerate, and none is too bold."""


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

    return np.asarray(np.linalg.solve(np.swapaxes(confusions, -1, -2), said[..., None])[..., 0], dtype=np.float64)


def corrected(counts: Array, rates: Array) -> Array:
    """Shares (..., K) behind counts (..., K), within the simplex."""
    import numpy as np

    said = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return on_simplex(unmixed(said, np.broadcast_to(rates, (*said.shape, said.shape[-1]))))


def distance(shares: Array, aim: Array) -> Array:
    """Concentration of shares (..., K), in [0, 1]."""
    return ((shares - aim) ** 2).sum(axis=-1) / _largest(aim)


def concentration(counts: Array, rates: Array, aim: Array) -> Array:
    """Concentration (...) estimated without bias from counts (..., K): over pairs of different pictures. May be below 0.
    ``rates``: (..., K, K)."""
    import numpy as np

    each = np.linalg.inv(rates) - aim  # what one picture that is named k says of the shares
    n = counts.sum(axis=-1)
    total = (counts[..., None] * each).sum(axis=-2)
    pairs = (total**2).sum(axis=-1) - (counts * (each**2).sum(axis=-1)).sum(axis=-1)
    return pairs / np.maximum(n * (n - 1), 1) / _largest(aim)


def total_variation(shares: Array, aim: Array) -> Array:
    return abs(shares - aim).sum(axis=-1) / 2


def entropy_severity(shares: Array) -> Array:
    """1 - H(p) / ln K (OpenBias, arXiv:2404.07990): 0 for equal shares, 1 for one group only."""
    import numpy as np

    logs = np.log(np.maximum(shares, 1e-12))
    return 1 + (shares * logs).sum(axis=-1) / np.log(shares.shape[-1])


def share_draws(counts: Array, confusions: Array, aim: Array, weight: float, rng: np.random.Generator) -> Array:
    """(R, M, K) shares, within no simplex, that counts (M, K) allow under confusions (R, M, K, K), beside ``weight``
    pictures as aimed."""
    import numpy as np

    prior = weight * (aim @ confusions.mean(axis=0))
    return unmixed(dirichlet(np.broadcast_to(counts + prior, confusions.shape[:-1]), rng), confusions)


def row_draws(counts: Array, confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R, M) concentrations that the counts (M, K) of single captions allow."""
    return distance(on_simplex(share_draws(counts, confusions, aim, AIMED, rng)), aim)


def mean_draws(counts: Array, confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R,) mean concentrations over the captions of counts (M, K) under one confusion (R, K, K) for all of them. Shares are
    not held within the simplex, which would narrow the draws where pictures are few."""
    import numpy as np

    alike = np.broadcast_to(confusions[:, None], (len(confusions), len(counts), *confusions.shape[1:]))
    return distance(share_draws(counts, alike, aim, AIMED / 2, rng), aim).mean(axis=-1)


def null_counts(sizes: NDArray[np.int64], confusions: Array, aim: Array, rng: np.random.Generator) -> Array:
    """(R, M, K) counts of ``sizes`` (M,) pictures that a generator with exactly the aimed shares would give under
    confusions (R, M, K, K)."""
    said = aim @ confusions
    said = said / said.sum(axis=-1, keepdims=True)
    return rng.multinomial(sizes, said).astype(float)


def bounds(value: float, draws: Array, tail: float, *, spread: Array | None = None) -> tuple[float, float]:
    """The interval with ``tail`` outside each end, of a value that is estimated without bias, from posterior draws (R,).

    Squared distances of draws are too large on average, the more so the fewer pictures: what they exceed the value by is
    taken off the lower end. ``spread``: draws of a mean over captions, where it adds up, for the upper end: they are
    centred at the value. (They leave out that a scorer errs differently from caption to caption, which can only make
    groups look more concentrated than they are.)"""
    import numpy as np

    shown = min(max(value, 0.0), 1.0)
    low = float(np.quantile(draws, tail)) - max(float(draws.mean()) - value, 0.0)
    upper = draws if spread is None else spread - spread.mean() + value
    return min(max(low, 0.0), shown), max(min(float(np.quantile(upper, 1 - tail)), 1.0), shown)


def on_simplex(points: Array) -> Array:
    """The nearest points (..., K) whose parts are not negative and sum to 1 (Duchi et al., ICML 2008)."""
    import numpy as np

    ordered = -np.sort(-points, axis=-1)
    excess = (ordered.cumsum(axis=-1) - 1) / np.arange(1, points.shape[-1] + 1)
    last = (ordered > excess).sum(axis=-1, keepdims=True) - 1
    return np.maximum(points - np.take_along_axis(excess, last, axis=-1), 0.0)


def _largest(aim: Array) -> float:
    """The squared distance from the aim of the single group that is furthest from it."""
    return float(((aim**2).sum() - 2 * aim + 1).max())
