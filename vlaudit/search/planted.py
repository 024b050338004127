"""A reading of a classifier that is known to turn within a radius: does a search find that?

An attack that fails proves nothing unless it would succeed where there is something to find. So something is planted in the audited
model, at the audited radius: of some random corners of the ball around a picture, the one whose logits are the furthest from their mean.
The reading has two labels; the second wins where the logits have gone nine tenths of the way from that mean to that corner. A descent whose gradient means anything goes
further than a random corner does; one whose gradient is zero, or noise, does not. (After Zimmermann et al. 2022, arXiv:2206.13991.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlaudit.families.matching import Classifier
from vlaudit.search.gradient import Budget, gives_probabilities, worst_case

CORNERS = 32
WAY = 0.9  # of the way to the corner


class Planted:
    """The reading, for some pictures (N, 3, H, W) at once. It answers for points within the radius of one of them."""

    def __init__(self, classifier: Classifier, images: Tensor, seeds: Sequence[int], epsilon: float) -> None:
        self.classifier, self.images = classifier, images
        with torch.no_grad():
            self.probabilities = gives_probabilities(classifier(images[:1]))
            reached = []
            for corner in range(CORNERS):
                signs = np.array([np.random.default_rng((seed, corner)).integers(0, 2, images.shape[1:]) for seed in seeds])
                reached.append(self.logits((images + epsilon * (2 * torch.tensor(signs).to(images) - 1)).clamp(0, 1)))
            self.usual = torch.stack(reached).mean(dim=0)
            away = torch.stack(reached) - self.usual
            furthest = away.norm(dim=2).argmax(dim=0)
            goal = away[furthest, torch.arange(len(images), device=images.device)]
        length = goal.norm(dim=1)
        self.moves = length > 0  # else there is nothing to plant, and no search that could be tested
        self.direction = goal / length.square().clamp(min=torch.finfo(length.dtype).tiny)[:, None]

    def logits(self, images: Tensor) -> Tensor:
        out: Tensor = self.classifier(images).float()
        return out.clamp(min=torch.finfo(out.dtype).tiny).log() if self.probabilities else out

    def __call__(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            far = torch.cdist(points.detach().flatten(1), self.images.flatten(1), p=torch.inf)
            owner = far.argmin(dim=1)
        gone = ((self.logits(points) - self.usual[owner]) * self.direction[owner]).sum(dim=1)
        return torch.stack([torch.full_like(gone, WAY), gone], dim=1)


def found(classifier: Classifier, images: Tensor, seeds: Sequence[int], epsilon: float, budget: Budget, *, samples: int = 1) -> list[bool]:
    """For each picture whether the descent finds what is planted within ``epsilon``. Random search is left out: that it could see is no
    proof that the gradient does."""
    if len(images) == 0:
        return []
    planted = Planted(classifier, images, seeds, epsilon)
    descent = Budget(budget.steps, 0, 0, 0)
    own = torch.zeros(len(images), dtype=torch.long, device=images.device)
    outcome = worst_case(planted, images, own, seeds, epsilon, descent, samples=samples)
    return (outcome.beaten & planted.moves).tolist()
