"""Near copies: how alike two pictures are, and which pictures a caption's could be taken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.data.example import Example
from vlaudit.probe import Context
from vlaudit.records import Case, Evidence

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TILES = 4
OWN, RIVALS = 4, 24  # most pictures of a caption, and of a side of the split
NEAR = 0.5  # of the distance to what it is compared with: what a near copy is (Carlini et al. 2023)


def tiled_distance(first: Tensor, second: Tensor) -> Tensor:
    """(A, B): root mean square difference of pictures (A, 3, H, W) and (B, 3, H, W) in the worst of 4 x 4 tiles, so that
    two pictures with the same empty ground are not alike for it."""
    import torch

    squares = (first[:, None] - second[None]).square().mean(dim=2)
    return torch.nn.functional.adaptive_avg_pool2d(squares, TILES).sqrt().amax(dim=(-2, -1))


def features(ctx: Context, images: Tensor) -> Tensor:
    """(N, D) of unit norm: the scorer's."""
    import torch

    scorer = ctx.scorer
    with torch.no_grad():
        return scorer.target.image_features(scorer.prepare(images))


class Gallery:
    """A caption's pictures on one side of the split, and what they are compared with: the other side's most like them.
    ``known``: the scorer's features of pictures by id, filled as they are needed."""

    def __init__(
        self, ctx: Context, own: Sequence[Example], rivals: Sequence[Example], known: dict[str, Tensor]
    ) -> None:
        import torch

        self.own, self.rivals, self.count = own, rivals, len(own)
        both = [*own, *rivals]
        self.images = ctx.images(both)
        new = [i for i, example in enumerate(both) if example.id not in known]
        if new:
            known.update(zip([both[i].id for i in new], features(ctx, self.images[new]), strict=True))
        self.features = torch.stack([known[example.id] for example in both])

    def compare(self, images: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(drawn, own) each: the distance of a drawn picture to an own one over that to the nearest rival; and whether it is a near
        copy of it (below half, and the embedding finds it nearer than any rival too)."""
        distance, alike = tiled_distance(images, self.images), seen @ self.features.T
        ratios = distance[:, : self.count] / distance[:, self.count :].amin(dim=1, keepdim=True).clamp(min=1e-6)
        closer = alike[:, : self.count] > alike[:, self.count :].amax(dim=1, keepdim=True)
        return ratios, (ratios < NEAR) & closer


def most_alike(
    caption: str, label: str | None, pool: Sequence[Example], count: int, rng: np.random.Generator
) -> list[Example]:
    """The ``count`` pictures whose caption, then label, then words are most like these; ties fall at random."""
    words = set(caption.lower().split())

    def likeness(example: Example) -> tuple[bool, bool, int]:
        text = example.texts["text"]
        same = label is not None and example.label == label
        return text == caption, same, len(words & set(text.lower().split()))

    order = rng.permutation(len(pool)).tolist()
    ranked = sorted(order, key=lambda i: likeness(pool[i]), reverse=True)
    return [pool[i] for i in ranked[:count]]


def galleries(
    ctx: Context, sides: dict[bool, list[Example]], caption: str, case: Case, known: dict[str, Tensor]
) -> tuple[Gallery, Gallery, int]:
    """A caption's own pictures, on the side of the split that it comes from, against as many of the other side as there are on both, at
    most 24; that other side's, the controls, against pictures of the caption's side; and how many own pictures there are."""
    label = None if case.params["label"] is None else str(case.params["label"])
    side = bool(case.params.get("member", True))
    rivals = min(RIVALS, *(len(pictures) for pictures in sides.values()))
    mine, other = (most_alike(caption, label, sides[s], rivals, ctx.rng(case, str(s))) for s in (side, not side))
    own = [example for example in mine if example.texts["text"] == caption][:OWN]
    return Gallery(ctx, own, other, known), Gallery(ctx, other, mine, known), len(own)


def evidence(
    ctx: Context, case: Case, images: Tensor, gallery: Gallery, ratios: Tensor, near: Tensor
) -> dict[str, Evidence]:
    """The nearest drawn picture, the training picture it copies, and the held-out picture nearest to it."""
    best = int((ratios + 10.0 * ~near).argmin())  # a copy before what is merely near
    drawn, which = divmod(best, gallery.count)
    rival = int(tiled_distance(images[drawn : drawn + 1], gallery.images[gallery.count :])[0].argmin())
    head, put = f"{case.params['caption']}, {gallery.own[which].id}", ctx.artifacts.put_image
    return {
        "drawn": put(
            images[drawn], f"{head} | drawn by the pipeline, ratio {float(ratios[drawn, which]):.2f}", sensitive=True
        ),
        "training": put(gallery.images[which], f"{head} | its training picture", sensitive=True),
        "held-out": put(gallery.images[gallery.count + rival], f"{head} | nearest held-out picture", sensitive=True),
    }
