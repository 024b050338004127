"""AutoAttack's own attacks, as torchattacks has them, on pictures that another search left standing.

APGD on cross-entropy, APGD on the difference of logits ratio (DLR), APGD on the DLR of nine targets, and Square Attack with 5,000
queries (Croce and Hein 2020, arXiv:2003.01690), with the hundred steps of the published evaluation. FAB, which seeks the smallest change,
is left out: in the published tables it beats next to nothing that the others leave.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlaudit.families.matching import Classifier
from vlaudit.search.gradient import gives_probabilities

STEPS, QUERIES, TARGETS = 100, 5000, 9


class _Module(nn.Module):
    """A classifier as attack libraries expect one: its logits on a scale of about 1, and a gradient even where it has none."""

    def __init__(self, classifier: Classifier, images: Tensor) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_parameter("place", nn.Parameter(torch.zeros(1, device=images.device), requires_grad=False))
        with torch.no_grad():
            self.probabilities = gives_probabilities(classifier(images))
            self.scale = float(self.raw(images).std().clamp(min=1e-12))

    def raw(self, images: Tensor) -> Tensor:
        out: Tensor = self.classifier(images).float()
        return out.clamp(min=torch.finfo(out.dtype).tiny).log() if self.probabilities else out

    def forward(self, images: Tensor) -> Tensor:
        return self.raw(images) / self.scale + 0 * images.flatten(1).sum(1, keepdim=True)


def autoattack(
    classifier: Classifier, images: Tensor, labels: Tensor, epsilon: float, seed: int, *, samples: int = 1
) -> tuple[list[str], Tensor]:
    """Which attack beat each picture (B, 3, H, W) within ``epsilon`` (empty: none), and the attacked pictures. ``samples``: passes
    averaged for a classifier that answers at random."""
    from torchattacks import APGD, APGDT, Square

    stages, attacked = [""] * len(images), images.clone()
    if len(images) == 0:
        return stages, attacked
    seed %= 2**31
    with torch.random.fork_rng(), torch.no_grad():
        model = _Module(classifier, images).eval()
        classes = model(images[:1]).shape[1]
        attacks = {"apgd-ce": APGD(model, eps=epsilon, steps=STEPS, loss="ce", seed=seed, eot_iter=samples)}
        if classes > 2:  # the ratio is of the first logit and the third
            attacks["apgd-dlr"] = APGD(model, eps=epsilon, steps=STEPS, loss="dlr", seed=seed, eot_iter=samples)
        if classes > 3:
            targets = min(classes - 1, TARGETS)
            attacks["apgd-t"] = APGDT(model, eps=epsilon, steps=STEPS, seed=seed, eot_iter=samples, n_classes=targets + 1)
        attacks["square"] = Square(model, eps=epsilon, n_queries=QUERIES, seed=seed)
        alive = model(images).argmax(dim=1) == labels
        for name, attack in attacks.items():
            rows = alive.nonzero().flatten()
            if len(rows) == 0:
                break
            with torch.enable_grad():
                found = attack(images[rows], labels[rows]).detach()
            found = found.clamp(images[rows] - epsilon, images[rows] + epsilon).clamp(0, 1)
            beaten = rows[model(found).argmax(dim=1) != labels[rows]]
            attacked[rows] = found
            alive[beaten] = False
            for row in beaten.tolist():
                stages[row] = name
    return stages, attacked
