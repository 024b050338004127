"""What the probes of matchers are asked on a small Hugging Face model."""

from __future__ import annotations

from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.records import Judgement, Trial, Trials


def judged(probe: Probe, trials: list[Trial]) -> Judgement:
    return probe.judge(Trials(trials, reference_note="none"), Policy())


def runs_and_repeats_itself(probe: Probe, ctx: Context) -> None:
    cases = probe.cases(ctx)
    trials = list(probe.attempt(ctx, cases))
    again = list(probe.attempt(ctx, list(reversed(cases))))
    assert {t.case for t in trials} <= {c.id for c in cases}
    assert {(t.case, t.arm): t.values for t in trials} == {(t.case, t.arm): t.values for t in again}
    assert judged(probe, trials).reason
    estimate = probe.estimate(ctx, cases)
    spent = sum(trial.cost.queries for trial in trials)
    assert estimate.queries / 5 < max(spent, 1) < estimate.queries * 5 + 50
