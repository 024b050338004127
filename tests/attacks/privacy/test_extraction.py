"""Training pictures drawn by their captions: copies are found and shown, coincidences and cliques convict nobody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.attacks import calibration, painters
from tests.attacks.privacy.painted import Make, judge
from vlaudit.attacks.privacy.extraction import Extraction
from vlaudit.attacks.privacy.extraction.cliques import largest_clique
from vlaudit.attacks.privacy.extraction.copies import tiled_distance
from vlaudit.policy import Policy
from vlaudit.records import Judgement, Trials, Verdict

sim = calibration.load()
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


def test_few_null_audits_raise_no_alarm() -> None:
    assert sim.calibrate("extraction, look-alikes", 2, seed=1)[Verdict.VULNERABLE] == 0
