"""How far a scan is and how long it still takes, from what its units were estimated to take and what those that ended took.

Work is measured in seconds of CPU or device time, which the load of the machine leaves alone; only its pace, seconds a second of work, is
taken from the clock on the wall. A probe's units tell of its other units first, and then of all others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

PRIOR = 0.05  # share of all work for which the estimate counts beside what was measured
OWN_PRIOR = 0.1  # share of a probe's work for which what all probes took counts beside what its own units took
PACE_PRIOR = 5.0  # seconds of work for which an idle machine counts


class TimeLeft:
    """``units``: (id, probe, estimated seconds of work) of all that are to run, ``workers`` of them side by side."""

    def __init__(self, units: Iterable[tuple[str, str, float]], workers: int = 1) -> None:
        self._open = {unit: (probe, weight) for unit, probe, weight in units}
        self._workers = workers
        self._whole: dict[str, float] = defaultdict(float)  # estimated, by probe, as all that follow
        for probe, weight in self._open.values():
            self._whole[probe] += weight
        self._left = dict(self._whole)
        self._done: dict[str, float] = defaultdict(float)
        self._took: dict[str, float] = defaultdict(float)
        self.inside: Mapping[str, float] = {}  # what share of each running unit is done

    def add(self, unit: str, work: float) -> None:
        """A unit has ended, after so many seconds of work."""
        if unit in self._open:
            probe, weight = self._open.pop(unit)
            self._left[probe] -= weight
            self._done[probe] += weight
            self._took[probe] += work

    def drop(self, units: Iterable[str]) -> None:
        """Units need not be run: their probe has decided."""
        for unit in set(units) & self._open.keys():
            probe, weight = self._open.pop(unit)
            self._left[probe] -= weight
            self._whole[probe] -= weight

    def _rate(self, probe: str) -> float:
        """Seconds of work that take a second of the estimate."""
        prior = PRIOR * sum(self._whole.values())
        usual = (sum(self._took.values()) + prior) / max(sum(self._done.values()) + prior, 1e-9)
        own = OWN_PRIOR * self._whole[probe]
        return (self._took[probe] + own * usual) / max(self._done[probe] + own, 1e-9)

    def _work(self) -> tuple[float, float]:
        """Seconds of work that are done, and left."""
        rates = {probe: self._rate(probe) for probe in self._left}
        done, left = sum(self._took.values()), sum(rates[probe] * weight for probe, weight in self._left.items())
        for unit, part in self.inside.items():
            if unit in self._open:
                probe, weight = self._open[unit]
                done, left = done + rates[probe] * weight * part, left - rates[probe] * weight * part
        return done, left if self._open else 0.0

    @property
    def share(self) -> float:
        """Of all work that is done."""
        done, left = self._work()
        return done / (done + left) if self._open and done + left else 1.0

    def seconds(self, elapsed: float = 0.0) -> float:
        """Left on the clock on the wall, of which ``elapsed`` seconds have gone by."""
        done, left = self._work()
        return left * (elapsed + PACE_PRIOR / self._workers) / (done + PACE_PRIOR)
