"""Probes on painters: pipelines that remember the pictures of some first members, exactly so many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.attacks import painters
from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.records import Judgement

WORLD = painters.World.of(80)
Make = Callable[..., Context]


def judge(probe: type[Probe], ctx: Context, **parameters: object) -> Judgement:
    made = probe(**parameters)
    return made.judge(painters.attempt(made, ctx), Policy())


def check_that_trials_stand_alone(probe: Probe, ctx: Context, numbers: Callable[[dict], list[float]]) -> None:
    """A trial's numbers depend neither on the order of the cases nor on the size of a batch."""
    cases = probe.cases(ctx)[:6] + probe.cases(ctx)[-6:]
    assert cases == probe.cases(ctx)[:6] + probe.cases(ctx)[-6:]
    ctx.start_clock()
    once = {t.case: t.values for t in probe.attempt(ctx, cases)}
    again = {t.case: t.values for t in probe.attempt(replace(ctx, batch_size=5), cases[::-1])}
    for case, values in once.items():
        assert numbers(values) == pytest.approx(numbers(again[case]), rel=1e-3, abs=1e-4)
