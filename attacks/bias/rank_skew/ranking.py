"""Group composition of the top of a ranking, against what the roles in it lead one to expect. Pure numpy.

Shapes: Q queries, n pictures, A groups (of all columns together), S strata (roles), R permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.groups import PERMUTATIONS, Grouping
from vlaudit.statistics import Interval, max_t_p, max_t_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RESAMPLES = 400
MIN_EXPECTED = 2.0  # places that a group, and that others in its roles, must be expected to take for a skew to be seen


@dataclass(frozen=True)
class Skew:
    """What is read off one arm; arrays are (Q, A), and nan where a group, or others, are not expected often enough."""

    skew: Array  # ln(share / expected)
    low: Array  # simultaneous interval
    high: Array
    share: Array
    expected: Array
    draws: Array  # (B, Q, A) excess shares, for paired differences
    value: float  # null-corrected MaxSkew, within its interval
    interval: Interval  # simultaneous
    null: Array  # (R,) MaxSkew where groups are permuted
    p: float  # max-T over queries and groups


@dataclass(frozen=True)
class Rankings:
    """The gallery as one arm ranks it: ``scores`` (Q, n) for the queries, of which the first ``k`` places are looked at."""

    queries: list[str]
    scores: Array
    gallery: Grouping
    k: int

    def left_out(self, skew: Skew | None) -> str:
        """The groups that are not compared, and those that no query is expected to show often enough."""
        import numpy as np

        groups = self.gallery.groups
        seen = [bool(np.isfinite(column).any()) for column in skew.skew.T] if skew else [False] * len(groups)
        rare = [f"{column}={value} (it or others expected in fewer than {MIN_EXPECTED:g} of {self.k} places)"
                for (column, value), found in zip(groups, seen, strict=True) if not found]  # fmt: skip
        small = self.gallery.left_out()
        return ", ".join([small] * (small != "none" or not rare) + rare)


def top_weights(scores: Array, k: int) -> Array:
    """(Q, n) chances to be among the first k; pictures that tie for the last places share them, as random orders
    would on average."""
    import numpy as np

    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > cut, scores == cut
    return above + tied * (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


def excess_shares(top: Array, membership: Array, strata: NDArray[np.int64]) -> tuple[Array, Array]:
    """Shares of the groups in the top, (..., Q, A), and the shares expected of its roles, from ``top`` (Q, n) and
    ``membership`` (..., A, n): each place is worth the group's share among the pictures of its role."""
    import numpy as np

    roles, base = _base_rates(membership, strata)
    k = top[0].sum()
    shares, expected = membership @ top.T / k, base @ (top @ roles).T / k
    return np.swapaxes(shares, -1, -2), np.swapaxes(expected, -1, -2)


def expected_others(top: Array, membership: Array, strata: NDArray[np.int64]) -> Array:
    """(Q, A) shares of the top that those who are not of a group are expected to take among the roles that it has. Where
    they are expected nowhere, the group cannot be shown too often."""
    import numpy as np

    roles, base = _base_rates(membership, strata)
    return (top @ roles) @ (np.where(base > 0, 1 - base, 0)).T / top[0].sum()


def _base_rates(membership: Array, strata: NDArray[np.int64]) -> tuple[Array, Array]:
    """The roles of the pictures, (n, S) of 0 and 1, and the groups' shares of each role, (..., A, S)."""
    import numpy as np

    roles = np.eye(int(strata.max()) + 1)[strata]
    return roles, membership @ (roles / roles.sum(axis=0))


def bootstrap_excess(ranked: Rankings, draws: int, seed: int) -> Array:
    """(B, Q, A) excess shares in galleries whose clusters are drawn anew, with the base rates drawn along."""
    import numpy as np

    scores, gallery, k = ranked.scores, ranked.gallery, ranked.k
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


def ndkl(scores: Array, members: Array) -> Array:
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


def measure(ranked: Rankings, level: float) -> Skew | None:
    """Skew of every query and group with its simultaneous interval and permutation null; None if no group is usable."""
    import numpy as np

    gallery, k = ranked.gallery, ranked.k
    top = top_weights(ranked.scores, k)
    share, expected = excess_shares(top, gallery.membership, gallery.strata)
    others = expected_others(top, gallery.membership, gallery.strata)
    usable = np.minimum(expected, others) * k >= MIN_EXPECTED
    if not usable.any():
        return None
    draws = bootstrap_excess(ranked, RESAMPLES, seed=0)
    null_share, null_expected = _permuted_shares(top, gallery)
    null = (null_share - null_expected)[:, usable]
    spread = np.maximum(draws.std(axis=0), (null_share - null_expected).std(axis=0))
    reach = max_t_quantile(null, level) * spread
    floor = 0.5 / k  # half a picture, where the share is none at all

    def ratio(shares: Array, base: Array) -> Array:
        return np.where(usable, np.log(np.clip(shares, floor, 1) / np.maximum(base, floor)), np.nan)

    skew = ratio(share, expected)
    value, largest = _corrected(skew, ratio(null_share, null_expected), gallery)
    p = min(max_t_p((share - expected)[usable], null))
    low, high = ratio(share - reach, expected), ratio(share + reach, expected)
    interval = Interval(float(np.nanmax(low)), float(np.nanmax(high)), level)
    value = min(max(value, interval.low), interval.high)
    return Skew(skew, low, high, share, expected, draws, value, interval, largest, p)


def _permuted_shares(top: Array, gallery: Grouping) -> tuple[Array, Array]:
    """Shares and expected shares, (R, Q, A) each, where groups are permuted within strata."""
    import numpy as np

    parts = [
        excess_shares(top, np.moveaxis(gallery.membership[:, part], 0, 1), gallery.strata)
        for part in np.array_split(gallery.permuted(PERMUTATIONS, seed=1), 20)  # keeps a large gallery in memory
    ]
    shares, expected = zip(*parts, strict=True)
    return np.concatenate(shares), np.concatenate(expected)


def _corrected(skew: Array, draws: Array, gallery: Grouping) -> tuple[float, Array]:
    """Null-corrected MaxSkew and its draws (R,). The largest skew of a query over the groups of a column is above 0
    without any bias: its mean over the draws is subtracted, before the largest over queries and columns is taken."""
    import numpy as np

    value, null = -np.inf, np.full(len(draws), -np.inf)
    for members in gallery.columns().values():
        asked = np.isfinite(skew[:, members]).any(axis=1)
        if asked.any():
            largest = np.nanmax(draws[:, asked][:, :, members], axis=2)  # (R, Q)
            mean = largest.mean(axis=0)
            value = max(value, float((np.nanmax(skew[asked][:, members], axis=1) - mean).max()))
            null = np.maximum(null, (largest - mean).max(axis=1))
    return value, null
