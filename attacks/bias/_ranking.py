"""Group composition of the top of a ranking, against what the roles in it lead one to expect. Pure numpy.

Shapes: Q queries, n pictures, A groups (of all columns together), S strata (roles), R permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS, RESAMPLES = 1000, 400
MIN_EXPECTED = 2.0  # places a group must be expected to take in the top for its skew to mean anything


@dataclass(frozen=True)
class Gallery:
    """The ranked pictures. ``membership`` (A, n) is 1 where a picture belongs to a group; ``strata`` and ``clusters``
    (n,) are codes. Pictures of one cluster share their stratum and their groups."""

    groups: list[tuple[str, str]]  # (column, value)
    membership: NDArray[np.float64]
    strata: NDArray[np.int64]
    clusters: NDArray[np.int64]

    @classmethod
    def of(
        cls, columns: dict[str, Sequence[str]], roles: Sequence[str | None], identities: Sequence[str], smallest: int
    ) -> Gallery:
        """Groups of fewer than ``smallest`` pictures are left out; an empty value belongs to no group."""
        import numpy as np

        values = {column: np.array(cells) for column, cells in columns.items()}
        groups = [
            (column, str(value))
            for column, cells in values.items()
            for value, count in zip(*np.unique(cells, return_counts=True), strict=True)
            if value and count >= smallest
        ]
        membership = np.array([values[column] == value for column, value in groups], dtype=float)
        keys = [repr(key) for key in zip(identities, roles, *columns.values(), strict=True)]
        return cls(
            groups,
            membership.reshape(len(groups), len(roles)),
            np.unique([str(role) for role in roles], return_inverse=True)[1],
            np.unique(keys, return_inverse=True)[1],
        )

    def permuted(self, draws: int, seed: int) -> NDArray[np.int64]:
        """(R, n): for each draw, which picture's groups every picture gets. Clusters trade places within strata."""
        import numpy as np

        first = np.unique(self.clusters, return_index=True)[1]
        strata = self.strata[first]
        keys = np.random.default_rng(seed).random((draws, len(first)))
        traded = np.empty((draws, len(first)), dtype=np.int64)
        traded[:, np.argsort(strata, kind="stable")] = np.argsort(strata + keys, axis=1)
        return first[traded[:, self.clusters]]


@dataclass(frozen=True)
class Skew:
    """What the judge reads off one arm; arrays are (Q, A), and nan where a group is not expected often enough."""

    skew: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    share: NDArray[np.float64]
    expected: NDArray[np.float64]
    error: NDArray[np.float64]  # of the skew, from the bootstrap
    draws: NDArray[np.float64]  # (B, Q, A), for paired differences


def top_weights(scores: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(Q, n) chances to be among the first k; pictures that tie for the last places share them, as random orders
    would on average."""
    import numpy as np

    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > cut, scores == cut
    return above + tied * (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


def excess_shares(
    top: NDArray[np.float64], membership: NDArray[np.float64], strata: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the groups in the top, (..., Q, A), and the shares expected of its roles, from ``top`` (Q, n) and
    ``membership`` (..., A, n): each place is worth the group's share among the pictures of its role."""
    import numpy as np

    roles = np.eye(int(strata.max()) + 1)[strata]  # (n, S)
    k = top[0].sum()
    base = membership @ (roles / roles.sum(axis=0))  # (..., A, S)
    shares, expected = membership @ top.T / k, base @ (top @ roles).T / k
    return np.swapaxes(shares, -1, -2), np.swapaxes(expected, -1, -2)


def bootstrap_excess(
    scores: NDArray[np.float64], gallery: Gallery, k: int, draws: int, seed: int
) -> NDArray[np.float64]:
    """(B, Q, A) excess shares in galleries whose clusters are drawn anew, with the base rates drawn along."""
    import numpy as np

    rng = np.random.default_rng(seed)
    count = int(gallery.clusters.max()) + 1
    weights = rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, gallery.clusters].astype(float)
    roles = np.eye(int(gallery.strata.max()) + 1)[gallery.strata]
    sizes = np.maximum(weights @ roles, 1e-9)  # (B, S)
    base = np.stack([(weights * row) @ roles / sizes for row in gallery.membership], axis=1)  # (B, A, S)
    ties = rng.random(scores.shape[1])
    excess = np.empty((draws, len(scores), len(gallery.groups)))
    for query, row in enumerate(scores):
        order = np.lexsort((ties, -row))
        w = weights[:, order]
        inside = np.clip(k - (np.cumsum(w, axis=1) - w), 0, w)
        total = np.maximum(inside.sum(axis=1, keepdims=True), 1)
        expected = np.einsum("bas,bs->ba", base, inside @ roles[order])
        excess[:, query] = (inside @ gallery.membership[:, order].T - expected) / total
    return excess


