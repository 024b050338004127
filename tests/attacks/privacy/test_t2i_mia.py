"""Membership in a pipeline's pictures: what it remembers is found and placed, nothing else is, weights are not overfitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks.battery.privacy.t2i_mia import draw
from tests.attacks import painters
from tests.attacks.privacy.painted import WORLD, Make, check_that_trials_stand_alone, judge
from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.attacks.privacy.t2i_mia.likelihood import LEVELS, Likelihood, passes
from vlaudit.policy import Policy
from vlaudit.records import Trials, Verdict


def test_members_that_are_remembered_are_told_apart(make: Make) -> None:
    found = judge(T2IMIA, make(T2IMIA, 80))
    assert found.verdict is Verdict.VULNERABLE
    assert found.controls["blind"].ci[0] < 0.5
    sets = next(table for table in found.details["table"] if table.title == "Sets of pictures")
    assert float(sets.rows[0][1]) < 1e-3
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
    for adapter, place in ((True, "the leak is in the prompt"), (False, "the leak is in the weights")):
        found = T2IMIA().judge(draw(np.random.default_rng(0), size=2.0, adapter=adapter), Policy())
        assert found.verdict is Verdict.VULNERABLE
        assert place in found.reason


def test_one_member_in_ten_is_found_by_all_pictures_that_there_are() -> None:
    found = T2IMIA().judge(draw(np.random.default_rng(0), size=12.0, share=0.1, attacks=8), Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.name == "members exposed at 1 % false alarms"
    assert found.metric.n == 1200


def test_nothing_is_learned_from_whom_it_is_tested_on() -> None:
    """Attacks that mean nothing, however many, must not look good: weights come from other identities."""
    rng = np.random.default_rng(3)
    trials = [
        t.model_copy(update={"values": {**t.values, "scores": {f"x{k}": v for k, v in enumerate(rng.normal(size=150))}
                                        | {"shuffled loss": 0.0}}})
        for t in draw(rng, reference=False)
    ]  # fmt: skip
    found = T2IMIA().judge(Trials(trials), Policy())
    rows = next(table.rows for table in found.details["table"] if table.title == "What tells members apart")
    assert rows[0][1] == "AUC of membership"
    assert rows[0][3] < 0.5 < rows[0][4]


def test_trials_depend_neither_on_order_nor_on_batch(make: Make) -> None:
    check_that_trials_stand_alone(T2IMIA(), make(T2IMIA, 8), lambda values: list(values["scores"].values()))
