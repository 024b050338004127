"""Text-to-image privacy: what a pipeline remembers is found where it is, and nothing is found where there is nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.attacks import calibration, painters
from vlaudit.attacks.privacy._blind import blind_scores
from vlaudit.attacks.privacy._captions import audited_captions, fresh_captions
from vlaudit.attacks.privacy._copies import largest_clique, tiled_distance
from vlaudit.attacks.privacy._likelihood import LEVELS, Likelihood, passes
from vlaudit.attacks.privacy._pull import attribution, norms
from vlaudit.attacks.privacy.extraction import Extraction
from vlaudit.attacks.privacy.memorization_norm import FRESH, MemorizationNorm
from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.records import REFERENCE, Judgement, Trial, Trials, Verdict

sim = calibration.load()
WORLD = painters.World.of(80)
Make = Callable[..., Context]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The context of a probe on a painter that remembers the pictures of some first members."""

    def context(probe: type, remembered: int = 0, world: painters.World = WORLD, odds: float = 6.0) -> Context:
        model = painters.painter(world, remembered, odds)
        return painters.context(model, world, probe.info.id, tmp_path)  # type: ignore[attr-defined]

    return context


def judge(probe: type, ctx: Context, **parameters: object) -> Judgement:
    made = probe(**parameters)
    return made.judge(painters.attempt(made, ctx), Policy())  # type: ignore[no-any-return]


# --- memorization-norm ------------------------------------------------------------------------------------------------


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
    found = MemorizationNorm().judge(
        sim.memorization_trials(np.random.default_rng(0), remembered=1, pull=5.0), Policy()
    )
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "about 4000 of these would decide" in found.reason


def test_leak_is_placed_by_the_reference() -> None:
    quiet = list(sim.memorization_trials(np.random.default_rng(1)))
    loud = list(sim.memorization_trials(np.random.default_rng(1), remembered=8, pull=3.0))

    def beside(trials: list[Trial]) -> list[Trial]:
        arms = {"target": REFERENCE, f"control:{FRESH}": f"control:reference {FRESH}"}
        return [t.model_copy(update={"arm": arms[t.arm]}) for t in trials]

    prompt = MemorizationNorm().judge(Trials([*loud, *beside(quiet)]), Policy())
    assert "the prompt (its adapter or token) remembers it" in prompt.reason
    assert prompt.delta is not None
    assert prompt.delta.ci[0] > 0
    weights = MemorizationNorm().judge(Trials([*loud, *beside(loud)]), Policy())
    assert "the weights remember it" in weights.reason


def test_fresh_captions_are_new_and_as_long(make: Make) -> None:
    ctx = make(MemorizationNorm)
    captions = audited_captions(ctx, 50)
    fresh = fresh_captions(ctx, captions, 200)
    assert len(set(fresh)) == len(fresh) > 150
    assert not set(fresh) & set(WORLD.captions)
    assert {len(text.split()) for text in fresh} == {6}
    assert fresh == fresh_captions(ctx, captions, 200)


def test_repeated_captions_are_audited_first(make: Make) -> None:
    ctx = make(MemorizationNorm)
    repeated = [replace(e, id=f"again {k}") for e in ctx.data.examples[7:9] for k in range(3)]
    ctx.data = replace(ctx.data, examples=[*ctx.data.examples, *repeated])
    assert set(audited_captions(ctx, 2)) == set(WORLD.captions[7:9])


def test_too_few_words_for_fresh_captions_is_not_assessed(make: Make) -> None:
    world = painters.World(["a disc"] * 3, WORLD.members[:3], WORLD.others[:3])
    found = judge(MemorizationNorm, make(MemorizationNorm, world=world))
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "fresh captions could be made" in found.reason


# --- t2i-mia ----------------------------------------------------------------------------------------------------------


def test_members_that_are_remembered_are_told_apart(make: Make) -> None:
    found = judge(T2IMIA, make(T2IMIA, 80))
    assert found.verdict is Verdict.VULNERABLE
    assert found.controls["blind"].ci[0] < 0.5
    assert float(found.details["p of a set of 10"]) < 1e-3
    assert found.controls["permuted members"].ci[1] < found.metric.value  # type: ignore[union-attr]


def test_members_that_are_not_remembered_are_not(make: Make) -> None:
    found = judge(T2IMIA, make(T2IMIA, world=painters.World.of(200)))
    assert found.verdict in (Verdict.HELD, Verdict.INCONCLUSIVE)
    assert found.metric.ci[0] < 0.5  # type: ignore[union-attr]


def test_scores_of_a_known_memory(make: Make) -> None:
    """At a high noise level a remembered picture is foretold, so its loss is nearly nothing; another's is not."""
    target = make(T2IMIA, 80).target
    latents = target.model.encode_images(torch.cat([WORLD.members[:4], WORLD.others[:4]]))
    noises = torch.randn(len(LEVELS), 8, *latents.shape[1:], generator=torch.Generator().manual_seed(0))
    captions = target.encode([*WORLD.captions[:4]] * 2)
    before = target.meter.queries
    scores = Likelihood(target, hops=2).scores(latents, noises, captions, captions)
    assert target.meter.queries - before == 8 * passes(2)
    for name in ("loss 0.3", "pia", "secmi"):
        assert scores[name][:4].min() > scores[name][4:].max()
    assert torch.equal(scores["shuffled loss"], scores["loss 0.3"])  # here the other caption is the own one


def test_captions_that_differ_between_the_sides_confound_the_split(make: Make) -> None:
    ctx = make(T2IMIA, 80)
    retold = [
        replace(e, texts={"text": e.texts["text"].replace("a ", "one ", 1)}) if e.member else e
        for e in ctx.data.examples
    ]
    ctx.data = replace(ctx.data, examples=retold)
    found = judge(T2IMIA, ctx)
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split confounded" in found.reason


