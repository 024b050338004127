"""Learning of prompts whose image side is learned too, so that every step passes pictures through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel, MatchingPrompt

Loss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""What is added to the cross-entropy, of image features (B, D), text features (C, D) and the batch's places (B,) among the pictures."""


def learn(prompt: MatchingPrompt, learned: Iterable[Tensor], model: MatchingModel, images: Tensor, targets: Tensor, labels: list[str], *,
          steps: int, batch_size: int, rate: float, generator: Generator, more: Loss | None = None,
          progress: Callable[[int, float], None] | None = None) -> None:  # fmt: skip
    """Lower the cross-entropy of pictures (N, 3, H, W) in [0, 1] with targets (N,) int64 by the ``learned`` tensors of a prompt, the model
    frozen. Each step passes a batch of the pictures and all labels. In place."""
    import torch

    learned = list(learned)
    for values in learned:
        values.requires_grad_()
    optimizer = torch.optim.Adam(learned, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)
        texts, seen = prompt.label_features(model, labels), prompt.image_features(model, images[batch])
        loss = torch.nn.functional.cross_entropy(model.logit_scale * seen @ texts.T, targets[batch])
        if more:
            loss = loss + more(seen, texts, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step, float(loss.detach()))
    for values in learned:
        values.requires_grad_(False)
