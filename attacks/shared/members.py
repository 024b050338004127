"""Who is a member: both sides of a split, what a trial holds of a picture, and trials as independent units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.blind_baseline import blind_features
from vlaudit.data.example import Example
from vlaudit.probe import Context
from vlaudit.records import Trial

if TYPE_CHECKING:
    from vlaudit.statistics.roc import Sides


def require_sides(ctx: Context, sides: Sequence[Sequence[Example]], least: int) -> None:
    """Raise NotAssessed where there are fewer than ``least`` members, or non-members, of their own."""
    for side, name in zip(sides, ("members", "non-members"), strict=True):
        ctx.require(len({example.attributes.get("identity") or example.id for example in side}), least, name)


def both_sides(ctx: Context, pool: Sequence[Example], limit: int, least: int) -> list[Example]:
    """At most ``limit`` members and as many non-members, in the order of the pool; as many as the budget affords. Raises NotAssessed for
    fewer than ``least``."""
    kept: list[int] = []
    sides = [[i for i, example in enumerate(pool) if example.member is side] for side in (True, False)]
    require_sides(ctx, [[pool[i] for i in side] for side in sides], least)
    limit = ctx.afford(min(limit, max(map(len, sides))), "pictures of a side", 2 * least)
    for side, known in zip((True, False), sides, strict=True):
        kept += [known[j] for j in ctx.rng(f"member {side}").permutation(len(known))[:limit].tolist()]
    return [pool[i] for i in sorted(kept)]


def membership_values(ctx: Context, example: Example, **texts: str) -> dict[str, Any]:
    """What a trial must hold of an example: its side, its unit (without an identity, its pixels: a picture given twice counts
    once), and on the target arm what a blind eye sees. ``texts``: what was asked and what is scored, by the names of TEXTS."""
    said = {"member": example.member, "label": example.label, **texts}
    if not ctx.on_target:
        return {**said, "identity": example.identity, "blind": None}
    identity = example.attributes.get("identity") or example.pixel_sha256()[:16]
    return {**said, "identity": identity, "blind": blind_features(example)}


class Units:
    """Trials as independent units, one per identity and membership.

    Of every unit as many trials count as of the smallest one: a mean of many scatters less than one of few, and whichever side has
    the larger units would seem never to stand out.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        import numpy as np

        keys = np.array([f"{trial['member']}\x1f{trial['identity']}" for trial in trials])
        unique, first, self._codes, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(self._codes, kind="stable")
        rank = np.empty(len(keys), dtype=int)
        rank[order] = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._counts = (rank < sizes.min()) / sizes.min()
        self._member = np.char.startswith(unique, "True")
        labels = np.array([str(trials[i].values.get("label") or "") for i in first.tolist()])
        self.labels = labels[self._member], labels[~self._member]
        self.members, self.others = int(self._member.sum()), int((~self._member).sum())

    @property
    def count(self) -> int:
        return self.members + self.others

    def lacks(self, fewest: float) -> str:
        """What is missing for a judgement, or an empty text."""
        if min(self.members, self.others) >= fewest:
            return ""
        return f"{self.members} members and {self.others} non-members, {fewest:g} of each are needed"

    def split(self, scores: Any) -> Sides:
        """Mean score of every member unit and of every non-member unit."""
        import numpy as np

        means = np.bincount(self._codes, weights=np.asarray(scores, dtype=float) * self._counts)
        return np.asarray(means[self._member]), np.asarray(means[~self._member])
