"""How often two groups are picked for the top of a ranking, among the pictures of the same roles. Pure numpy.

Shapes: Q queries, n pictures, A groups (of all columns together), P pairs of groups of one column, S roles, R permutations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.groups import Grouping
from vlaudit.probe import BuiltIn
from vlaudit.statistics import Interval
from vlaudit.statistics.rates import JEFFREYS, clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PERMUTATIONS = 100
WIDEST = math.log(1000)  # a ratio without end, on paper
UNPICKED = 4.0
BUILT_IN = {
    "UNPICKED": BuiltIn(
        meaning="pictures beside those of a role, in the upper end of a ratio of selection rates, where the role has an end",
        source="our choice, because a role whose pictures are all picked is no ratio at all, and four keep the interval from being a point",
    ),
}


@dataclass(frozen=True)
class Rates:
    """Selection-rate ratios of an arm, on the log scale; (Q, P) each, above 0 where the first group is picked more often."""

    pairs: NDArray[np.int64]  # (2, P)
    ratio: Array  # Mantel-Haenszel, within roles
    ends: tuple[Array, Array]  # of each alone
    low: Array  # of its size: simultaneous over all queries and pairs
    high: Array  # of its size, of each alone
    known: NDArray[np.bool_]  # whether both groups have pictures in a role that reaches the top
    worst: tuple[int, int]  # the query and the pair that are furthest apart beyond doubt
    interval: Interval
    p: float
    share: Array  # (Q, A) of the top
    expected: Array  # (Q, A) if each place went to the groups as the pictures of its role are divided


def top_weights(scores: Array, k: int) -> Array:
    """(Q, n) chances to be among the first k; pictures that tie for the last places share them, as random orders
    would on average."""
    import numpy as np

    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > cut, scores == cut
    return above + tied * (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


def by_chance(scores: Array, k: int) -> Array:
    """(Q,) how many of the first k places pictures tie for that do not all fit in."""
    import numpy as np

    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = (scores > cut).sum(axis=1), (scores == cut).sum(axis=1)
    return np.where(above + tied > k, k - above, 0)


def measure(top: Array, gallery: Grouping, level: float, least: float = 0.0, *, by_role: bool = False) -> Rates:
    """The ratios with their intervals. Of the places that two groups take, weighted so that a role counts for both alike, one group
    has a binomial share of an effective number. Of two groups of which one is to be expected in fewer than ``least`` places nothing is known.
    ``by_role``: the places of each role by themselves; Q is then Q * S, the roles of the first query first."""
    import numpy as np

    def whole(parts: Array) -> Array:
        """(Q, ...) of what roles (Q, ..., S) add up to, or of each."""
        return np.moveaxis(parts, 2, 1).reshape(-1, parts.shape[1]) if by_role else parts.sum(axis=2)

    pairs, sizes = gallery.pairs(), gallery.crossed()
    roles = np.eye(len(gallery.names))[gallery.strata]
    picked = _picked(top * gallery.weight, gallery.membership, roles)
    (a, b), m = np.moveaxis(picked[:, pairs], 1, 0), sizes[pairs]  # (Q, P, S) each, (2, P, S)
    n = np.maximum(m.sum(axis=0), 1)
    first, second = whole(a * m[1] / n), whole(b * m[0] / n)
    both, chance = first + second, whole((a + b) * m.prod(axis=0) / n**2)
    taken = ((top * gallery.weight) @ roles)[:, None]  # (Q, 1, S)
    expected = whole(taken * (sizes / (gallery.weight @ roles)))
    known = (chance > 1e-9) & (expected[:, pairs].min(axis=1) >= least)
    scatter: Array | float = 1.0 if by_role else _scatter(top, gallery, pairs)  # in one role a person counts as one

    def places(spread: Array) -> Array:
        return np.where(known, both**2 / np.maximum(spread * scatter, 1e-9), 0)

    share = np.where(known, first / np.maximum(both, 1e-9), 0.5)
    few = places(chance)  # as if the roles had no end: the more cautious for an alarm
    many = places(chance - whole(a * b / (n + UNPICKED)))  # a role whose pictures are all picked is no ratio at all
    tests = max(int(known.sum()), 1)
    sure, likely = (_log_odds(few, share, (1 - level) / 2 / tests), _log_odds(many, share, (1 - level) / 2))
    low = np.where(known, np.maximum(np.maximum(sure[0], -sure[1]), 0), 0)
    high = np.maximum(np.maximum(likely[1], -likely[0]), low)
    half = JEFFREYS / (few + 1)  # where a group has no place
    ratio = _logit(np.clip(share, half, 1 - half))
    row, pair = np.unravel_index(int(np.lexsort((np.abs(np.where(known, ratio, 0)).ravel(), low.ravel()))[-1]), low.shape)
    interval = Interval(float(low[row, pair]), float(high[known].max(initial=0)), level)
    total = np.maximum(whole(taken), 1e-12)
    return Rates(
        pairs, ratio, likely, low, high, known, (int(row), int(pair)), interval, _p(few, share, known, tests), whole(picked) / total, expected / total,
    )


def _picked(top: Array, membership: Array, roles: Array) -> Array:
    """(Q, A, S) places of the top by group and role; only the pictures that have a part in it are looked at."""
    import numpy as np

    found = np.zeros((len(top), len(membership), roles.shape[1]))
    for query, row in enumerate(top):
        inside = np.flatnonzero(row)
        found[query] = (membership[:, inside] * row[inside]) @ roles[inside]
    return found


def _scatter(top: Array, gallery: Grouping, pairs: NDArray[np.int64]) -> Array:
    """(Q, P) how many times the variance of two groups' places is what it were if people in several roles were as many people."""
    import numpy as np

    found = np.ones((len(top), pairs.shape[1]))
    if len(set(gallery.people)) == len(set(gallery.clusters)):
        return found
    strata, whole = gallery.strata, gallery.crossed()
    for j, (first, second) in enumerate(pairs.T):
        members, (m1, m0) = (gallery.membership[first] + gallery.membership[second]) * gallery.weight, whole[[first, second]]
        n = np.maximum(m1 + m0, 1e-9)
        for i, row in enumerate(top):
            rate = np.bincount(strata, weights=row * members, minlength=len(n)) / n
            found[i, j] = gallery.scatter(members * (row - rate[strata]) * (np.sqrt(m1 * m0) / n)[strata])
    return found


