"""A whole run of trigger inversion on a small model, with a search that is cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlaudit.attacks.shared.trigger_inversion import search
from vlaudit.attacks.shared.trigger_inversion.sizes import CONTROL, KINDS
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Trials, Verdict
from vlaudit.search.trigger import EFFORTS, Effort


@pytest.fixture
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", Effort(batch=3, steps=3, scan_steps=1, finalists=1, trial_steps=2))
    monkeypatch.setattr(search, "LEAST", 8)


def open_context(model: Path, data: Path, probe: Probe, tmp_path: Path, arm: str = TARGET) -> Context:
    spec = TargetSpec(model=f"hf:{model}", data=str(data))
    (subject,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([spec])
    few = Policy(thresholds={f"{probe.info.id}.least-labels": 3})
    request = Request(targets=[], probes=[], effort="quick", policy=few)
    return context(request, subject, probe.info.id, arm, ArtifactStore(tmp_path))


def yields_trials_that_can_be_judged(probe: Probe, ctx: Context) -> None:
    cases = probe.rounds(probe.cases(ctx))[0]
    trials = list(probe.attempt(ctx, cases))
    assert {t.case for t in trials if t.arm == TARGET} == {case.id for case in cases}
    assert len([t for t in trials if t.arm == CONTROL]) == len(KINDS)
    assert any(t["pictures"] for t in trials)
    assert all(len(t.artifacts) == 3 for t in trials if t.arm == TARGET and t["pictures"])
    alone = list(probe.attempt(ctx, cases[1:2]))
    assert alone[0].values == trials[1].values
    judgement = probe.judge(Trials(trials, reference_note="none"), Policy())
    assert judgement.verdict in (Verdict.INCONCLUSIVE, Verdict.HELD)
