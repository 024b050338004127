"""One change of a picture that fools several classifiers, L_inf: signed steps with momentum that lower all margins together.

It asks another question than ``gradient.py``. There a picture leaves the batch in the step that beats it; here all steps are spent,
because what has barely crossed one boundary says little of what lies behind the others. A classifier counts until its margin is
beyond zero by some room to spare, so that those that still stand take over the gradient (the mean of CroPA's losses over prompts,
arXiv:2403.09766, with the hinge of Carlini and Wagner, arXiv:1608.04644). Momentum as in MI-FGSM (Dong et al. 2018, arXiv:1710.06081).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlaudit.families.matching import Panel
from vlaudit.search.gradient import margins

_MOMENTUM = 0.5


@dataclass(frozen=True)
class Plan:
    """epsilon: L_inf radius on [0, 1]; steps: passes a picture; spare: how far beyond zero a margin is to be brought, in standard
    deviations of a clean picture's logits."""

    epsilon: float
    steps: int
    spare: float = 1.0


def crossing(panel: Panel, images: Tensor, labels: Tensor, plan: Plan) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] with labels (B,), changed within the plan: of all points on the way the ones whose margins are
    lowest together. What becomes of one picture does not depend on the others."""
    low, high = (images - plan.epsilon).clamp(min=0), (images + plan.epsilon).clamp(max=1)
    with torch.no_grad():
        scales = [logits.std(dim=1).clamp(min=1e-12) for logits in panel(images)]
    point, speed = images.clone(), torch.zeros_like(images)
    best, lowest = images.clone(), torch.full((len(images),), math.inf, device=images.device)
    for step in range(plan.steps + 1):
        x = point.detach().requires_grad_(step < plan.steps)
        with torch.set_grad_enabled(step < plan.steps):
            left = torch.stack([
                (margins(logits.float(), labels) / scale).clamp(min=-plan.spare) for logits, scale in zip(panel(x), scales, strict=True)
            ]).mean(dim=0)  # fmt: skip
            gradient = torch.autograd.grad(left.sum(), x)[0] if left.requires_grad else torch.zeros_like(x)
        nearer = left.detach() < lowest
        best[nearer], lowest[nearer] = point[nearer], left.detach()[nearer]
        if step < plan.steps:
            speed = _MOMENTUM * speed + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20)
            length = plan.epsilon * (1 + math.cos(math.pi * step / plan.steps))
            point = (point - length * speed.sign()).clamp(low, high)
    return best
