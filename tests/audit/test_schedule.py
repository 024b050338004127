"""The order of units: model after model, round after round, each once, in a time that grows with their number and no faster."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, ClassVar

from vlaudit.audit.journal import PlannedProbe, Unit, UnitResult
from vlaudit.audit.schedule import Schedule
from vlaudit.audit.time_left import TimeLeft
from vlaudit.config import Request, TargetSpec
from vlaudit.records import Trial


class Probing:
    """A probe that has seen enough after so many trials."""

    enough: ClassVar[int] = 10**9

    def decided(self, trials: Any, policy: Any) -> bool:
        return len(trials.target) >= self.enough


def planned(target: str, units: int, rounds: int = 1, probe: str = "p", weight: float = 1.0) -> PlannedProbe:
    return PlannedProbe(target=target, probe=probe, units=[
        Unit(id=f"{probe}-{target}-{number}", subject=target, probe=probe, arm="target", cases=["c"], round=number % rounds, weight=weight) for number in range(units)
    ])  # fmt: skip


class Run:
    """A schedule of some plans on models of the same name, and what was handed out."""

    def __init__(self, *plans: PlannedProbe, probe: Any = None, deadline: float | None = None, results: dict[str, UnitResult] | None = None) -> None:
        targets = [SimpleNamespace(id=name, spec=SimpleNamespace(model=name.partition("/")[0])) for name in dict.fromkeys(one.target for one in plans)]
        request = Request(targets=[TargetSpec(model="m")], probes=["p"])
        probes = {one.probe: probe or Probing() for one in plans}
        self.results = dict(results or {})
        self.clock = TimeLeft((unit.id, unit.probe, unit.weight) for one in plans for unit in one.units if unit.id not in self.results)
        plan: Any = SimpleNamespace(planned=list(plans), targets=targets, probes=probes, request=request)
        self.schedule = Schedule(plan, self.results, deadline, self.clock)

    def handed(self, most: int = 10**9) -> list[str]:
        units = []
        while len(units) < most and (unit := self.schedule.next()):
            units.append(unit.id)
        return units

    def close(self, *units: str, error: str | None = None) -> None:
        for unit in units:
            self.results[unit] = UnitResult(unit=unit, trials=[] if error else [Trial(case="c", arm="target")], error=error)
            self.schedule.close(unit)
            self.clock.add(unit, 1.0)


def test_model_after_model_what_takes_longest_first_and_where_time_is_short_what_takes_least() -> None:
    plans = planned("a/1", 2, weight=9.0), planned("b/1", 1), planned("a/2", 1, weight=3.0)
    for order in (plans, (plans[2], *plans[:2])):
        assert Run(*order).handed() == ["p-a/1-0", "p-a/1-1", "p-a/2-0", "p-b/1-0"]
    assert Run(*plans, deadline=time.monotonic() + 99).handed() == ["p-a/2-0", "p-a/1-0", "p-a/1-1", "p-b/1-0"]
    assert Run(*plans, deadline=time.monotonic() - 1).handed() == []


def test_a_round_waits_for_the_one_before_and_others_do_not() -> None:
    run = Run(planned("a", 4, rounds=2), planned("b", 1))
    assert run.handed() == ["p-a-0", "p-a-2", "p-b-0"]
    run.close("p-a-0", "p-b-0")
    assert run.handed() == []
    run.close("p-a-2")
    assert run.handed() == ["p-a-1", "p-a-3"]
    run.close("p-a-1", "p-a-3")
    assert run.handed() == [] and run.clock.share == 1


def test_what_is_decided_or_failed_ends_and_is_no_work_left() -> None:
    class Enough(Probing):
        enough = 2

    for error in (None, "out of memory"):
        run = Run(planned("a", 6, rounds=3), probe=Enough() if error is None else Probing())
        assert run.handed() == ["p-a-0", "p-a-3"]
        run.close("p-a-0")
        run.close("p-a-3", error=error)
        assert run.handed() == [] and run.clock.share == 1


def test_units_that_several_share_are_handed_once_and_kept_while_one_needs_them() -> None:
    class Enough(Probing):
        enough = 1

    one = planned("a/1", 2, rounds=2)
    other = PlannedProbe(target="a/2", probe="q", units=[one.units[1]])
    run = Run(one, other, probe=Enough())
    assert run.handed(1) == ["p-a/1-0"]
    run.close("p-a/1-0")
    assert run.clock.share < 1, "the second unit is the other's too"
    assert run.handed() == ["p-a/1-1"]
    run.close("p-a/1-1")
    assert run.handed() == [] and run.clock.share == 1


def test_what_is_in_the_journal_is_not_handed_again() -> None:
    there = {unit: UnitResult(unit=unit, trials=[Trial(case="c", arm="target")]) for unit in ("p-a-0", "p-a-2", "p-a-1")}
    assert Run(planned("a", 4, rounds=2), results=there).handed() == ["p-a-3"]


def test_its_time_grows_with_the_number_of_units() -> None:
    begun = time.process_time()
    run = Run(*(planned(f"m{number}", 50, rounds=5) for number in range(400)))
    while units := run.handed():  # all that can start, as a cluster asks for
        for unit in units:
            run.close(unit)
            assert 0 <= run.clock.share <= 1
    assert len(run.results) == 20_000
    assert time.process_time() - begun < 20, "looking through all units for each would take minutes"
