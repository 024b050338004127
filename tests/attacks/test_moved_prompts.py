"""Probes of matchers under prompts that depend on the picture: what they ask goes through the prompt, and costs what is planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.attacks.robustness.conftest import matching  # noqa: F401 (a fixture)
from vlaudit.attacks.robustness.prompt_text_perturb import PromptTextPerturb
from vlaudit.probe import Context
from vlaudit.prompts.cocoop import META, CoCoOp
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.tpt import TPT
from vlaudit.records import Case

torch.set_num_threads(1)


def prompt_of(kind: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    ctx = torch.randn(2, 32, generator=generator)
    shapes = ((2, 16), (2,), (32, 2), (32,))
    meta = {name: torch.randn(shape, generator=generator) for name, shape in zip(META, shapes, strict=True)}
    return CoCoOp(ctx, meta) if kind == "cocoop" else TPT(CoOp(ctx), views=4, select=0.5, rate=0.05)


@pytest.fixture(params=["cocoop", "tpt"])
def moved(request: pytest.FixtureRequest, matching: Context) -> Context:  # noqa: F811
    return replace(matching, _target=prompt_of(request.param).bind(matching.target.model), reduced=[])


def test_noise_on_the_context_is_asked_of_each_picture(moved: Context) -> None:
    probe, cases = PromptTextPerturb(pictures=24), [Case(id="no-op"), *(Case(id=f"noise-{n}", params={"noise": 50.0}) for n in range(4))]
    before = moved.target.meter.cost()
    still, *noisy = probe.attempt(moved, cases)
    assert not any(still["flips"]) and any(any(trial["flips"]) for trial in noisy)
    spent, planned = moved.target.meter.cost() - before, moved.target.whole(probe.estimate(moved, cases), len(moved.labels))
    assert planned.queries / 5 < spent.queries < 5 * planned.queries


def test_what_was_seen_once_is_asked_for_one_role_after_the_other(moved: Context) -> None:
    """As a search of a gallery does it."""
    images = moved.images(moved.examples)
    with torch.no_grad():
        seen = moved.target.seen(images)
        scores = [moved.target.asked([role])(seen) for role in ("cat", "dog")]
        wanted = [moved.target.classifier([role])(images) / moved.target.model.logit_scale for role in ("cat", "dog")]
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)
