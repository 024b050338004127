"""Whether what goes wrong goes wrong under one label. A small share of all pictures may be all pictures of one. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vlaudit.statistics.rates import JEFFREYS


def by_label(labels: Sequence[str], wrong: Sequence[bool]) -> dict[str, tuple[int, int]]:
    """How many pictures of each label go wrong, of how many."""
    found: dict[str, list[bool]] = defaultdict(list)
    for label, hit in zip(labels, wrong, strict=True):
        found[label].append(hit)
    return {label: (sum(hits), len(hits)) for label, hits in found.items()}


def each(level: float, many: int) -> float:
    """The level of one interval among so many that are to hold together (Bonferroni)."""
    return 1 - (1 - level) / max(1, many)


def concentrated(labels: Sequence[str], wrong: Sequence[bool], threshold: float, alpha: float) -> str:
    """Of which label more go wrong than ``threshold``, and significantly more than of the others (binomial, Bonferroni over labels), in
    words; empty if of none. It may be too few to show that they are more than the threshold, and too many to call it held."""
    from scipy.stats import binom

    found, total = by_label(labels, wrong), sum(wrong)
    for label, (hits, n) in sorted(found.items(), key=lambda item: (-item[1][0] / item[1][1], item[0])):
        others = max((total - hits) / max(len(labels) - n, 1), JEFFREYS / len(labels))  # none of the others is no rate of 0
        if hits / n > threshold and binom.sf(hits - 1, n, others) * len(found) <= alpha:
            return f"{hits} of the {n} of {label!r}, and far fewer of the others"
    return ""
