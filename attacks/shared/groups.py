"""Which picture belongs to which groups, and how groups may be permuted within strata. Pure numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from vlaudit.records import BuiltIn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALIKE = 10
BUILT_IN = {
    "ALIKE": BuiltIn(
        meaning="people of the same several roles who trade groups among themselves alone in a permutation test",
        source="our choice, because fewer have few ways to trade, and what they differ by would then be taken for chance",
    ),
}


@dataclass(frozen=True)
class Grouping:
    """Pictures and their groups. ``membership`` (A, n) is 1 where a picture belongs to a group; ``strata`` and ``clusters`` (n,)
    are codes. Pictures of one cluster (a person in a role) share their stratum and their groups, and count as one picture: ``weight`` (n,).
    Those of one of ``people`` (n,) share their groups in whatever roles they are: they say less of a group than as many people would."""

    groups: list[tuple[str, str]]  # (column, value)
    membership: NDArray[np.float64]
    strata: NDArray[np.int64]
    clusters: NDArray[np.int64]
    weight: NDArray[np.float64]
    names: list[str]  # of the strata
    small: dict[str, int]  # groups that are not looked at, and how many independent pictures they have
    people: NDArray[np.int64]

    @classmethod
    def of(
        cls, columns: Mapping[str, Sequence[str]], roles: Sequence[str | None], identities: Sequence[str], least: float
    ) -> Grouping:
        """Roles become the strata; an empty value belongs to no group. Groups of fewer than ``least`` pictures, those of one
        person counted once, are kept apart."""
        import numpy as np

        names, strata = np.unique([str(role) for role in roles], return_inverse=True)
        people = np.array(identities)
        every = {(column, value): np.array(cells) == value
                 for column, cells in columns.items() for value in sorted(set(cells) - {""})}  # fmt: skip
        counts = {group: len(set(people[row])) for group, row in every.items()}
        groups = [group for group in every if counts[group] >= least]
        small = {f"{column} '{value}'": count for (column, value), count in counts.items() if count < least}
        membership = np.array([every[group] for group in groups], dtype=float).reshape(len(groups), len(people))
        keys = [repr(key) for key in zip(identities, roles, *columns.values(), strict=True)]
        clusters = np.unique(keys, return_inverse=True)[1]
        persons = np.unique([repr(key) for key in zip(identities, *columns.values(), strict=True)], return_inverse=True)[1]
        return cls(groups, membership, strata, clusters, 1 / np.bincount(clusters)[clusters], names.tolist(), small, persons)

    def permuted(self, draws: int, seed: int) -> NDArray[np.int64]:
        """(R, n): for each draw, which picture's groups every picture gets. People trade places with those of the same roles, or, where these are
        fewer than ``ALIKE``, with all of so rare roles whose first is the same."""
        import numpy as np

        first = np.unique(self.people, return_index=True)[1]
        roles: list[set[int]] = [set() for _ in first]
        for person, role in zip(self.people, self.strata, strict=True):
            roles[person].add(int(role))
        keys = [tuple(sorted(own)) for own in roles]
        count = Counter(keys)
        keys = [key if len(key) == 1 or count[key] >= ALIKE else (-1, key[0]) for key in keys]
        codes = {key: code for code, key in enumerate(sorted(set(keys)))}
        strata = np.array([codes[key] for key in keys])
        order = np.random.default_rng(seed).random((draws, len(first)))
        traded = np.empty((draws, len(first)), dtype=np.int64)
        traded[:, np.argsort(strata, kind="stable")] = np.argsort(strata + order, axis=1)
        return first[traded[:, self.people]]

    def scatter(self, parts: NDArray[np.float64]) -> float:
        """How many times the variance of a sum of ``parts`` (n,), that are 0 on average in each role, is what it were if a person in several
        roles were as many people. Never below 1."""
        import numpy as np

        alone, together = (float((np.bincount(codes, weights=parts) ** 2).sum()) for codes in (self.clusters, self.people))
        return max(1.0, together / max(alone, 1e-12))

    def columns(self) -> dict[str, list[int]]:
        """Positions of the groups of every column."""
        found: dict[str, list[int]] = {}
        for position, (column, _) in enumerate(self.groups):
            found.setdefault(column, []).append(position)
        return found

    def pairs(self) -> NDArray[np.int64]:
        """(2, P): the positions of every two groups of one column."""
        import numpy as np

        found = [pair for members in self.columns().values() for pair in combinations(members, 2)]
        return np.array(found, dtype=np.int64).reshape(len(found), 2).T

    def pair(self, first: int, second: int) -> str:
        """Two groups of a column, in words."""
        return f"{self.groups[first][0]} '{self.groups[first][1]}' and '{self.groups[second][1]}'"

    def crossed(self) -> NDArray[np.float64]:
        """(A, S) the pictures of each group in each stratum."""
        return self.sums(self.weight)

    def shared(self) -> NDArray[np.float64]:
        """(P,) of every two groups, the pictures of one that have a counterpart in the other."""
        import numpy as np

        crossed: NDArray[np.float64] = np.minimum(*self.crossed()[self.pairs()]).sum(axis=1)
        return crossed

    def in_common(self) -> NDArray[np.float64]:
        """(2, P) of every two groups, what share of the pictures of each is of strata that both have."""
        import numpy as np

        sizes = self.crossed()[self.pairs()]
        common: NDArray[np.float64] = (sizes * (sizes.min(axis=0) > 0)).sum(axis=2) / np.maximum(sizes.sum(axis=2), 1e-9)
        return common

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(A, S) of ``values`` (n,) over the pictures of each group in each stratum."""
        import numpy as np

        return (self.membership * values) @ np.eye(len(self.names))[self.strata]

    def left_out(self) -> list[str]:
        """The groups that are too small to be looked at, for a sentence."""
        return [f"{name} ({count} pictures)" for name, count in self.small.items()]


def crossed(columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Group columns, and their intersection where there are several: what is done to dark women may cancel in women and in the dark."""
    if len(columns) < 2:
        return dict(columns)
    rows = zip(*columns.values(), strict=True)
    return {**columns, " and ".join(columns): [" and ".join(row) if all(row) else "" for row in rows]}


def listed(names: Sequence[str]) -> str:
    """The first of them, for a sentence."""
    return ", ".join(names[:8]) + " …" * (len(names) > 8)
