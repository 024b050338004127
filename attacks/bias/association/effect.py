"""The effect size of an association between groups of pictures and two sets of words, and what chance makes of it. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlaudit.attacks.shared.groups import Grouping

DRAWS, DIVISIONS = 499, 1999


@dataclass(frozen=True)
class Effects:
    """For every set of words and every two groups: ``size`` (T, P), its standard ``error``, and which of them are ``known``. ``scale`` (P,): what
    the error of no effect is, by which sizes of unequal groups are compared. ``deviation`` (T,): that of the scores within roles. ``roles`` (T, P, S)
    and ``role_error``: the same of each role, which has ``worth`` (P, S) of the whole; 0 where one group lacks it."""

    size: NDArray[np.float64]
    error: NDArray[np.float64]
    known: NDArray[np.bool_]
    scale: NDArray[np.float64]
    deviation: NDArray[np.float64]
    roles: NDArray[np.float64]
    role_error: NDArray[np.float64]
    worth: NDArray[np.float64]

    def along(self, pattern: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """(T, P): the mean of the roles' sizes, each times its place of ``pattern`` (..., S)."""
        mean: NDArray[np.float64] = (self.roles * self.worth * pattern).sum(axis=-1)
        return mean

    def spread(self) -> NDArray[np.float64]:
        """(T, P): the root mean square of the roles' sizes, in which ties of two signs do not cancel."""
        return self.along(self.roles) ** 0.5


def effects(scores: NDArray[np.float64], gallery: Grouping, membership: NDArray[np.float64] | None = None) -> Effects:
    """WEAT's d of ``scores`` (T, n): the difference of two groups' mean scores within roles, the roles weighed as Mantel and Haenszel do,
    over the standard deviation within roles. Its error is that of Hedges and Olkin for as many pictures as the weights are worth."""
    import numpy as np

    strata = np.eye(len(gallery.names))[gallery.strata]  # (n, S)
    weight, members = gallery.weight, gallery.membership if membership is None else membership
    counts = (members * weight) @ strata  # (A, S)
    roles = weight @ strata
    means = (scores * weight) @ strata / np.maximum(roles, 1e-12)  # (T, S)
    rest = scores - means @ strata.T
    deviation = np.sqrt((rest**2 * weight).sum(axis=1) / max(float(roles.sum()) - len(roles), 1.0))  # (T,)
    cells = (members[:, None] * strata.T).reshape(-1, len(weight))  # (A * S, n)
    sums = ((rest * weight) @ cells.T).reshape(len(scores), *counts.shape)
    first, second = gallery.pairs()
    a, b = counts[first], counts[second]  # (P, S)
    worth = np.where((a > 0) & (b > 0), a * b / np.maximum(a + b, 1e-12), 0.0)
    gap = sums[:, first] / np.maximum(a, 1e-12) - sums[:, second] / np.maximum(b, 1e-12)
    total = worth.sum(axis=1)  # (P,)
    known = (total > 0) & (deviation[:, None] > 1e-9)
    by_role = np.where(known[..., None] & (worth > 0), gap / np.maximum(deviation[:, None, None], 1e-12), 0.0)
    size = (by_role * worth).sum(axis=2) / np.maximum(total, 1e-12)
    pictures = ((a + b) * (worth > 0)).sum(axis=1)
    error = np.sqrt(1 / np.maximum(total, 1e-12) + size**2 / (2 * np.maximum(pictures, 1e-12)))
    role_error = np.sqrt(1 / np.maximum(worth, 1e-12) + by_role**2 / (2 * np.maximum(a + b, 1e-12)))
    share = worth / np.maximum(total, 1e-12)[:, None]
    return Effects(size, error, known, 1 / np.sqrt(np.maximum(total, 1e-12)), deviation, by_role, role_error, share)


def permuted(scores: NDArray[np.float64], gallery: Grouping) -> NDArray[np.float64]:
    """(2, R, T, P): the sizes, and the root mean squares over roles, where groups are permuted within roles."""
    import numpy as np

    draws = (effects(scores, gallery, gallery.membership[:, draw]) for draw in gallery.permuted(DRAWS, seed=1))
    return np.array([(found.size, found.spread()) for found in draws]).swapaxes(0, 1)


def divided(words: NDArray[np.float64], first: int, gallery: Grouping) -> NDArray[np.float64]:
    """(2, R, P): the groups' differences, and their root mean squares over roles, where the words (W, n), of which the ``first`` are one set,
    are divided into two sets of these sizes at random, in standard deviations of the scores of the sets as they are."""
    import numpy as np

    rng = np.random.default_rng(2)
    orders = np.array([rng.permutation(len(words)) for _ in range(DIVISIONS)])
    signs = np.full((DIVISIONS, len(words)), -1 / (len(words) - first))
    np.put_along_axis(signs, orders[:, :first], 1 / first, axis=1)
    whole = effects((words[:first].mean(axis=0) - words[first:].mean(axis=0))[None], gallery).deviation
    found = effects(words, gallery)  # what words differ by between groups adds up to what divisions do
    signs = signs * found.deviation / np.maximum(whole, 1e-12)
    squares = sum(share * (signs @ roles) ** 2 for share, roles in zip(found.worth.T, np.moveaxis(found.roles, 2, 0), strict=True))
    return np.array([signs @ found.size, np.sqrt(squares)])
