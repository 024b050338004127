"""Group-sequential tests: looking at growing samples a few times without crying wolf more often than at one look.

A plan fixes at which sample sizes it looks and how the error is spent over them (Lan and DeMets, Biometrika 70 (1983)
659-663). Giving up is non-binding: it can only take rejections away, so the bounds of rejection need not know of it. It has bounds of its
own, so that it says something too.
Torch-free; numpy and scipy are imported where used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

Spending = Literal["pocock", "obrien-fleming"]
_REACH = 8.0  # standard deviations that the integration covers
_NODES = 200


@dataclass(frozen=True)
class GroupSequentialPlan:
    """Looks at ``sizes`` observations (increasing), one-sided error ``alpha`` over all looks together.

    ``spending``: ``pocock`` spends evenly and stops early, ``obrien-fleming`` keeps nearly all for the last look.
    """

    sizes: tuple[int, ...]
    alpha: float = 0.05
    spending: Spending = "pocock"

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"looks must be at growing sample sizes, not {self.sizes}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"a one-sided alpha lies between 0 and 0.5, not at {self.alpha}")

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Standard normal bound of each look: beyond it, reject."""
        return _bounds(tuple(size / self.sizes[-1] for size in self.sizes), self.alpha, self.spending)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The same as nominal one-sided p-values, which hold for t-tests too (Jennison and Turnbull 2000, 3.8)."""
        from scipy.special import ndtr

        return tuple(float(ndtr(-bound)) for bound in self.bounds)


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """The one-sided error that may be spent when this fraction of the sample is in."""
    from scipy.special import ndtr, ndtri

    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * fraction)
    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


@lru_cache(maxsize=64)
def _bounds(fractions: tuple[float, ...], alpha: float, spending: Spending) -> tuple[float, ...]:
    """By the recursion of Armitage, McPherson and Rowe (1969) on the score process, which has independent increments:
    ``mass`` at ``nodes`` is where the score of the paths is that have not crossed a bound yet."""
    import numpy as np
    from scipy.optimize import brentq

    abscissae, gauss = np.polynomial.legendre.leggauss(_NODES)
    bounds: list[float] = []
    before, paid = 0.0, 0.0
    nodes, mass = np.zeros(1), np.ones(1)  # all paths start at 0
    for fraction in fractions:
        spread, scale = math.sqrt(fraction - before), math.sqrt(fraction)
        due = spent(fraction, alpha, spending)
        excess = partial(_excess, nodes / spread, mass, scale / spread, due - paid)
        bound = float(brentq(excess, -_REACH, _REACH, xtol=1e-9))
        bounds.append(bound)
        low, high = -_REACH * scale, bound * scale
        new = (high - low) / 2 * abscissae + (high + low) / 2
        kernel = np.exp(-(((new[:, None] - nodes[None]) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
        mass = (kernel @ mass) * gauss * (high - low) / 2
        nodes, before, paid = new, fraction, due
    return tuple(bounds)


def _excess(nodes: NDArray, mass: NDArray, scale: float, due: float, bound: float) -> float:
    """By how much more than ``due`` of the probability crosses the bound at this look."""
    from scipy.special import ndtr

    return float(mass @ ndtr(nodes - bound * scale)) - due


@dataclass(frozen=True)
class Look:
    """What a look at the first ``n`` observations says of their mean. ``p``: one-sided, that it is above the margin."""

    n: int
    p: float
    rejects: bool  # it is above the margin
    futile: bool  # it is below the bar: shown, not only not seen
    last: bool

    @property
    def stops(self) -> bool:
        return self.rejects or self.futile or self.last


def look(values: Sequence[float], plan: GroupSequentialPlan, margin: float = 0.0, bar: float = 0.0, floor: float = 0.0) -> Look:
    """Test by t whether the mean of all values so far is above ``margin``, and whether it is below ``bar``, at the margin or above it;
    there must be as many values as one of the looks have.

    A few values say little, so that a mean at the margin is no proof that there is nothing: whoever gives up there loses many
    that lie twice as high. Each test has the plan's error over all looks; the second spends its own late (O'Brien and Fleming),
    because what is given up is not looked at again. ``floor``: the least standard deviation that is believed, so that a few equal
    values are no certainty.
    """
    import numpy as np
    from scipy.special import stdtr

    x, late = np.asarray(values, dtype=float), replace(plan, spending="obrien-fleming")
    position = plan.sizes.index(x.size)
    spread = max(float(x.std(ddof=1)) if x.size > 1 else math.inf, floor)

    def p(gain: float) -> float:
        statistic = gain * math.sqrt(x.size) / spread if spread > 0 else math.copysign(math.inf, gain) if gain else 0.0
        return float(stdtr(x.size - 1, -statistic)) if x.size > 1 else 1.0

    above, below = p(float(x.mean()) - margin), p(bar - float(x.mean()))
    rejects = above <= plan.levels[position]
    futile = not rejects and below <= late.levels[position]
    return Look(x.size, above, rejects, futile, position == len(plan.sizes) - 1)
