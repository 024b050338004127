"""The worst-case attack against classifiers whose true robustness is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from vlaudit.search import gradient
from vlaudit.search.gradient import BUDGETS, Budget, is_stochastic, worst_case, worst_cases

QUICK = BUDGETS["quick"]
EPSILON = 4 / 255


def linear(classes: int, scale: float = 1.0, seed: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    weight = torch.randn(classes, 3 * 8 * 8, generator=torch.Generator().manual_seed(seed))
    return (lambda images: scale * (images - 0.5).flatten(1) @ weight.T), weight


def pictures(count: int, seed: int = 1) -> Tensor:
    """Grey enough that no attack within EPSILON is clipped."""
    return 0.5 + 0.6 * (torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.5)


def truly_robust(weight: Tensor, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """A linear margin falls by epsilon times the L1 norm of the difference of two rows, and no more."""
    logits = (images - 0.5).flatten(1) @ weight.T
    own = logits.gather(1, labels[:, None])
    reach = epsilon * (weight[labels][:, None] - weight[None]).abs().sum(-1)
    slack = own - logits - reach
    slack.scatter_(1, labels[:, None], torch.inf)
    return slack.amin(1) > 0


@pytest.mark.parametrize("classes", [2, 3, 12])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_beats_exactly_what_can_be_beaten(classes: int, scale: float) -> None:
    classify, weight = linear(classes, scale)
    images = pictures(64)
    labels = classify(images).argmax(1)
    outcome = worst_case(classify, images, labels, range(64), EPSILON, QUICK)
    robust = truly_robust(weight, images, labels, EPSILON)
    assert 2 <= robust.sum() <= 62
    assert torch.equal(~outcome.beaten, robust)


def test_stays_in_the_radius_and_in_the_range_and_what_it_calls_beaten_is() -> None:
    classify, _ = linear(5)
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(3)).round()
    labels = classify(images).argmax(1)
    outcome = worst_case(classify, images, labels, range(32), 0.3, QUICK)
    assert (outcome.adversarial - images).abs().max() <= 0.3 + 1e-6
    assert outcome.adversarial.min() >= 0
    assert outcome.adversarial.max() <= 1
    assert torch.equal(outcome.beaten, classify(outcome.adversarial).argmax(1) != labels)
    assert [stage != "" for stage in outcome.stage] == outcome.beaten.tolist()


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, images: Tensor) -> Tensor:
        return (images * 255).round() / 255

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)


def masked(kind: str, classify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return {
        "rounded": lambda images: classify(Rounded.apply(images)),
        "detached": lambda images: classify(images.detach()),
    }[kind]


@pytest.mark.parametrize("kind", ["rounded", "detached"])
def test_sees_through_masked_gradients(kind: str) -> None:
    classify, weight = linear(4)
    images = pictures(48)
    labels = classify(images).argmax(1)
    outcome = worst_case(masked(kind, classify), images, labels, range(48), EPSILON, Budget(10, 4, 10, 600))
    beatable = ~truly_robust(weight, images, labels, EPSILON)
    assert outcome.beaten.sum() >= 0.85 * beatable.sum()
    assert outcome.zero_gradient.all()
    assert set(outcome.stage) <= {"", "descent", "search"}  # a random point of the descent may beat the weakest
    assert outcome.gradient_steps.max() <= 2


def test_saturated_probabilities_do_not_hide_the_margin() -> None:
    classify, weight = linear(4, scale=10.0)
    images = pictures(48)
    labels = classify(images).argmax(1)
    probabilities = classify(images).softmax(1)
    assert (probabilities.max(1).values == 1).float().mean() > 0.3  # cross-entropy has no gradient there
    outcome = worst_case(lambda x: classify(x).softmax(1), images, labels, range(48), EPSILON, Budget(12, 4, 12, 0))
    assert torch.equal(~outcome.beaten, truly_robust(weight, images, labels, EPSILON))


RADIUS = 0.02  # some of its pictures can be beaten within it, not all


def small_model() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(64, 6),
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def test_outcome_depends_on_neither_batch_nor_order() -> None:
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    raw = small_model()
    middle = raw(images).mean(0)

    def model(x: Tensor) -> Tensor:
        return raw(x) - middle  # else one label wins everywhere

    labels = model(images).argmax(1)
    budget = Budget(3, 3, 4, 60)
    for classify in (model, masked("rounded", model)):
        whole = worst_case(classify, images, labels, range(12), RADIUS, budget)
        back = worst_case(classify, images.flip(0), labels.flip(0), range(11, -1, -1), RADIUS, budget)
        assert 0 < whole.beaten.sum() < 12
        assert torch.equal(whole.beaten, back.beaten.flip(0))
        assert torch.allclose(whole.adversarial, back.adversarial.flip(0), atol=1e-5)
        for i in range(12):
            alone = worst_case(classify, images[i : i + 1], labels[i : i + 1], [i], RADIUS, budget)
            assert torch.allclose(alone.adversarial, whole.adversarial[i : i + 1], atol=1e-5)


def test_leaves_in_the_step_that_beats_and_skips_what_is_wrong_already() -> None:
    seen: list[int] = []
    classify, _ = linear(3)

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return classify(images)

    images = pictures(40)
    labels = classify(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 3
    outcome = worst_case(counted, images, labels, range(40), EPSILON, QUICK)
    assert not outcome.correct[:10].any()
    assert outcome.queries[:10].tolist() == [1] * 10
    beaten = outcome.beaten.nonzero().flatten()
    assert (outcome.gradient_steps[beaten] <= 3).float().mean() > 0.9
    assert sum(seen) - 1 == int(outcome.queries.sum())  # one more: the look at what kind of numbers come out


def test_larger_radii_beat_more_and_no_picture_twice() -> None:
    classify, weight = linear(6)
    images = pictures(64)
    labels = classify(images).argmax(1)
    radii = [1 / 255, 2 / 255, 4 / 255]
    outcomes = worst_cases(classify, images, labels, range(64), radii, QUICK)
    for small, large in pairwise(radii):
        assert (outcomes[small].beaten <= outcomes[large].beaten).all()
        assert (outcomes[small].queries[~outcomes[large].beaten] == 0).all()
    for radius in radii:
        assert torch.equal(~outcomes[radius].beaten, truly_robust(weight, images, labels, radius))


def test_no_number_is_no_robustness() -> None:
    classify, _ = linear(3)
    images = pictures(16)
    labels = classify(images).argmax(1)
    fragile = worst_case(
        lambda x: torch.where((x - images[: len(x)]).flatten(1).any(1)[:, None], torch.nan, classify(x)),
        images[:1], labels[:1], [0], EPSILON, QUICK,
    )  # fmt: skip
    assert fragile.beaten.all()
    broken = worst_case(lambda x: classify(x) * torch.nan, images, labels, range(16), EPSILON, QUICK)
    assert not broken.correct.any()


def test_stochastic_answers_are_noticed_and_averaged() -> None:
    classify, weight = linear(4)
    images = pictures(48)
    labels = classify(images).argmax(1)
    torch.manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return classify(x) + 0.5 * torch.randn(len(x), 4)

    assert is_stochastic(noisy, images)
    assert not is_stochastic(classify, images)
    outcome = worst_case(noisy, images, labels, range(48), EPSILON, QUICK, samples=16)
    robust = truly_robust(weight, images, labels, EPSILON)
    assert (outcome.beaten != robust).float().mean() > 0.9


class Tower(nn.Module):
    """The size that the audit is costed on: 1.2 million parameters, 17 tokens, 12 labels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 128, 8, 8)
        self.places = nn.Parameter(torch.randn(1, 17, 128) * 0.02)
        layer = nn.TransformerEncoderLayer(
            128, 4, 512, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(128, 12)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.places
        return 100 * nn.functional.normalize(self.head(self.blocks(tokens)[:, 0]), dim=-1)


def test_most_of_the_time_is_spent_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tower = Tower().eval().requires_grad_(False)
    images = torch.rand(32, 3, 32, 32)
    labels = tower(images).argmax(1)
    spent = 0.0

    def timed(run: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal spent
            then = time.process_time()
            result = run(*arguments)
            spent += time.process_time() - then
            return result

        return call

    monkeypatch.setattr(gradient.torch.autograd, "grad", timed(torch.autograd.grad))
    then = time.process_time()
    outcome = worst_case(timed(tower), images, labels, range(32), 1 / 255, QUICK)
    total = time.process_time() - then
    assert 0 < outcome.beaten.sum() < 32
    assert outcome.queries.max() > QUICK.steps + QUICK.target_steps  # all three stages ran
    assert spent / total >= 0.8
