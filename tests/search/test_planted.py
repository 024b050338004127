"""What is planted is there to be found, and only a descent that sees finds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.search.test_gradient import EPSILON, QUICK, linear, masked, pictures, small_model
from vlaudit.families.matching import Classifier
from vlaudit.search import autoattack as suite
from vlaudit.search.autoattack import autoattack
from vlaudit.search.planted import CORNERS, WAY, Planted, found


class Noise(torch.autograd.Function):
    """The pixels as they are, with a gradient that means nothing."""

    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        return torch.randn_like(grad)


CLASSIFIERS: dict[str, Classifier] = {"linear": linear(6)[0], "a small network": small_model()}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_planted_point_turns_the_reading_and_the_picture_does_not(name: str) -> None:
    images, seeds = pictures(12), list(range(12))
    planted = Planted(CLASSIFIERS[name], images, seeds, EPSILON)
    read = planted(images)
    assert planted.moves.all() and (read[:, 0] > read[:, 1]).all(), "untouched, the first label wins"
    turned = torch.zeros(12)
    for corner in range(2 * CORNERS):  # half of them are those that one was chosen from
        rng = [torch.tensor(np.random.default_rng((s, corner)).integers(0, 2, (3, 8, 8)) * 2 - 1) for s in seeds]
        reading = planted((images + EPSILON * torch.stack(rng)).clamp(0, 1))
        turned += reading[:, 1] > WAY
    assert (turned >= 1).all() and turned.mean() < 4, "one random corner turns it, and few others do"


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_a_sound_gradient_finds_it_and_a_masked_one_does_not(name: str, scale: float) -> None:
    images, seeds, raw = pictures(12), list(range(12)), CLASSIFIERS[name]

    def classify(points: Tensor) -> Tensor:
        return scale * raw(points)

    torch.manual_seed(0)
    assert all(found(classify, images, seeds, EPSILON, QUICK))
    assert all(found(lambda x: classify(x).softmax(1), images, seeds, EPSILON, QUICK)) or scale > 1  # saturated ones round to 0 and 1
    for kind in ("rounded", "detached"):
        assert sum(found(masked(kind, classify), images, seeds, EPSILON, QUICK)) <= 2, kind
    assert sum(found(lambda x: classify(Noise.apply(x)), images, seeds, EPSILON, QUICK)) <= 4


def test_nothing_can_be_planted_where_nothing_moves() -> None:
    def deaf(points: Tensor) -> Tensor:
        return torch.tensor([[0.2, 0.1, 0.0]]).expand(len(points), 3) + 0 * points.flatten(1).sum(1, keepdim=True)

    assert found(deaf, pictures(3), [0, 1, 2], EPSILON, QUICK) == [False] * 3
    assert found(deaf, pictures(0), [], EPSILON, QUICK) == []


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_autoattack_beats_what_can_be_beaten_and_stays_in_its_radius(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "QUERIES", 300)
    classify, weight = linear(classes, 100.0)
    images = pictures(24)
    labels = classify(images).argmax(1)
    state = torch.random.get_rng_state()
    stages, attacked = autoattack(classify, images, labels, EPSILON, 3)
    assert torch.equal(state, torch.random.get_rng_state()), "nobody else's random numbers are touched"
    assert (attacked - images).abs().max() <= EPSILON + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    beaten = classify(attacked).argmax(1) != labels
    assert [stage != "" for stage in stages] == beaten.tolist()
    logits = classify(images)
    reach = EPSILON * 100 * (weight[labels][:, None] - weight[None]).abs().sum(-1)
    slack = (logits.gather(1, labels[:, None]) - logits - reach).scatter(1, labels[:, None], torch.inf)
    assert torch.equal(~beaten, slack.amin(1) > 0)
    assert autoattack(lambda x: classify(x.detach()), images[:4], labels[:4], EPSILON, 3)[0], "no gradient is no error"
    assert autoattack(classify, images[:0], labels[:0], EPSILON, 3)[0] == []
