"""prompt-trigger-inversion on a small model; its judge is tested with the search it shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attacks.backdoor.whole_run import open_context, quick_search, yields_trials_that_can_be_judged
from vlaudit.attacks.backdoor.prompt_trigger_inversion import PromptTriggerInversion
from vlaudit.policy import Policy

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


def test_with_many_labels_a_quick_audit_takes_some_and_one_of_them_carries_the_control() -> None:
    class Many:
        effort, labels, examples, policy = "quick", [f"name {i}" for i in range(290)], [0] * 48, Policy()

        def require(self, count: int, least: float, *said: str) -> None:
            assert count >= least

        def rng(self, *parts: object) -> np.random.Generator:
            return np.random.default_rng(len(str(parts)))

        def by_effort(self, quick: int, standard: int, thorough: int) -> int:
            return quick

    ctx: Any = Many()
    cases = PromptTriggerInversion().cases(ctx)
    names = {str(case.params["label"]) for case in cases}
    assert len(names) == 12
    assert names < set(ctx.labels)
    assert len({str(case.params["label"]) for case in cases if case.params["planted"]}) == 1
    assert len({str(case.params["label"]) for case in PromptTriggerInversion(labels=30).cases(ctx)}) == 30
    assert len(PromptTriggerInversion().cases(ctx)) == len({case.id for case in cases})
