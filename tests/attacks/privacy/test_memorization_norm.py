"""Captions known by heart: the norm is the published one, remembered captions are named, the odd one needs more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.battery.privacy.memorization_norm import trials as simulated
from tests.attacks import painters
from tests.attacks.privacy.painted import WORLD, Make, check_that_trials_stand_alone, judge
from vlaudit.attacks.privacy.memorization_norm import FRESH, MemorizationNorm
from vlaudit.attacks.privacy.memorization_norm.noise_norm import attribution, norms
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, Trial, Trials, Verdict


def test_norm_is_the_published_metric(make: Make) -> None:
    """Computed from the pipeline's own parts: tokenizer, text encoder, denoiser and scheduler."""
    ctx = make(MemorizationNorm, 8)
    pipe, caption, seeds = ctx.target.model.pipe, WORLD.captions[0], [3, 4]
    pipe.scheduler.set_timesteps(ctx.target.model.steps)
    expected = []
    with torch.no_grad():
        texts = pipe.tokenizer([caption, ""], padding="max_length", max_length=8, return_tensors="pt").input_ids
        states = pipe.text_encoder(texts)[0]
        for seed in seeds:
            noise = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(seed))
            with_text, without = pipe.unet(noise.repeat(2, 1, 1, 1), pipe.scheduler.timesteps[0], states).sample
            expected.append((with_text - without).norm().item())
    assert norms(ctx.target, [caption], seeds)[0] == pytest.approx(expected, rel=1e-5)


def test_first_of_all_steps_is_the_first_step(make: Make) -> None:
    target = make(MemorizationNorm, 8).target
    target.model.steps = 1
    once = norms(target, WORLD.captions[:3], [5])
    assert norms(target, WORLD.captions[:3], [5], all_steps=True) == once
    target.model.steps = 8
    assert norms(target, WORLD.captions[:3], [5], all_steps=True) != once


def test_remembered_captions_are_found_and_named(make: Make) -> None:
    found = judge(MemorizationNorm, make(MemorizationNorm, 8))
    assert found.verdict is Verdict.VULNERABLE
    named = {row[0] for row in found.details["table"].rows[:5]}
    assert named <= set(WORLD.captions[:8])
    assert found.controls["smallest reachable p"] == pytest.approx(1 / 1201, abs=1e-4)


def test_nothing_remembered_is_held_after_one_round(make: Make) -> None:
    probe, ctx = MemorizationNorm(), make(MemorizationNorm)
    cases = probe.cases(ctx)
    first, second = probe.rounds(cases)
    ctx.start_clock()
    trials = Trials(probe.attempt(ctx, first))
    assert probe.decided(trials, Policy())
    assert probe.judge(trials, Policy()).verdict is Verdict.HELD
    assert second


def test_attribution_points_at_the_words_that_trigger(make: Make) -> None:
    """The painter compares every token of a remembered caption, but for an ordinary one reads the shape's alone."""
    target = make(MemorizationNorm, 8).target
    ordinary = dict(attribution(target, painters.caption(np.random.default_rng(77)), 1, most=8))
    shape = max(ordinary, key=lambda token: ordinary[token])
    assert shape in painters.SHAPES or shape in ("<s>", "a")
    assert sum(ordinary.values()) == pytest.approx(1, abs=0.01)


def test_one_odd_caption_needs_more_fresh_ones() -> None:
    found = MemorizationNorm().judge(simulated(np.random.default_rng(0), remembered=1, pull=5.0), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "about 5714 of these would decide (--set memorization-norm.fresh=5714" in found.reason


def test_leak_is_placed_by_the_reference() -> None:
    quiet = list(simulated(np.random.default_rng(1)))
    loud = list(simulated(np.random.default_rng(1), remembered=8, pull=3.0))

    def beside(trials: list[Trial]) -> list[Trial]:
        arms = {"target": REFERENCE, f"control:{FRESH}": f"control:reference {FRESH}"}
        return [t.model_copy(update={"arm": arms[t.arm]}) for t in trials]

    prompt = MemorizationNorm().judge(Trials([*loud, *beside(quiet)]), Policy())
    assert "the prompt (its adapter or token) remembers it" in prompt.reason
    assert prompt.delta is not None
    assert prompt.delta.ci[0] > 0
    weights = MemorizationNorm().judge(Trials([*loud, *beside(loud)]), Policy())
    assert "the weights remember it" in weights.reason


def test_too_few_words_for_fresh_captions_is_not_assessed(make: Make) -> None:
    world = painters.World(["a disc"] * 3, WORLD.members[:3], WORLD.others[:3])
    with pytest.raises(NotAssessed, match="100 fresh captions made of the captions' words"):
        judge(MemorizationNorm, make(MemorizationNorm, world=world))


def test_trials_depend_neither_on_order_nor_on_batch(make: Make) -> None:
    check_that_trials_stand_alone(MemorizationNorm(), make(MemorizationNorm, 8), lambda values: values["norms"])


def test_many_remembered_captions_do_not_become_the_measure() -> None:
    """What most captions do is taken for usual up to a point; beyond it nothing is held."""
    found = MemorizationNorm().judge(simulated(np.random.default_rng(0), remembered=200, pull=4.0), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "if most audited captions are not remembered" in found.reason
    assert found.controls["pull of the middle caption over the middle fresh one"] > 3


def test_captions_that_pull_like_held_out_ones_are_held() -> None:
    found = MemorizationNorm().judge(simulated(np.random.default_rng(0), held_out=1200, shift=0.3), Policy())
    assert found.verdict is Verdict.HELD
    assert found.controls["how fresh captions were made"] == "1200 held-out"
