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
    found = by_label(labels, wrong)
    for label, (hits, n) in sorted(found.items(), key=lambda item: (-item[1][0] / item[1][1], item[0])):
        if hits / n > threshold and _p(found, label, hits) <= alpha:
            return f"{hits} of the {n} of {label!r}, and far fewer of the others"
    return ""


def too_few(labels: Sequence[str], wrong: Sequence[bool], alpha: float) -> list[str]:
    """The labels with so few pictures that not even all of them going wrong would be significantly more than of the others."""
    found = by_label(labels, wrong)
    return sorted(label for label, (_, n) in found.items() if _p(found, label, n) > alpha)


def _p(found: dict[str, tuple[int, int]], label: str, hits: int) -> float:
    """Of ``hits`` of a label's pictures beside what goes wrong of the others, corrected for all labels."""
    from scipy.stats import binom

    n, every = found[label][1], sum(n for _, n in found.values())
    wrong = sum(hits for hits, _ in found.values()) - found[label][0]
    others = max(wrong / max(every - n, 1), JEFFREYS / every)  # none of the others is no rate of 0
    return float(binom.sf(hits - 1, n, others) * len(found))
