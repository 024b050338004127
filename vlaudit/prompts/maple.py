"""MaPLe (survey section 4.4, unified): text tokens in the first blocks of the text tower, and image tokens that are made of them.

Source: Khattak et al. 2023, "MaPLe: Multi-modal Prompt Learning" (arXiv:2210.03117). The context P stands before the class name; at block
i of the first J, tokens P_i take its place. The image tower has tokens P~_i = F_i(P_i) behind its patches, F_i linear. The survey lists it
as decoupled; by its mechanism the image side is a function of the text side, so it is coupled.

A checkpoint of the authors' code is read as that code reads it; see ``tower_context``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.prompts.tower_context import TowerContext, layers_among, linear, noise

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.towers import TowerTokens

TEXT, IMAGE = "compound_prompts_text.", "compound_prompt_projections."


class MaPLe(TowerContext):
    """A text context and deeper text tokens, and image tokens made of them.

    ``ctx`` (M, W); ``parts``: ``compound_prompts_text.I`` (M, W) of block I + 1, and the linear maps to the image tower's width V:
    ``proj.weight`` (V, W) and ``proj.bias`` (V,) of the context, ``compound_prompt_projections.I.weight`` and ``.bias`` of the others."""

    method = "maple"
    title = "MaPLe"

    def __init__(self, ctx: Tensor, parts: dict[str, Tensor], **settings: Any) -> None:
        super().__init__(ctx, parts, **settings)
        width = len(self.parts["proj.bias"])
        wanted = {"weight": (width, ctx.shape[-1]), "bias": (width,)}
        for name, value in self.parts.items():
            if tuple(value.shape) != wanted.get(name.rpartition(".")[2], tuple(ctx.shape)) or ctx.dim() != 2:
                raise UsageError(
                    f"In '{self.path}', '{name}' {tuple(value.shape)} and the context {tuple(ctx.shape)} do not fit together as MaPLe's do.",
                    "It is another method's file, or was changed after training.",
                )

    @classmethod
    def names(cls, given: Iterable[str]) -> list[str]:
        given = list(given)
        depth = max(layers_among(given, TEXT), *(layers_among(given, IMAGE, end) for end in (".weight", ".bias")))
        maps = ["proj.", *(f"{IMAGE}{place}." for place in range(depth))]
        return [f"{TEXT}{place}" for place in range(depth)] + [f"{name}{end}" for name in maps for end in ("weight", "bias")]

    def deeper(self) -> list[Tensor]:
        return [self.parts[f"{TEXT}{place}"] for place in range(layers_among(self.parts, TEXT))]

    def image_tokens(self, model: MatchingModel) -> TowerTokens:
        from torch.nn.functional import linear

        from vlaudit.families.towers import TowerTokens

        maps = ["proj.", *(f"{IMAGE}{place}." for place in range(len(self.deeper())))]
        layers = [linear(text, self.parts[f"{name}weight"], self.parts[f"{name}bias"])
                  for name, text in zip(maps, [self.ctx, *self.deeper()], strict=True)]  # fmt: skip
        return TowerTokens(layers, first=False, normed=True)

    @property
    def text(self) -> str:
        blocks = len(self.deeper()) + 1
        return f"{super().text}, in the first {blocks} blocks of both towers, the image tower's made of the text tower's by linear maps"

    @classmethod
    def start(cls, model: MatchingModel, ctx: Tensor, generator: Generator, *, depth: int = 9) -> dict[str, Tensor]:  # type: ignore[override]
        """``depth``: blocks of both towers that have tokens of their own."""
        size, width = ctx.shape
        parts = {f"{TEXT}{place}": noise(generator, size, width) for place in range(depth - 1)}
        for name in ["proj.", *(f"{IMAGE}{place}." for place in range(depth - 1))]:
            parts[f"{name}weight"], parts[f"{name}bias"] = linear(generator, model.image_tower.width, width)
        return {name: value.to(model.device) for name, value in parts.items()}
