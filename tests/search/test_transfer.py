"""The search for noise that works under wordings it was not made for, on functions whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from vlaudit.search.transfer import Plan, transferable


class Toy:
    """A wording whose margin is a function of the picture and of one embedding of two numbers."""

    def __init__(self, margin: Callable[[Tensor, Tensor], Tensor], soft: bool = True) -> None:
        self.margin, self.soft, self.seen = margin, soft, list[int]()

    def embeddings(self, row: int) -> Tensor | None:
        return torch.ones(1, 2) if self.soft else None

    def margins(self, points: Sequence[Tensor], rows: Sequence[int], embeddings: Sequence[Tensor] | None) -> Tensor:
        self.seen += rows
        texts = embeddings or [torch.ones(1, 2)] * len(points)
        return torch.stack([self.margin(point, text[0]) for point, text in zip(points, texts, strict=True)])


def picture(seed: int = 0) -> Tensor:
    return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))


WEIGHTS = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(9))


def test_it_goes_to_the_corner_of_the_ball_and_stays_in_range():
    x = picture()
    (found,) = transferable([Toy(lambda p, _: (WEIGHTS * p).sum())], [x], Plan(0.1, 12, spare=1e9))
    torch.testing.assert_close(found, (x - 0.1 * WEIGHTS.sign()).clamp(0, 1))


def test_all_wordings_are_taken_in_turn():
    apart = [Toy(lambda p, _, c=c: p[c].sum()) for c in range(3)]
    (found,) = transferable(apart, [picture()], Plan(0.1, 12, spare=1e9))
    torch.testing.assert_close(found, (picture() - 0.1).clamp(0, 1))


def test_a_picture_leaves_once_it_has_won_everywhere():
    easy, hard = picture(1), picture(2)
    views = [
        Toy(
            lambda p, _: (
                (WEIGHTS * (p - easy)).sum() * 1e3 if torch.dist(p, easy) < torch.dist(p, hard) else p.sum() + 9
            )
        )
    ] * 2
    transferable(views, [easy, hard], Plan(0.05, 20))
    assert views[0].seen.count(1) == 20 and views[0].seen.count(0) < 8


def test_what_becomes_of_a_picture_does_not_depend_on_the_others():
    views = [Toy(lambda p, t: (WEIGHTS * p * p).sum() * t[0] + p[0].sum() * t[1]) for _ in range(2)]
    together = transferable(views, [picture(n) for n in range(3)], Plan(0.05, 9))
    torch.testing.assert_close(together[1], transferable(views, [picture(1)], Plan(0.05, 9))[0])


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_prompt_step_turns_away_from_what_hangs_on_the_wording(noise: float):
    """Along the first channel the margin falls fast, but its slope turns with the wording's embedding; along the second it
    falls slowly under every wording."""

    def margin(p: Tensor, text: Tensor) -> Tensor:
        change = p - 0.5
        return 4 * (text[0] - 0.7) * change[0].sum() + change[1].sum()

    x = torch.full((3, 4, 4), 0.5)
    (found,) = transferable([Toy(margin)], [x], Plan(0.1, 24, spare=1e9, prompt_noise=noise))
    assert (found[1] == 0.4).all(), "the safe channel is used either way"
    other = margin(found, torch.tensor([0.5, 1.0]))  # an unseen wording, in which the first channel works the other way
    assert (other < -1.2) == bool(noise)


def test_wordings_without_embeddings_and_pictures_without_gradient():
    x = picture()
    (found,) = transferable([Toy(lambda p, _: (WEIGHTS * p).sum(), soft=False)], [x], Plan(0.1, 8))
    assert (found - x).abs().max() > 0.05
    flat = transferable([Toy(lambda p, _: (p * 0).sum() + 1)], [x], Plan(0.1, 8))
    torch.testing.assert_close(flat[0], x)
