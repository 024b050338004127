"""Who runs what of a plan, where machines know nothing of each other: a rule without chance divides the manifest."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from vlaudit.audit.journal import Manifest, PlannedProbe, Unit
from vlaudit.audit.plan import OVERHEAD
from vlaudit.audit.subjects import resolve_zoo

LOAD_SECONDS = 5.0  # that loading a model is taken to need where no plan has measured it
_NARROWINGS = 24  # of the time that the fullest shard may take


@dataclass
class Pile:
    """What must run of one model, as pieces that are not cut: (milliseconds, ids of units), the longest first."""

    model: str
    load: int
    pieces: list[tuple[int, list[str]]] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)  # of the pieces before each, and of all

    @property
    def work(self) -> int:
        return self.sums[-1]


def divide(manifest: Manifest, count: int) -> list[list[str]]:
    """The ids of the units of each of ``count`` shards: the same wherever it is asked, so milliseconds are whole numbers.

    The time of the fullest shard is made as small as this finds it: model after model, the one with most work first, goes to the
    fullest shard that has room for all of it; where none has, it is spread over those with most room. A shard pays for every model that
    it loads, so a model is loaded by few.
    """
    piles = _piles(manifest)
    low = max([*(pile.load + pile.pieces[0][0] for pile in piles), sum(pile.work for pile in piles) // count])
    high = sum(pile.load + pile.work for pile in piles)
    best = fill(piles, count, high)
    assert best is not None
    for _ in range(_NARROWINGS):
        middle = (low + high) // 2
        found = fill(piles, count, middle)
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
        if low >= high:
            break
    shards: list[list[str]] = [[] for _ in range(count)]
    for (shard, place), spans in best.items():
        for start, stop in spans:
            shards[shard] += [unit for _, units in piles[place].pieces[start:stop] for unit in units]
    return shards


def fill(piles: Sequence[Pile], count: int, limit: int) -> dict[tuple[int, int], list[tuple[int, int]]] | None:
    """Which pieces of each pile go to each shard, as spans by (shard, pile), where none takes longer than ``limit``; None where they
    do not fit."""
    rooms = [(limit, shard) for shard in range(count)]  # ascending
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, pile in enumerate(piles):
        start, stop = 0, len(pile.pieces)
        while start < stop:
            left = pile.sums[stop] - pile.sums[start]
            at = bisect_right(rooms, (pile.load + left, -1))
            room, shard = rooms.pop(at if at < len(rooms) else -1)
            spare = room - pile.load
            if spare < 0:
                return None
            head = bisect_right(pile.sums, pile.sums[start] + spare, start, stop + 1) - 1
            spare -= pile.sums[head] - pile.sums[start]
            tail = max(head, _first(pile.sums, pile.sums[stop] - spare, head, stop))
            if head == start and tail == stop:
                return None
            found[shard, place] = [(start, head), (tail, stop)]
            spare -= pile.sums[stop] - pile.sums[tail]
            insort(rooms, (spare, shard))
            start, stop = head, tail
    return found


def _first(sums: Sequence[int], least: int, low: int, high: int) -> int:
    """The first place from ``low`` to ``high`` whose sum is not below ``least``."""
    while low < high:
        middle = (low + high) // 2
        if sums[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


def milliseconds(units: Iterable[Unit]) -> int:
    return sum(round(1000 * (unit.weight + OVERHEAD)) for unit in units)


def _piles(manifest: Manifest) -> list[Pile]:
    """The pieces of a plan by model. Probes that may stop after a round stay whole, with all that shares units with them: what comes
    next depends on all that came before. All other units stand by themselves."""
    models = {target: resolve_zoo(spec).model for target, spec in manifest.specs.items()}
    units: dict[str, Unit] = {}
    owner: dict[str, str] = {}
    whole: dict[str, str] = {}  # union-find: by unit, another of its piece
    for planned in manifest.planned:
        for unit in planned.units:
            units.setdefault(unit.id, unit)
            owner.setdefault(unit.id, models[planned.target])
        if len({unit.round for unit in planned.units}) > 1:
            for unit in planned.units:
                whole[_root(whole, unit.id)] = _root(whole, planned.units[0].id)
    pieces: dict[str, list[str]] = {}
    for id_ in units:
        pieces.setdefault(_root(whole, id_), []).append(id_)
    piles: dict[str, Pile] = {}
    for root, ids in pieces.items():
        model = owner[root]
        if model not in piles:
            piles[model] = Pile(model, round(1000 * manifest.loads.get(model, LOAD_SECONDS)))
        piles[model].pieces.append((milliseconds(units[id_] for id_ in ids), ids))
    for pile in piles.values():
        pile.pieces.sort(key=lambda piece: -piece[0])  # stable: those of one length in the order of the plan
        pile.sums = [0, *accumulate(piece[0] for piece in pile.pieces)]
    return sorted(piles.values(), key=lambda pile: -pile.work)


def _root(whole: dict[str, str], unit: str) -> str:
    while (above := whole.get(unit, unit)) != unit:
        whole[unit] = whole.get(above, above)
        unit = above
    return unit


def part_of(manifest: Manifest, units: Iterable[str]) -> list[PlannedProbe]:
    """What is planned, cut down to some units."""
    own = set(units)
    parts = [item.model_copy(update={"units": [unit for unit in item.units if unit.id in own]}) for item in manifest.planned]
    return [item for item in parts if item.units]
