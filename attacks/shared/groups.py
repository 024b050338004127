"""Which picture belongs to which groups, and how groups may be permuted within strata. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS = 1000


@dataclass(frozen=True)
class Grouping:
    """Pictures and their groups. ``membership`` (A, n) is 1 where a picture belongs to a group and there are others to
    compare it with in its stratum; ``strata`` and ``clusters`` (n,) are codes. Pictures of one cluster share their stratum
    and their groups."""

    groups: list[tuple[str, str]]  # (column, value)
    membership: NDArray[np.float64]
    strata: NDArray[np.int64]
    clusters: NDArray[np.int64]
    sizes: dict[tuple[str, str], tuple[int, int]]  # of every group: its pictures, and those that can be compared

    @classmethod
    def of(
        cls, columns: Mapping[str, Sequence[str]], roles: Sequence[str | None], identities: Sequence[str], smallest: int,
        fewest_identities: int = 1, *, among_groups: bool = False,
    ) -> Grouping:  # fmt: skip
        """Roles become the strata, and an empty value belongs to no group. A stratum that one group has alone says nothing
        of how groups differ: pictures in it count for nothing, and elsewhere no more of a group's pictures count than there
        are others in the stratum. Others are all pictures that are not the group's, or with ``among_groups`` those of other
        groups. Groups of fewer than ``smallest`` such pictures, or ``fewest_identities``, are left out.
        """
        import numpy as np

        strata = np.unique([str(role) for role in roles], return_inverse=True)[1]
        people = np.array(identities)
        groups: list[tuple[str, str]] = []
        rows: list[NDArray[np.bool_]] = []
        sizes: dict[tuple[str, str], tuple[int, int]] = {}
        for column, cells in columns.items():
            own = {value: np.array(cells) == value for value in sorted(set(cells) - {""})}
            kept = list(own)
            while True:  # a group that is left out is nothing to compare the others with
                rest = np.any([own[value] for value in kept], axis=0) if among_groups and kept else np.ones(len(people), bool)
                compared = {value: _compared(own[value], rest, strata) for value in kept}
                sizes |= {(column, value): (int(own[value].sum()), count) for value, (_, count) in compared.items()}
                enough = [value for value, (row, count) in compared.items()
                          if count >= smallest and len(set(people[row])) >= fewest_identities]  # fmt: skip
                if enough == kept:
                    break
                kept = enough
            groups += [(column, value) for value in kept]
            rows += [compared[value][0] for value in kept]
        keys = [repr(key) for key in zip(identities, roles, *columns.values(), strict=True)]
        membership = np.array(rows, dtype=float).reshape(len(groups), len(roles))
        return cls(groups, membership, strata, np.unique(keys, return_inverse=True)[1], sizes)

    def permuted(self, draws: int, seed: int) -> NDArray[np.int64]:
        """(R, n): for each draw, which picture's groups every picture gets. Clusters trade places within strata."""
        import numpy as np

        first = np.unique(self.clusters, return_index=True)[1]
        strata = self.strata[first]
        keys = np.random.default_rng(seed).random((draws, len(first)))
        traded = np.empty((draws, len(first)), dtype=np.int64)
        traded[:, np.argsort(strata, kind="stable")] = np.argsort(strata + keys, axis=1)
        return first[traded[:, self.clusters]]

    def columns(self) -> dict[str, list[int]]:
        """Positions of the groups of every column."""
        found: dict[str, list[int]] = {}
        for position, (column, _) in enumerate(self.groups):
            found.setdefault(column, []).append(position)
        return found

    def left_out(self) -> str:
        """The groups that are not compared and how many of their pictures could be, for the report."""
        named = [
            f"{column}={value} ({count} of {size} pictures can be compared)"
            for (column, value), (size, count) in self.sizes.items()
            if (column, value) not in self.groups
        ]
        return ", ".join(named) or "none"

    def apart(self, smallest: int) -> list[str]:
        """The groups that have enough pictures, but too few that can be compared."""
        return [
            f"{column} '{value}'"
            for (column, value), (size, _) in self.sizes.items()
            if size >= smallest and (column, value) not in self.groups
        ]

    def strangers(self) -> list[str]:
        """Pairs of groups of one column that have no stratum in common."""
        names = {i: value for i, (_, value) in enumerate(self.groups)}
        at = {i: set(self.strata[self.membership[i] > 0].tolist()) for i in names}
        return [
            f"{column} '{names[first]}' and '{names[second]}'"
            for column, members in self.columns().items()
            for first, second in combinations(members, 2)
            if not at[first] & at[second]
        ]


def listed(names: Sequence[str]) -> str:
    """The first of them, for a sentence."""
    return ", ".join(names[:8]) + " …" * (len(names) > 8)


def _compared(own: NDArray[np.bool_], rest: NDArray[np.bool_], strata: NDArray[np.int64]) -> tuple[NDArray[np.bool_], int]:
    """(n,) a group's pictures in strata that hold others too, and how many of them have another as their counterpart."""
    import numpy as np

    count = int(strata.max()) + 1
    mine, others = np.bincount(strata[own], minlength=count), np.bincount(strata[rest & ~own], minlength=count)
    return own & (others > 0)[strata], int(np.minimum(mine, others).sum())
