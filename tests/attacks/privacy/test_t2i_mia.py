"""Membership in a pipeline's pictures: what it remembers is found and placed, nothing else is, weights are not overfitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tests.attacks import calibration, painters
from tests.attacks.privacy.painted import WORLD, Make, check_that_trials_stand_alone, judge
from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.attacks.privacy.t2i_mia.likelihood import LEVELS, Likelihood, passes
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, Trials, Verdict

sim = calibration.load()


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


def test_trials_depend_neither_on_order_nor_on_batch(make: Make) -> None:
    check_that_trials_stand_alone(T2IMIA(), make(T2IMIA, 8), lambda values: list(values["scores"].values()))


def test_few_null_audits_raise_no_alarm() -> None:
    assert sim.calibrate("t2i-mia, no leak", 2, seed=1)[Verdict.VULNERABLE] == 0
