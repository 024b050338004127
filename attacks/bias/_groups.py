"""Which picture belongs to which groups, and how groups may be permuted. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS = 1000


@dataclass(frozen=True)
class Grouping:
    """Pictures and their groups. ``membership`` (A, n) is 1 where a picture belongs to a group; ``strata`` and
    ``clusters`` (n,) are codes. Pictures of one cluster share their stratum and their groups."""

    groups: list[tuple[str, str]]  # (column, value)
    membership: NDArray[np.float64]
    strata: NDArray[np.int64]
    clusters: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[str]],
        roles: Sequence[str | None],
        identities: Sequence[str],
        smallest: int,
        fewest_identities: int = 1,
    ) -> Grouping:
        """Groups of fewer than ``smallest`` pictures or ``fewest_identities`` are left out; an empty value belongs to
        no group. Roles become the strata."""
        import numpy as np

        values = {column: np.array(cells) for column, cells in columns.items()}
        groups = [
            (column, str(value))
            for column, cells in values.items()
            for value, count in zip(*np.unique(cells, return_counts=True), strict=True)
            if value and count >= smallest and len(set(np.array(identities)[cells == value])) >= fewest_identities
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

    def columns(self) -> dict[str, list[int]]:
        """Positions of the groups of every column."""
        found: dict[str, list[int]] = {}
        for position, (column, _) in enumerate(self.groups):
            found.setdefault(column, []).append(position)
        return found

    def left_out(self, columns: Mapping[str, Sequence[str]]) -> str:
        """The groups that were too small, for the report."""
        named = [(column, value) for column, cells in columns.items() for value in sorted(set(cells) - {""})]
        return ", ".join(f"{column}={value}" for column, value in named if (column, value) not in self.groups) or "none"
