"""IVLP (survey section 4.4, unified, decoupled): tokens in the first blocks of both towers, each side's learned for itself.

Sources: independent vision-language prompting is the baseline of Khattak et al. 2023 (arXiv:2210.03117); Rasheed et al. 2023
(arXiv:2212.03640). The context stands before the class name, the image tower's tokens behind its patches; at the next blocks of the first J
other tokens take their places.

PromptSRC: Khattak et al. 2023, "Self-regulating Prompts" (arXiv:2307.06948), is the same prompt under another loss: image features, text
features and scores are held to those of the model without prompt (the text features to their mean over several templates). ``fit`` lowers
that loss, and does not average over epochs as the authors' code does.

A checkpoint of the authors' code is read as that code reads it; see ``tower_context``. PromptSRC's holds the image tower that it was held
to, which its predictions do not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.prompts.template import fill
from vlaudit.prompts.tower_context import TowerContext, layers_among, noise

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.towers import TowerTokens
    from vlaudit.prompts.learning import Loss

FIRST = "image_encoder.VPT"
BLOCKS = {side: f"{side}_encoder.transformer.resblocks." for side in ("image", "text")}
AFTER = ".VPT_shallow"
TEACHERS = ("a photo of a {}.", "a bad photo of a {}.", "a photo of the large {}.", "a photo of the small {}.", "a drawing of a {}.")
IMAGE_WEIGHT, TEXT_WEIGHT = 10.0, 25.0  # of PromptSRC's two losses, as published


class IVLP(TowerContext):
    """Tokens in both towers, each side's its own.

    ``ctx`` (M, W); ``parts``: ``image_encoder.VPT`` (N, V) of the image tower's first block, and of block I of a tower
    ``image_encoder.transformer.resblocks.I.VPT_shallow`` (N, V) and ``text_encoder.transformer.resblocks.I.VPT_shallow`` (M, W)."""

    method = "ivlp"
    title = "IVLP"

    def __init__(self, ctx: Tensor, parts: dict[str, Tensor], **settings: Any) -> None:
        super().__init__(ctx, parts, **settings)
        image = tuple(self.parts[FIRST].shape) if FIRST in self.parts else ()
        for name, value in self.parts.items():
            wanted = tuple(ctx.shape) if name.startswith("text") else image
            if tuple(value.shape) != wanted or len(wanted) != 2:
                raise UsageError(
                    f"In '{self.path}', '{name}' is {tuple(value.shape)}, and the tokens of the block before it are {wanted}.",
                    "It is another method's file, or was changed after training.",
                )
        if not self.parts:
            raise UsageError(
                f"'{self.path}' holds a text context alone, and no tokens of {self.title} in the towers.", "Try coop:FILE."
            )

    @classmethod
    def names(cls, given: Iterable[str]) -> list[str]:
        given = list(given)
        depths = {side: layers_among(given, before, AFTER) for side, before in BLOCKS.items()}
        first = [FIRST] if FIRST in given or depths["image"] else []
        return first + [f"{before}{place}{AFTER}" for side, before in BLOCKS.items() for place in range(1, depths[side])]

    def _of(self, side: str) -> list[Tensor]:
        return [self.parts[f"{BLOCKS[side]}{place}{AFTER}"] for place in range(1, layers_among(self.parts, BLOCKS[side], AFTER))]

    def deeper(self) -> list[Tensor]:
        return self._of("text")

    def image_tokens(self, model: MatchingModel) -> TowerTokens | None:
        from vlaudit.families.towers import TowerTokens

        return TowerTokens([self.parts[FIRST], *self._of("image")], first=False, normed=True) if FIRST in self.parts else None

    @property
    def text(self) -> str:
        image, deep = f"{len(self._of('image')) + 1} blocks" if FIRST in self.parts else "no block", len(self.deeper()) + 1
        return f"{super().text}, learned tokens in {deep} blocks of the text tower and in {image} of the image tower"

    @classmethod
    def start(cls, model: MatchingModel, ctx: Tensor, generator: Generator, *, depth: int = 9,  # type: ignore[override]
              image_size: int = 2) -> dict[str, Tensor]:  # fmt: skip
        """``depth``: blocks of both towers that have tokens of their own; ``image_size``: tokens in the image tower."""
        width = model.image_tower.width
        parts = {FIRST: noise(generator, image_size, width)}
        for place in range(1, depth):
            parts[f"{BLOCKS['image']}{place}{AFTER}"] = noise(generator, image_size, width)
            parts[f"{BLOCKS['text']}{place}{AFTER}"] = noise(generator, *ctx.shape)
        return {name: value.to(model.device) for name, value in parts.items()}


class PromptSRC(IVLP):
    """IVLP under a loss that holds features and scores to those of the model without prompt. The same tensors."""

    method = "promptsrc"
    title = "PromptSRC"
    drift = 1e-2  # its code averages the frozen weights over the epochs too, in half precision

    @classmethod
    def _unused(cls, name: str) -> bool:
        return name.startswith("ZS_image_encoder.")

    def regularised(self, model: MatchingModel, images: Tensor, labels: Sequence[str]) -> Loss:
        """The published losses: mean absolute differences to the frozen features, and the Kullback-Leibler divergence of the scores."""
        import torch
        from torch.nn.functional import kl_div, l1_loss, normalize

        with torch.no_grad():
            said = [model.encode_texts([fill(template, label) for label in labels]) for template in TEACHERS]
            frozen = normalize(torch.stack(said).mean(dim=0), dim=-1)

        def loss(seen: Tensor, texts: Tensor, batch: Tensor) -> Tensor:
            with torch.no_grad():
                plain = model.encode_images(images[batch])
            own, theirs = (model.logit_scale * pair for pair in (seen @ texts.T, plain @ frozen.T))
            divergence = kl_div(own.log_softmax(dim=1), theirs.log_softmax(dim=1), reduction="sum", log_target=True) / own.numel()
            return IMAGE_WEIGHT * l1_loss(seen, plain) + TEXT_WEIGHT * l1_loss(texts, frozen) + divergence

        return loss
