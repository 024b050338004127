"""Which of many things a probe looks at, drawn without replacement, and which of those it shows. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from numpy.random import Generator

T = TypeVar("T")


def subset(things: Sequence[T], count: int, rng: Generator) -> list[T]:
    """At most ``count`` of the things, in their order."""
    return [things[i] for i in sorted(rng.permutation(len(things))[:count].tolist())]


def one_of_each(things: Sequence[T], groups: Sequence[Hashable], count: int, rng: Generator) -> list[T]:
    """The same, with at most one of each group; ``groups``: that of each thing."""
    order = rng.permutation(len(things)).tolist()
    first = {groups[i]: i for i in reversed(order)}
    return [things[i] for i in sorted(sorted(first.values(), key=order.index)[:count])]


def in_turns(things: Sequence[T], groups: Sequence[Hashable]) -> list[T]:
    """The things in their order, but the first of each group before a second of any."""
    seen, turns = Counter[Hashable](), list[int]()
    for group in groups:
        turns.append(seen[group])
        seen[group] += 1
    return [thing for _, thing in sorted(zip(turns, things, strict=True), key=lambda pair: pair[0])]


def evenly(things: Sequence[T], groups: Sequence[Sequence[Hashable]], count: int, rng: Generator) -> list[T]:
    """At most ``count`` of the things, in their order, as even over groups as they allow: a group of few gives all of them.
    ``groups``: of each thing the group, the group within that one, and so on, each as even within the one before."""
    order = rng.permutation(len(things)).tolist()
    for depth in range(max(map(len, groups), default=0), 0, -1):
        order = in_turns(order, [tuple(groups[i][:depth]) for i in order])
    return [things[i] for i in sorted(order[:count])]


def watched(count: int, shown: int) -> list[bool]:
    """Which of so many cases leave evidence: about ``shown``, evenly spread."""
    every = max(1, count // shown)
    return [number % every == 0 for number in range(count)]
