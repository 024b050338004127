"""How far a picture stands from pictures of its label and from all others, by its features. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAREST, AROUND = 3, 16  # neighbours of a label's own and others'; neighbours whose spread gives a dimension


def distances(features: NDArray[np.float64], pool: NDArray[np.float64], mine: Sequence[str], theirs: Sequence[str]) -> NDArray[np.float64]:
    """(N, M): 1 - cosine of unit-norm features with those of a pool; infinite between pictures of one identity."""
    found = np.clip(1 - features @ pool.T, 1e-6, None)
    found[np.array(mine, dtype=object)[:, None] == np.array(theirs, dtype=object)[None]] = np.inf
    return np.asarray(found)


def mismatch(far: NDArray[np.float64], labels: Sequence[str], pool: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """(N,) the logarithm of how much farther the nearest pictures of the own label are than the nearest of others (Vovk's measure for
    nearest neighbours), NaN where the pool holds none of either; and the label of the nearest of others."""
    of = np.array(pool)
    scores, nearest = np.full(len(far), np.nan), [""] * len(far)
    for i, label in enumerate(labels):
        own, other = (np.where(side & np.isfinite(far[i]), far[i], np.inf) for side in (of == label, of != label))
        first, second = (np.sort(part)[:NEAREST] for part in (own, other))
        if np.isfinite(first).all() and np.isfinite(second).all() and len(first) == len(second) == NEAREST:
            scores[i] = np.log(first.mean() / second.mean())
            nearest[i] = str(of[int(other.argmin())])
    return scores, nearest


def outlying(far: NDArray[np.float64], within: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the dimensionality-aware outlier score: how much farther the k-th neighbour of the pool is than for these neighbours themselves,
    to the power of the dimension around each. ``within``: (M, M) of the pool."""
    k = min(AROUND, far.shape[1] - 1, len(within) - 2)
    ordered = np.sort(np.where(np.isfinite(within), within, np.nan), axis=1)[:, :k]  # NaN, which is no neighbour, comes last
    reach = np.nanmax(ordered, axis=1)
    spread = -np.nanmean(np.log(np.clip(ordered / reach[:, None], 1e-6, 1.0)), axis=1)
    dimension = 1 / np.clip(spread, 1e-3, None)
    near = np.argsort(far, axis=1)[:, :k]
    mine = np.take_along_axis(far, near, 1).max(axis=1)
    logs = dimension[near] * np.log(mine[:, None] / reach[near])
    return np.asarray(np.logaddexp.reduce(logs, axis=1) - np.log(k))
