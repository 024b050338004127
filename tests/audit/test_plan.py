"""The plan: units that are short, designs that fit a budget, and the same plan from the same calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from vlaudit.audit.journal import PlannedProbe
from vlaudit.audit.plan import LONGEST, Plan, make_plan
from vlaudit.audit.subjects import Subject
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, ScanSettings, TargetSpec
from vlaudit.errors import NotAssessed
from vlaudit.families.base import Speed
from vlaudit.probe import Context, Needs, Probe, probe
from vlaudit.records import REFERENCE, Case, Cost, Family, Risk, Trial
from vlaudit.registry import ProbeRegistry


@probe(id="dear", code="D1", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Dear(Probe):
    """A hundred backward passes a case, of a hundred cases; fewer than ten are none."""

    cases_per_unit: ClassVar[int] = 50
    count: int = 100

    def cases(self, ctx: Context) -> list[Case]:
        return [Case(id=f"{i:03d}") for i in range(ctx.afford(self.count, "things", 10, searched=True))]

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        return Cost(queries=100 * len(cases), gradient_steps=100 * len(cases))


@probe(id="cheap", code="D2", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Cheap(Dear):
    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        return Cost(queries=len(cases) if ctx.on_target else 0)

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        yield from (ctx.trial(case, {"share": ctx.share}) for case in cases)


@probe(id="joint", code="D3", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Joint(Dear):
    """What its cases share is most of its work."""

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        return Cost(queries=1000 + len(cases))


@probe(id="picky", code="D4", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Picky(Dear):
    def cases(self, ctx: Context) -> list[Case]:
        ctx.require(len(ctx.examples), 10_000, "pictures")
        return super().cases(ctx)


SPEED = Speed(0.1, 0.3)


@pytest.fixture(scope="module")
def subjects(tiny_clip: Path, picture_folder: Path) -> tuple[list[Subject], dict[str, Subject]]:
    specs = [TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder), prompt=[prompt]) for prompt in ("the {}", "one {}")]
    return Loader(torch.device("cpu"), allow_network=False).subjects(specs)


def plan(
    subjects: tuple[list[Subject], dict[str, Subject]], *probes: type[Probe], budget: float | None = None, **more: object
) -> Plan:  # fmt: skip
    registry = ProbeRegistry()
    registry.classes |= {one.info.id: one for one in probes}
    targets, references = subjects
    request = Request(targets=[t.spec for t in targets], probes=[one.info.id for one in probes], budget=budget)
    speeds = {subject.spec.model: SPEED for subject in targets}
    return make_plan(request, registry, targets, references, **{"speeds": speeds, **more})  # type: ignore[arg-type]


def seconds(planned: PlannedProbe) -> float:
    return sum(unit.weight for unit in planned.units)


def test_units_are_cut_until_they_are_short(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    made = plan(subjects, Dear, Joint)
    dear, joint = made.planned[:2]
    assert all(0 < unit.weight <= LONGEST for unit in dear.units) and len(dear.units) > 100
    assert sorted(case for unit in dear.units if unit.arm != REFERENCE for case in unit.cases) == [f"{i:03d}" for i in range(100)]
    assert [len(unit.cases) for unit in joint.units if unit.arm != REFERENCE] == [50, 50], "halves would do the work twice"


def test_the_budget_leaves_the_cheap_whole_and_names_what_it_cuts(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    made = plan(subjects, Dear, Cheap, Picky, budget=3000.0)
    by = {(p.target, p.probe): p for p in made.planned}
    for target in made.targets:
        dear, cheap, picky = (by[target.id, name] for name in ("dear", "cheap", "picky"))
        assert not cheap.reduced and cheap.share == 1.0
        assert dear.share < 1 and str(dear.reduced[0]).endswith("of 100 things")
        assert picky.reason == "needs at least 10000 pictures, and there are 24. Give more with --data." and not picky.units
    assert len({p.share for p in made.planned if p.probe == "dear"}) == 1, "prompts of one model can be compared"
    whole = plan(subjects, Dear, Cheap)
    units = {unit.id: unit.weight + 0.05 for unit in whole.units}
    assert made.whole == pytest.approx(sum(units.values()) / made.workers)
    spent = sum(unit.weight + 0.05 for unit in made.units) / made.workers
    assert 3000 / 2 < spent <= 3000


def test_what_fits_in_no_way_says_what_would_do(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    made = plan(subjects, Dear, Cheap, budget=100.0)
    dear = next(p for p in made.planned if p.probe == "dear")
    assert not dear.units and "does not fit the budget of 100s" in str(dear.reason) and "tries all" in str(dear.reason)
    assert all(p.units for p in made.planned if p.probe == "cheap")


def test_the_same_calibration_gives_the_same_plan_and_a_share_can_be_repeated(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    first, again = (plan(subjects, Dear, Cheap, budget=3000.0) for _ in range(2))
    assert first.planned == again.planned
    share = first.planned[0].share
    alone = plan(subjects, Dear, shares={"dear": share})
    assert alone.planned[0] == first.planned[0]
    assert {first.shares[unit.id] for unit in first.planned[0].units} == {share}
    slower = plan(subjects, Dear, Cheap, budget=3000.0, speeds={subjects[0][0].spec.model: SPEED.times(10)})
    assert len(slower.cases) < len(first.cases)


def test_calibration_is_measured_where_it_is_not_known(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    targets, references = subjects
    made = plan(subjects, Cheap, speeds={})
    (speed,) = made.speeds.values()
    assert 0 < speed.forward < speed.backward and speed.text > 0
    assert all(subject.target and subject.target.speed == speed for subject in [*targets, *references.values()])


def test_afford_and_require(subjects: tuple[list[Subject], dict[str, Subject]]) -> None:
    ctx = Context("p", "target", subjects[0][0].data, [], artifacts=None)  # type: ignore[arg-type]
    assert ctx.afford(100, "things") == 100 and not ctx.reduced
    ctx = replace(ctx, share=0.1)
    assert ctx.afford(100, "things") == 10 and ctx.afford(100, "others", 30) == 30 and ctx.afford(5, "few", 30) == 5
    assert ctx.afford(100, "all", share=20.0) == 100
    assert [str(one) for one in ctx.reduced] == ["10 of 100 things", "30 of 100 others"]
    with pytest.raises(NotAssessed, match="needs at least 5 labels, and there are 4"):
        ctx.require(4, 5, "labels")


def test_a_budget_is_a_time_or_none() -> None:
    assert ScanSettings().budget_seconds == 1800 and ScanSettings(effort="standard").budget_seconds == 4 * 3600
    assert ScanSettings(effort="thorough").budget_seconds is None and ScanSettings(budget="none").budget_seconds is None
    assert ScanSettings(effort="thorough", budget="1.5h").budget_seconds == 5400
    with pytest.raises(ValueError, match="not a time"):
        ScanSettings(budget="soon")