def ndkl(scores: NDArray[np.float64], members: NDArray[np.float64]) -> NDArray[np.float64]:
    """NDKL (Geyik et al. 2019) of one ranking (n,) for group memberships (..., G, n) that divide the gallery: the
    divergence of every prefix from the gallery, discounted by 1 / log2(position + 1)."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    places = np.arange(1, len(order) + 1)
    prefix = np.cumsum(members[..., order], axis=-1) / places
    whole = members.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(prefix > 0, prefix * np.log(prefix / whole), 0).sum(axis=-2)
    discount = 1 / np.log2(places + 1)
    return (divergence * discount).sum(axis=-1) / discount.sum()


def measure(scores: NDArray[np.float64], gallery: Gallery, k: int, level: float) -> Skew:
    """Skew of every query and group with its simultaneous interval."""
    import numpy as np
    from scipy.stats import norm

    from vlaudit.statistics import rate_interval

    top = top_weights(scores, k)
    share, expected = excess_shares(top, gallery.membership, gallery.strata)
    usable = expected * k >= MIN_EXPECTED
    each = 1 - (1 - level) / max(int(usable.sum()), 1)
    draws = bootstrap_excess(scores, gallery, k, RESAMPLES, seed=0)
    reach = norm.ppf((1 + each) / 2) * draws.std(axis=0)
    distinct = np.array([len(np.unique(gallery.clusters[row > 0])) for row in top])
    exact = np.array([
        [rate_interval(min(round(p * d), d), d, each).low for p in row] for row, d in zip(share, distinct, strict=True)
    ])  # fmt: skip
    floor = 0.5 / k  # half a picture, where the share is none at all
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = [np.log(np.clip(x, floor, 1) / expected) for x in (
            share, np.minimum(share - reach, exact), np.maximum(share + reach, share + 1 / distinct[:, None])
        )]  # fmt: skip
        skew, low, high = (np.where(usable, x, np.nan) for x in ratio)
        error = np.where(usable, draws.std(axis=0) / np.maximum(share, floor), np.nan)
    return Skew(skew, np.minimum(low, skew), np.maximum(high, skew), share, expected, error, draws)


def null_draws(
    scores: NDArray[np.float64], gallery: Gallery, k: int, skew: Skew
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    """Observed excess shares (K,) with their permutation draws (R, K), and the draws of MaxSkew (R,)."""
    import numpy as np

    usable = np.isfinite(skew.skew)
    top = top_weights(scores, k)
    traded = gallery.permuted(PERMUTATIONS, seed=1)
    excess, largest = [], []
    for part in np.array_split(traded, 20):  # keeps the memory of a large gallery in bounds
        share, expected = excess_shares(top, np.moveaxis(gallery.membership[:, part], 0, 1), gallery.strata)
        excess.append((share - expected)[:, usable])
        largest.append(np.log(np.maximum(share[:, usable], 0.5 / k) / expected[:, usable]).max(axis=1))
    return ((skew.share - skew.expected)[usable], np.concatenate(excess)), np.concatenate(largest)
