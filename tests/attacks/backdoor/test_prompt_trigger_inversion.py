"""prompt-trigger-inversion on a small model; its judge is tested with the search it shares."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.attacks.backdoor.whole_run import open_context, quick_search, yields_trials_that_can_be_judged
from vlaudit.attacks.backdoor.prompt_trigger_inversion import PromptTriggerInversion
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET

__all__ = ["quick_search"]


@pytest.mark.usefixtures("quick_search")
def test_a_whole_run_yields_trials_that_can_be_judged(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = PromptTriggerInversion()
    yields_trials_that_can_be_judged(probe, open_context(tiny_clip, picture_folder, probe, tmp_path))


@pytest.mark.usefixtures("quick_search")
def test_the_estimate_is_what_is_spent(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = PromptTriggerInversion()
    ctx = open_context(tiny_clip, picture_folder, probe, tmp_path)
    cases = probe.cases(ctx)[:6]
    ctx.start_clock()
    trials = list(probe.attempt(ctx, cases))
    skipped = {t.case for t in trials if not t["pictures"]}  # this model gives nearly all pictures one label
    searched_for = [case for case in cases if case.id not in skipped]
    assert sum(t.cost.gradient_steps for t in trials) == probe.estimate(ctx, searched_for).gradient_steps > 0


def test_with_many_labels_a_quick_audit_takes_some_and_one_of_them_carries_the_control(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(audit=range(100))
    ctx = Context("prompt-trigger-inversion", TARGET, data, [f"name {i}" for i in range(290)], ArtifactStore(tmp_path))
    cases = PromptTriggerInversion().cases(ctx)
    names = {str(case.params["label"]) for case in cases}
    assert len(names) == 12
    assert names < set(ctx.labels)
    assert len({str(case.params["label"]) for case in cases if case.params["planted"]}) == 1
    assert len({str(case.params["label"]) for case in PromptTriggerInversion(labels=30).cases(ctx)}) == 30
    assert len(PromptTriggerInversion().cases(ctx)) == len({case.id for case in cases})


def test_within_a_small_budget_all_labels_are_searched_for_blends_and_then_some_for_patches(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(audit=range(100))
    target: Any = SimpleNamespace(model=SimpleNamespace(resolution=224))
    labels, found = [f"name {i}" for i in range(14)], []
    for share in (1.0, 0.5, 0.2, 0.19, 0.12, 0.08, 0.01):
        ctx = Context("prompt-trigger-inversion", TARGET, data, labels, ArtifactStore(tmp_path), share=share, _target=target)
        cases = PromptTriggerInversion().cases(ctx)
        once = [case for case in cases if case.params["restart"] == 0]
        tried = {kind: len({case.params["label"] for case in once if case.params["kind"] == kind}) for kind in ("blend", "patch", "smooth")}
        found.append((len(cases) // len(once), *tried.values()))
        cut = min(tried.values()) < 14
        assert any(one.searched for one in ctx.reduced) == cut, "what was left out is never held"
        assert any(case.params["planted"] for case in cases) != cut
        assert [one.tried for one in ctx.reduced if one.searched] == [count for count in tried.values() if count < 14]
    assert found == [(5, 14, 14, 14), (2, 14, 14, 14), (1, 14, 14, 14), (1, 14, 14, 10), (1, 14, 9, 0), (1, 14, 0, 10), (1, 5, 0, 0)]
