"""A time budget, divided among probes. Pure: it knows probes only by what their designs take.

A probe that tries a share of all it would try takes about that share of the time, and an interval of it is wider by the square root. So
where not all fits, the sum of what intervals lose is least when each takes time in proportion to the square root of what all of it
takes: cheap probes are whole, and dear ones get more time than others, but a smaller share of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

SHARES = tuple(2 ** (-step / 2) for step in range(19))
"""The ladder of designs: shares of all that a probe would try, each 0.7 of the one before."""
Takes = Callable[[float], float | None]
"""Seconds that a probe takes for a share; None where so little of it makes no design."""


def divide(probes: Sequence[Takes], budget: float) -> list[float | None]:
    """The share of :data:`SHARES` that each probe gets, so that all fit the budget together where they can; None for those of which not
    even the least does, the dearest first."""
    whole = [takes(1.0) or 0.0 for takes in probes]
    if sum(whole) <= budget:
        return [1.0] * len(probes)
    rungs = [_least(takes) for takes in probes]
    least = [probes[i](SHARES[rung]) or 0.0 for i, rung in enumerate(rungs)]
    kept = sorted(range(len(probes)), key=lambda i: (least[i], i))
    while kept and sum(least[i] for i in kept) > budget:
        kept.pop()
    times = _times([whole[i] for i in kept], [least[i] for i in kept], budget)
    spent = 0.0
    for i, time in zip(kept, times, strict=True):
        rungs[i] = next((rung for rung in range(rungs[i]) if (probes[i](SHARES[rung]) or math.inf) <= time), rungs[i])
        spent += probes[i](SHARES[rungs[i]]) or 0.0
    return _spend_rest(probes, rungs, kept, budget - spent)


def _least(takes: Takes) -> int:
    """The lowest rung on which there is a design."""
    return next(rung for rung in reversed(range(len(SHARES))) if rung == 0 or takes(SHARES[rung]) is not None)


def _times(whole: Sequence[float], least: Sequence[float], budget: float) -> list[float]:
    """Seconds of each: in proportion to the square root of what all of it takes, but not more than that, nor less than the least."""
    times = list(least)
    open_ = [i for i in range(len(whole)) if whole[i] > least[i]]
    while open_:
        rate = (budget - sum(t for i, t in enumerate(times) if i not in open_)) / sum(math.sqrt(whole[i]) for i in open_)
        settled = [i for i in open_ if rate * math.sqrt(whole[i]) <= least[i]]
        if not settled:
            settled = [i for i in open_ if rate * math.sqrt(whole[i]) >= whole[i]]
            for i in settled:
                times[i] = whole[i]
        if not settled:
            for i in open_:
                times[i] = rate * math.sqrt(whole[i])
            break
        open_ = [i for i in open_ if i not in settled]
    return times


def _spend_rest(probes: Sequence[Takes], rungs: list[int], kept: Sequence[int], rest: float) -> list[float | None]:
    """What rounding to rungs has left goes to whoever has the smallest share and can take the next."""
    while True:
        for i in sorted((i for i in kept if rungs[i]), key=lambda i: (-rungs[i], i)):
            more = (probes[i](SHARES[rungs[i] - 1]) or math.inf) - (probes[i](SHARES[rungs[i]]) or 0.0)
            if more <= rest:
                rungs[i], rest = rungs[i] - 1, rest - more
                break
        else:
            return [SHARES[rungs[i]] if i in kept else None for i in range(len(probes))]
