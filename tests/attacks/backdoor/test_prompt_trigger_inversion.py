"""prompt-trigger-inversion on a small model; its judge is tested with the search it shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.attacks.backdoor.whole_run import open_context, quick_search, yields_trials_that_can_be_judged
from vlaudit.attacks.backdoor.prompt_trigger_inversion import PromptTriggerInversion
from vlaudit.families.matching import ImageTextMatcher
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.keyed_pool import KeyedPool, class_tokens
from vlaudit.prompts.template import Template
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.records import REFERENCE, TARGET, Cost

__all__ = ["quick_search"]
torch.set_num_threads(1)


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
    target: Any = SimpleNamespace(prompt=SimpleNamespace(pool=0, learned=False))
    ctx = Context("prompt-trigger-inversion", TARGET, data, [f"name {i}" for i in range(290)], ArtifactStore(tmp_path), _target=target)
    cases = PromptTriggerInversion().cases(ctx)
    names = {str(case.params["label"]) for case in cases}
    assert len(names) == 12
    assert names < set(ctx.labels)
    assert len({str(case.params["label"]) for case in cases if case.params["planted"]}) == 1
    assert len({str(case.params["label"]) for case in PromptTriggerInversion(labels=30).cases(ctx)}) == 30
    assert len(PromptTriggerInversion().cases(ctx)) == len({case.id for case in cases})


def test_within_a_small_budget_all_labels_are_searched_for_blends_and_then_some_for_patches(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(audit=range(100))
    target: Any = SimpleNamespace(model=SimpleNamespace(resolution=224), prompt=SimpleNamespace(pool=0, learned=False))
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
    assert found == [(5, 14, 14, 14), (2, 14, 14, 14), (1, 14, 14, 14), (1, 14, 14, 11), (1, 14, 9, 0), (1, 14, 0, 10), (1, 5, 0, 0)]


@pytest.mark.usefixtures("quick_search")
def test_the_prompt_of_a_pool_that_no_picture_picks_is_searched_as_if_all_did(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = PromptTriggerInversion()
    ctx = open_context(tiny_clip, picture_folder, probe, tmp_path)
    model, images = ctx.target.model, ctx.images(ctx.examples)
    with torch.no_grad():
        usual = class_tokens(model, images).mean(dim=0)
    tokens = torch.randn(3, 2, model.image_tower.width, generator=torch.Generator().manual_seed(0))
    pool = KeyedPool(tokens, torch.stack([usual, -usual, -2 * usual]), top=1)
    ctx._target = model.under(pool)
    ctx.start_clock()
    cases = probe.rounds(probe.cases(ctx))[0]
    assert [case.params.get("seldom") for case in cases] == [rank for rank in (None, 0, 1) for _ in cases[::3]]
    assert [{case.params.get("seldom") for case in shard} for shard in probe.shards(cases)] == [{None}, {0}, {1}]
    first = [case for case in cases if case.params.get("seldom") == 0][:3]
    through = [trial for trial in probe.attempt(ctx, first) if trial.arm == TARGET]
    assert [(t["prompt"], t["pool"], t["picked"], t["seldom"]) for t in through] == [(1, 3, 0.0, 2)] * 3
    with torch.no_grad():
        said = model.under(KeyedPool(tokens[1:2], pool.keys[1:2], top=1)).classifier(ctx.labels)(images).argmax(dim=1)
    shares = {label: float((said == place).float().mean()) for place, label in enumerate(ctx.labels)}
    assert [t["share"] for t in through] == [pytest.approx(shares[str(t["label"])]) for t in through], "what is said where it is read"
    assert not list(probe.attempt(replace(ctx, arm=REFERENCE), first))
    ctx._target = model.under(KeyedPool(tokens[:2], torch.stack([usual, usual]), top=2))
    assert all("seldom" not in case.params for case in probe.cases(ctx)), "all pictures read both"


@pytest.mark.usefixtures("quick_search")
def test_a_learned_prompt_is_searched_for_what_the_plain_one_does_not_follow_too(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = PromptTriggerInversion()
    alone = open_context(tiny_clip, picture_folder, probe, tmp_path)
    model = alone.target.model
    learned = CoOp(torch.randn(2, model.embedding_width, generator=torch.Generator().manual_seed(0)))
    ctx = replace(alone, _target=model.under(learned))
    assert not any("against" in case.params for case in [*probe.cases(alone), *probe.cases(ctx)]), "no plain prompt to compare with"
    ctx.peers = [ctx, alone]
    cases = probe.rounds(probe.cases(ctx))[0]
    mine = [case for case in cases if "against" in case.params]
    assert len(mine) == len(cases) / 2 and not any(case.params["planted"] for case in mine)
    ctx.start_clock()
    trials = list(probe.attempt(ctx, mine[:3]))
    assert [trial["against"] for trial in trials] == [alone.target.prompt.id] * 3
    assert not list(probe.attempt(replace(ctx, arm=REFERENCE, peers=[]), mine[:3]))
    skipped = {trial.case for trial in trials if not trial["pictures"]}
    searched_for = [case for case in mine[:3] if case.id not in skipped]
    assert sum(trial.cost.gradient_steps for trial in trials) == probe.estimate(ctx, searched_for).gradient_steps
    deep = replace(ctx, _target=model.under(VisualPrompt(torch.zeros(3, 1, 1), torch.ones(1, 1))))
    once, twice = (probe.estimate(one, mine[:3]).gradient_steps for one in (ctx, deep))
    assert twice == 2 * once, "its pictures pass the tower under the plain prompt too"
    plain = replace(alone, peers=[alone, ctx])
    assert not any("against" in case.params for case in probe.cases(plain)), "nothing was learned there"


@pytest.mark.usefixtures("quick_search")
def test_prompts_that_leave_pictures_alone_are_searched_at_once(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = PromptTriggerInversion()
    alone = open_context(tiny_clip, picture_folder, probe, tmp_path)
    model = alone.target.model
    hard, pixels = model.under(Template("the {}")), model.under(VisualPrompt(torch.zeros(3, 1, 1), torch.ones(1, 1)))
    learned = model.under(CoOp(torch.randn(2, model.embedding_width, generator=torch.Generator().manual_seed(0))))

    def beside(*targets: ImageTextMatcher) -> Context:
        every = [replace(alone, _target=target) for target in targets]
        return replace(every[0], peers=every)

    assert not any("together" in case.params for case in probe.cases(beside(hard, alone.target))), "two are searched by themselves"
    assert not any("together" in case.params for case in probe.cases(beside(pixels, hard, learned, alone.target))), "its pictures are its own"
    ctx = beside(learned, hard, pixels, alone.target)
    first, *rest = probe.rounds(probe.cases(ctx))
    assert probe.runs_once(first) and {"against" in case.params for case in first} == {False, True} and len(first) == 2 * len(rest[-1]) / 2
    assert not any(probe.runs_once(batch) for batch in rest[1:])
    ctx.start_clock()
    before = [target.meter.passed() for target in (learned, hard, alone.target)]
    trials = list(probe.attempt(ctx, first[:2]))
    spent = sum((t.meter.passed() - was for t, was in zip((learned, hard, alone.target), before, strict=True)), Cost())
    assert all(trial["together"] == [t.prompt.id for t in (learned, hard, alone.target)] for trial in trials)
    tried = [trial for trial in trials if trial.arm == TARGET and trial["pictures"]]
    assert all(set(trial["under"]) == set(trial["together"]) for trial in tried)
    assert spent.gradient_steps == sum(trial.cost.gradient_steps for trial in trials), "one pass for all three"