def test_blind_scores_read_captions_and_only_if_there_are_any() -> None:
    rng = np.random.default_rng(0)
    features, members = rng.normal(size=(120, 3)), np.arange(120) < 60
    identities = [str(i) for i in range(120)]
    told = blind_scores(features, [""] * 120, members, identities, ["the cat" if m else "a cat" for m in members])
    assert told[members].min() > told[~members].max()
    plain = blind_scores(features, [""] * 120, members, identities)
    assert np.array_equal(plain, blind_scores(features, [""] * 120, members, identities, [""] * 120))


def test_leak_of_an_adapter_is_placed_in_the_prompt() -> None:
    rng = np.random.default_rng(0)
    target, reference = sim.t2i_mia_trials(rng, leak=1.5), sim.t2i_mia_trials(rng)
    other = [t.model_copy(update={"arm": REFERENCE}) for t in reference]
    found = T2IMIA().judge(Trials([*target, *other]), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the prompt" in found.reason
    same = [t.model_copy(update={"arm": REFERENCE}) for t in target]
    assert "the leak is in the weights" in T2IMIA().judge(Trials([*target, *same]), Policy()).reason


def test_nothing_is_learned_from_the_half_that_is_tested() -> None:
    """Attacks that mean nothing, however many, must not look good: weights come from other identities."""
    rng = np.random.default_rng(3)
    trials = [
        t.model_copy(update={"values": {**t.values, "scores": {f"x{k}": v for k, v in enumerate(rng.normal(size=150))}
                                        | {"shuffled loss": 0.0}}})
        for t in sim.t2i_mia_trials(rng)
    ]  # fmt: skip
    found = T2IMIA().judge(Trials(trials), Policy())
    assert found.metric is not None
    assert found.metric.ci[0] < 0.5 < found.metric.ci[1]


# --- extraction -------------------------------------------------------------------------------------------------------

SMALL = painters.World.of(30)


class PixelScorer:
    """Features that are the pixels: enough of an embedding for pictures without a meaning."""

    def __init__(self) -> None:
        self.target = self

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1) - 0.5, dim=1)


def drawn(make: Make, remembered: int, *, members: bool = True) -> Judgement:
    ctx = make(Extraction, remembered, SMALL)
    ctx._scorer = PixelScorer  # type: ignore[assignment]
    if not members:
        ctx.data = replace(ctx.data, examples=[replace(example, member=None) for example in ctx.data.examples])
    return judge(Extraction, ctx)


def test_remembered_pictures_are_drawn_out_and_shown(make: Make) -> None:
    found = drawn(make, 8)
    assert found.verdict is Verdict.VULNERABLE
    assert found.reason.startswith("8 of 30 captions give a near copy of a training picture, 0 of a held-out one")
    assert {row[0] for row in found.details["table"].rows[:8]} == set(SMALL.captions[:8])
    assert all(item.sensitive for item in found.evidence)
    assert [item.caption.split(" | ")[1][:5] for item in found.evidence[:3]] == ["drawn", "its t", "neare"]


def test_nothing_is_drawn_out_of_a_pipeline_without_memory(make: Make) -> None:
    found = drawn(make, 0)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "0 of 30 captions" in found.reason
    assert "about 368 captions would decide" in found.reason
    assert not found.evidence


def test_without_members_cliques_are_told_but_convict_nobody(make: Make) -> None:
    found = drawn(make, 8, members=False)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason.startswith("8 of 30 captions draw nearly one picture whatever the seed, 0 of")


def test_four_copies_are_too_few_to_convict() -> None:
    quiet = sim.extraction_trials(np.random.default_rng(0), alike=0.0, captions=60)
    four = Trials([t.model_copy(update={"values": {**t.values, "training copies": int(i < 4)}})
                   for i, t in enumerate(quiet.target)])  # fmt: skip
    found = Extraction().judge(four, Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.controls["smallest reachable p"] == 0.5**4


def test_one_tile_tells_pictures_apart() -> None:
    first = torch.zeros(1, 3, 16, 16)
    second = first.clone()
    second[..., :4, :4] = 0.5
    assert tiled_distance(first, second).item() == pytest.approx(0.5)
    assert largest_clique([[0, 0.1, 0.1], [0.1, 0, 0.9], [0.1, 0.9, 0]], 0.5) == 2


@pytest.mark.parametrize("probe", [MemorizationNorm, T2IMIA])
def test_trials_depend_neither_on_order_nor_on_batch(probe: type, make: Make) -> None:
    ctx, made = make(probe, 8), probe()
    cases = made.cases(ctx)[:6] + made.cases(ctx)[-6:]
    assert cases == made.cases(ctx)[:6] + made.cases(ctx)[-6:]
    ctx.start_clock()
    once = {t.case: t.values for t in made.attempt(ctx, cases)}
    again = {t.case: t.values for t in made.attempt(replace(ctx, batch_size=5), cases[::-1])}
    for case, values in once.items():
        for key in ("norms", "scores"):
            if key in values:
                numbers = (v[key].values() if key == "scores" else v[key] for v in (values, again[case]))
                first, second = (list(n) for n in numbers)
                assert first == pytest.approx(second, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "t2i-mia, no leak",
        "extraction, look-alikes",
        "memorization-norm, nothing",
        "memorization-norm, familiar captions",
    ],
)
def test_few_null_audits_raise_no_alarm(name: str) -> None:
    assert sim.calibrate(name, 2, seed=1)[Verdict.VULNERABLE] == 0
