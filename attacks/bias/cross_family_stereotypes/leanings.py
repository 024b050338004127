"""How far two targets favour the same groups under the same labels, and how sure that is. Pure numpy.

A *rate* is what a target does with a group under a label: a reader reads so large a share of the group's pictures rightly, a
pipeline draws the group in so large a share of its pictures. Of V groups with rates a under one target and b under another,
the *shared lean* of a label is V / (V - 1) times the sum of (a - mean a)(b - mean b): for two groups the product of the two gaps.
0 where either target treats the groups alike, or where they lean apart at random; 1 where both know one group alone; below 0 where
they favour different groups.

Shapes: L labels, V groups, T readers, R draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.statistics.rates import JEFFREYS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS = 16_000


@dataclass(frozen=True)
class Rates:
    """What a target does with the groups of one label."""

    groups: tuple[str, ...]
    value: Array  # (V,)
    draws: Array  # (R, V), what the rates may be
    people: Sequence[Array] = ()  # of a reader, by group: the share (n,) of each person's pictures that are read rightly

    def of(self, groups: Sequence[str]) -> Rates:
        """The same of some of the groups."""
        places = [self.groups.index(group) for group in groups]
        people = [self.people[i] for i in places] if self.people else ()
        return Rates(tuple(groups), self.value[places], self.draws[:, places], people)


def reader_rates(cells: Mapping[str, Mapping[str, Array]], seed: int, draws: int = DRAWS) -> list[dict[str, Rates]]:
    """The rates of T readers of the same pictures, by label. ``cells``: by label and group, the shares (n, T) of each person's
    pictures that are read rightly. Draws are a Bayesian bootstrap over people, the same for all readers, beside Jeffreys's prior."""
    import numpy as np

    rng, count = np.random.default_rng(seed), next(iter(next(iter(cells.values())).values())).shape[1]
    found: list[dict[str, Rates]] = [{} for _ in range(count)]
    for label, groups in cells.items():
        by_group = []
        for rows in groups.values():
            kinds, times = np.unique(rows, axis=0, return_counts=True)
            weights = rng.standard_gamma(times.astype(float), size=(draws, len(times)))
            right, wrong = (rng.standard_gamma(JEFFREYS, size=(draws, count)) for _ in range(2))
            by_group.append((weights @ kinds + right) / (weights.sum(axis=1, keepdims=True) + right + wrong))
        drawn = np.stack(by_group, axis=-1)  # (R, T, V)
        for t, of in enumerate(found):
            people = [rows[:, t] for rows in groups.values()]
            of[label] = Rates(tuple(groups), np.array([each.mean() for each in people]), drawn[:, t], people)
    return found


def shared(a: Array, b: Array) -> Array:
    """The shared lean (...) of rates (..., V)."""
    groups = a.shape[-1]
    centred = (a - a.mean(axis=-1, keepdims=True)) * (b - b.mean(axis=-1, keepdims=True))
    lean: Array = centred.sum(axis=-1) * groups / (groups - 1)
    return lean


def both_err(a: Sequence[Array], b: Sequence[Array]) -> float:
    """What readers of the same people (n,) in each of V groups are expected to share by chance: the covariances of their means."""
    import numpy as np

    return sum(float(np.cov(x, y)[0, 1]) / len(x) for x, y in zip(a, b, strict=True) if len(x) > 1)


@dataclass(frozen=True)
class Row:
    """The shared lean of two targets under one label, or on average over all labels that both have (``label`` is None)."""

    label: str | None
    value: float
    draws: Array  # (R,), centred at the value

    def low(self, level: float, many: int) -> float:
        """The lower end, where ``many`` hold together (Bonferroni)."""
        import numpy as np

        return min(self.value, float(np.quantile(self.draws, (1 - level) / 2 / many)))

    def high(self, level: float) -> float:
        import numpy as np

        return max(self.value, float(np.quantile(self.draws, (1 + level) / 2)))

    @property
    def p(self) -> float:
        """One-sided: the share of draws that are no lean at all."""
        return float(((self.draws <= 0).sum() + 1) / (len(self.draws) + 1))


def rows_of(a: Mapping[str, Rates], b: Mapping[str, Rates]) -> list[Row]:
    """The average first, then each label under which both have two groups or more."""
    import numpy as np

    rows = []
    for label, mine, theirs in both(a, b):
        value = float(shared(mine.value, theirs.value))
        if mine.people and theirs.people:
            value -= both_err(mine.people, theirs.people)
        draws = shared(mine.draws, theirs.draws)
        rows.append(Row(label, value, draws - draws.mean() + value))
    if not rows:
        return []
    mean = Row(None, float(np.mean([row.value for row in rows])), np.mean([row.draws for row in rows], axis=0))
    return [mean, *rows]


def both(a: Mapping[str, Rates], b: Mapping[str, Rates]) -> Iterator[tuple[str, Rates, Rates]]:
    """The labels that two targets share, with the groups that they share there."""
    for label in (label for label in a if label in b):
        groups = [group for group in a[label].groups if group in b[label].groups]
        if len(groups) > 1:
            yield label, a[label].of(groups), b[label].of(groups)


def elsewhere(a: Mapping[str, Rates], b: Mapping[str, Rates], seed: int, draws: int = 1_000) -> Array:
    """(draws,) average shared leans where each label of one target is held against another of the other's: what a liking for one group
    that has nothing to do with the label comes to. Over the labels under which both have all groups; empty for fewer than two."""
    import numpy as np

    found = [(mine, theirs) for _, mine, theirs in both(a, b)]
    widest = max((len(mine.groups) for mine, _ in found), default=0)
    found = [pair for pair in found if len(pair[0].groups) == widest]
    if not found[1:]:
        return np.zeros(0)
    mine, theirs = (np.array([rates.value for rates in side]) for side in zip(*found, strict=True))
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(found)), (draws, 1)), axis=1)
    return shared(mine, theirs[order]).mean(axis=-1)
