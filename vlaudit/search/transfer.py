"""One change of a picture that works under prompts it was not made for: L_inf, by signed steps with momentum.

Each step takes one of several wordings in turn, and lowers its margin on all pictures. While the picture's noise goes down
the margin, a noise on the embeddings of the wording goes up it, so that what is found cannot hang on the wording: the
min-max of CroPA (Luo et al. 2024, arXiv:2403.09766), whose prompt noise is the second gradient of the same pass. It differs
in three ways: gradients are accumulated with momentum (MI-FGSM, Dong et al. 2018, arXiv:1710.06081) and steps shrink, which
takes some tens of passes where CroPA takes some hundreds; the prompt noise is bounded; and a picture leaves the batch once
it wins under every wording by a margin to spare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_MOMENTUM = 0.5  # more makes the two players of a min-max run in circles


class Wording(Protocol):
    """A wording that pictures are seen under."""

    def embeddings(self, row: int) -> Tensor | None:
        """(M, W): the token embeddings of the wording for picture ``row``, or None where they take no noise."""
        ...

    def margins(self, points: Sequence[Tensor], rows: Sequence[int], embeddings: Sequence[Tensor] | None) -> Tensor:
        """(R,): what is to become negative, of the pictures ``rows`` as they are now (each (3, H, W)), under the wording
        with these embeddings; differentiable in both."""
        ...


@dataclass(frozen=True)
class Plan:
    """epsilon: L_inf radius on [0, 1]; steps: passes a picture; spare: the margin (in nats) by which a picture has won;
    prompt_noise: bound of the noise on embeddings, in root mean squares of the embeddings (0: no max step)."""

    epsilon: float
    steps: int
    spare: float = 4.0
    prompt_noise: float = 0.2


def transferable(wordings: Sequence[Wording], pictures: Sequence[Tensor], plan: Plan) -> list[Tensor]:
    """Change pictures (3, H, W) in [0, 1] within the plan. What becomes of one does not depend on the others."""
    low = [(picture - plan.epsilon).clamp(min=0) for picture in pictures]
    high = [(picture + plan.epsilon).clamp(max=1) for picture in pictures]
    points = [picture.clone() for picture in pictures]
    speed = [torch.zeros_like(picture) for picture in pictures]
    noise: list[dict[int, Tensor]] = [{} for _ in wordings]
    won = [0] * len(pictures)  # steps in a row
    for step in range(plan.steps):
        rows = [row for row, wins in enumerate(won) if wins < len(wordings)]
        if not rows:
            break
        turn = step % len(wordings)
        x = [points[row].detach().requires_grad_() for row in rows]
        soft = _soft(wordings[turn], rows, noise[turn], plan)
        with torch.enable_grad():
            margins = wordings[turn].margins(x, rows, soft)
            gradients = torch.autograd.grad(margins.sum(), [*x, *(soft or [])], allow_unused=True)
        length = plan.epsilon * (1 + math.cos(math.pi * step / plan.steps)) / 2
        for place, (row, margin) in enumerate(zip(rows, margins.tolist(), strict=True)):
            won[row] = won[row] + 1 if margin < -plan.spare else 0
            gradient = gradients[place]
            if gradient is not None:
                speed[row] = _MOMENTUM * speed[row] + gradient / gradient.abs().mean().clamp(min=1e-20)
            points[row] = torch.clamp(points[row] - length * speed[row].sign(), low[row], high[row])
            if soft is not None and (uphill := gradients[len(rows) + place]) is not None:
                noise[turn][row] = _worst(uphill, soft[place], plan)
    return points


def _soft(wording: Wording, rows: Sequence[int], noise: dict[int, Tensor], plan: Plan) -> list[Tensor] | None:
    """The embeddings of the wording with the noise so far, to be differentiated; None where there are none."""
    found = [wording.embeddings(row) for row in rows] if plan.prompt_noise else [None]
    plain = [each for each in found if each is not None]
    if len(plain) < len(found):
        return None
    return [(each + noise.get(row, 0)).detach().requires_grad_() for each, row in zip(plain, rows, strict=True)]


def _worst(gradient: Tensor, embeddings: Tensor, plan: Plan) -> Tensor:
    """The noise within its bound that raises the margin most, to first order."""
    return plan.prompt_noise * embeddings.detach().square().mean().sqrt() * gradient.sign()
