"""Group composition of the top of a ranking, against what the roles in it lead one to expect. Pure numpy.

Shapes: Q queries, n pictures, A groups (of all columns together), S strata (roles), R permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.bias._groups import PERMUTATIONS, Grouping

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 400
MIN_EXPECTED = 2.0  # places a group must be expected to take in the top for its skew to mean anything


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
    scores: NDArray[np.float64], gallery: Grouping, k: int, draws: int, seed: int
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


def measure(scores: NDArray[np.float64], gallery: Grouping, k: int, level: float) -> Skew:
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


def permutation_null(
    scores: NDArray[np.float64], gallery: Grouping, k: int, skew: Skew
) -> tuple[float, NDArray[np.float64], float]:
    """Null-corrected MaxSkew, its draws (R,) where groups are permuted within strata, and its max-T p-value.

    The largest skew of a query over the groups of a column is above 0 without any bias: its mean over the permutations
    is subtracted from it, query by query and column by column, before the largest of all is taken.
    """
    import numpy as np

    from vlaudit.statistics import max_t_p

    usable = np.isfinite(skew.skew)
    top = top_weights(scores, k)
    shares, expected = [], []
    for part in np.array_split(gallery.permuted(PERMUTATIONS, seed=1), 20):  # keeps a large gallery in memory
        share, base = excess_shares(top, np.moveaxis(gallery.membership[:, part], 0, 1), gallery.strata)
        shares.append(share)
        expected.append(base)
    share, base = np.concatenate(shares), np.concatenate(expected)
    draws = np.where(usable, np.log(np.maximum(share, 0.5 / k) / np.maximum(base, 1e-9)), -np.inf)
    observed = np.where(usable, skew.skew, -np.inf)
    corrected, null = -np.inf, np.full(PERMUTATIONS, -np.inf)
    for members in gallery.columns().values():
        asked = usable[:, members].any(axis=1)
        if asked.any():
            largest = draws[:, asked][:, :, members].max(axis=2)  # (R, Q)
            mean = largest.mean(axis=0)
            corrected = max(corrected, float((observed[asked][:, members].max(axis=1) - mean).max()))
            null = np.maximum(null, (largest - mean).max(axis=1))
    p = min(max_t_p((skew.share - skew.expected)[usable], (share - base)[:, usable]))
    return corrected, null, p