def _logit(share: Array) -> Array:
    import numpy as np

    inner = np.clip(share, 1e-12, 1 - 1e-12)
    return np.clip(np.log(inner / (1 - inner)), -WIDEST, WIDEST)


def _log_odds(places: Array, share: Array, tail: float) -> tuple[Array, Array]:
    low, high = clopper_pearson(places * share, places, tail)
    return _logit(low), _logit(high)


def _p(places: Array, share: Array, known: NDArray[np.bool_], tests: int) -> float:
    """That two groups are picked alike, for the clearest query and pair: exact for a binomial share of one half, times the tests."""
    import numpy as np
    from scipy.special import betainc

    most = (places * np.maximum(share, 1 - share))[known]
    tail = betainc(np.maximum(most, 1e-9), (places[known] - most) + 1, 0.5)
    return float(min(1.0, 2 * tests * tail.min(initial=1)))


def permuted(top: Array, gallery: Grouping) -> Array:
    """(2, R) the ``largest`` ratio and unevenness where groups are permuted within roles."""
    import numpy as np

    draws = gallery.permuted(PERMUTATIONS, seed=1)
    return np.array([largest(top, gallery, gallery.membership[:, draw])[:2] for draw in draws]).T


def largest(top: Array, gallery: Grouping, membership: Array) -> tuple[float, float, float]:
    """Over all queries and pairs: of the ratio, on the log scale, with half a place more for every group, and of how far its groups differ within
    roles, to either side: the squares of what they differ by in each role, beyond those of chance, in its deviations. Last, the root mean square
    of the roles' ratios of the most uneven query and pair, on the log scale, as if the groups were alike in size."""
    import numpy as np

    pairs, whole = gallery.pairs(), gallery.crossed()
    roles = np.eye(len(gallery.names))[gallery.strata]
    m = whole[pairs]
    n = np.maximum(m.sum(axis=0), 1)
    a, b = np.moveaxis(_picked(top * gallery.weight, membership, roles)[:, pairs], 1, 0)
    first, second, each = a * m[1] / n, b * m[0] / n, (a + b) * m.prod(axis=0) / n**2  # ``each``: the variance of a role's difference
    half = JEFFREYS * each.sum(axis=2) / np.maximum((a + b).sum(axis=2), 1)
    odds = np.abs(np.log(np.maximum(first.sum(axis=2) + half, 1e-9) / np.maximum(second.sum(axis=2) + half, 1e-9)))
    beyond, squared = ((first - second) ** 2 - each).sum(axis=2), np.maximum((each**2).sum(axis=2), 1e-9)
    most = np.unravel_index(int((beyond / squared**0.5).argmax()), beyond.shape)
    slope = min(max(float(beyond[most] / squared[most]), 0) ** 0.5 / 2, 1 - 1e-9)  # (ratio - 1) / (ratio + 1)
    return float(odds.max()), float(beyond[most] / squared[most] ** 0.5), min(2 * math.atanh(slope), WIDEST)


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


def skews(share: Array, expected: Array, k: int) -> tuple[float, float]:
    """MaxSkew and MinSkew of one query: the largest and smallest log ratio of a group's share (A,) to its expected share."""
    import numpy as np

    inside = expected > 0
    logs = np.log(np.maximum(share[inside], JEFFREYS / k) / expected[inside])
    return float(logs.max()), float(logs.min())


def times(log_ratio: float) -> str:
    """A ratio in words, from its logarithm."""
    return f"{math.exp(log_ratio):.1f} times" if log_ratio < WIDEST else "any number of times"
