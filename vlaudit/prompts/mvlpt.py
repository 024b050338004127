"""MVLPT (survey section 4.4, unified, decoupled; and 4.2.2, group-specific): a text context and image tokens that many tasks share.

Source: Shen et al. 2024, "Multitask Vision-Language Prompt Tuning" (arXiv:2211.11720). The context is CoOp's, the image tokens are those of
VPT deep, both learned on many tasks at once and then on one. All labels of all tasks have one context.

UPT (survey section 4.4, unified, coupled): Zang et al. 2022, "Unified Vision and Language Prompt Learning" (arXiv:2210.07225). Context and
image tokens together pass one light transformer layer, with maps to its width and back, and are then split again. There is no code of the
authors; the code of MVLPT, which learns both, is the format that people have. In it, the layer's attention runs over a sequence of one (the
tokens stand where it expects a batch), so each token attends to itself alone: a checkpoint of that code is read like that. A prompt that
``fit`` learns attends over all tokens, as published.

Checkpoints: the class name stands in the middle of the context by that code's default; ``position=`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.prompts.files import PromptFile
from vlaudit.prompts.tower_context import TowerContext, linear, noise

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.towers import TowerTokens

SHALLOW, DEEP, PROJECTION = "vpt_embeddings", "vpt_embeddings_deep", ("vpt_proj.weight", "vpt_proj.bias")
LAYER = "mvlpt_proj.resblocks.0."
INNER = tuple(f"{LAYER}{part}" for part in (
    "attn.in_proj_weight", "attn.in_proj_bias", *(f"{module}.{end}" for module in ("attn.out_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
                                                  for end in ("weight", "bias"))))  # fmt: skip
MAPS = {side: tuple(f"mvlpt_proj_ctx_{side}_{way}." for way in ("pre", "post")) for side in ("coop", "vpt")}


class MVLPT(TowerContext):
    """A text context, and tokens in the image tower, shared by tasks.

    ``ctx`` (M, W) or (C, M, W); ``parts``: ``vpt_embeddings`` (1, N, P) and ``vpt_embeddings_deep`` (L - 1, N, P), with ``vpt_proj`` (V, P)
    and (V,) where P is not the tower's width V."""

    method = "mvlpt"
    title = "MVLPT"
    options = ("file", "position", "labels")
    begun = ""  # all words that the context begins as are vectors of it
    usual = "middle"

    def __init__(self, ctx: Tensor, parts: dict[str, Tensor], **settings: Any) -> None:
        super().__init__(ctx, parts, **settings)
        first, deep, weight, bias = (self.parts.get(name) for name in (SHALLOW, DEEP, *PROJECTION))
        if first is None or first.dim() != 3 or len(first) != 1 or (deep is not None and deep.shape[1:] != first.shape[1:]) or (
            weight is not None and bias is not None and (weight.shape, bias.dim()) != ((len(bias), first.shape[-1]), 1)
        ):
            shapes = ", ".join(f"{name} {tuple(self.parts[name].shape)}" for name in (SHALLOW, DEEP, *PROJECTION) if name in self.parts)
            raise UsageError(f"The tensors in '{self.path}' do not fit together as {self.title}'s do: {shapes}.",
                             "It is another method's file, or was changed after training.")  # fmt: skip

    @classmethod
    def names(cls, given: Iterable[str]) -> list[str]:
        given = set(given)
        return [SHALLOW, *([DEEP] if DEEP in given else []), *(PROJECTION if given & set(PROJECTION) else ())]

    def _layers(self) -> Tensor:
        """The image tokens (L, N, P) as they were learned."""
        import torch

        return torch.cat([self.parts[name] for name in (SHALLOW, DEEP) if name in self.parts])

    def image_tokens(self, model: MatchingModel) -> TowerTokens:
        from torch.nn.functional import linear

        from vlaudit.families.towers import TowerTokens

        layers = self._layers()
        if PROJECTION[0] in self.parts:
            layers = linear(layers, *(self.parts[name] for name in PROJECTION))
        return TowerTokens(list(layers))

    @property
    def text(self) -> str:
        blocks, size = len(self._layers()), self.parts[SHALLOW].shape[1]
        return f"{super().text}, and {size} learned tokens in the first {blocks} blocks of the image tower"

    @classmethod
    def start(cls, model: MatchingModel, ctx: Tensor, generator: Generator, *, depth: int | None = None,  # type: ignore[override]
              image_size: int = 4, width: int = 128) -> dict[str, Tensor]:  # fmt: skip
        """``depth``: blocks of the image tower that have tokens of their own (default: all); ``image_size``: tokens in each; ``width``: of
        UPT's transformer layer."""
        tower = model.image_tower
        parts = {SHALLOW: noise(generator, 1, image_size, tower.width)}
        if (depth or tower.depth) > 1:
            parts[DEEP] = noise(generator, (depth or tower.depth) - 1, image_size, tower.width)
        return {name: value.to(model.device) for name, value in parts.items()}


class UPT(MVLPT):
    """Context and image tokens that one light transformer layer makes together.

    MVLPT's tensors, without ``vpt_proj``, and the layer's: ``mvlpt_proj.resblocks.0.…`` of width D, and the maps to it and back,
    ``mvlpt_proj_ctx_SIDE_pre`` and ``_post``, ``SIDE`` being ``coop`` (from W) and ``vpt`` (from V); none where the width is D already.

    mixed: whether a token attends to the others."""

    method = "upt"
    title = "UPT"

    def __init__(self, ctx: Tensor, parts: dict[str, Tensor], *, mixed: bool = True, **settings: Any) -> None:
        super().__init__(ctx, parts, **settings)
        self.mixed = mixed
        width, sides = len(self.parts[f"{LAYER}ln_1.weight"]), {"coop": ctx.shape[-1], "vpt": self.parts[SHALLOW].shape[-1]}
        hidden = len(self.parts[f"{LAYER}mlp.c_fc.bias"])
        wanted = {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,), "attn.out_proj.weight": (width, width),
                  "mlp.c_fc.weight": (hidden, width), "mlp.c_fc.bias": (hidden,), "mlp.c_proj.weight": (width, hidden)}  # fmt: skip
        shapes = {name: wanted.get(name.removeprefix(LAYER), (width,)) for name in INNER}
        for side, own in sides.items():
            if f"{MAPS[side][0]}weight" in self.parts or own != width:
                for name, (outputs, inputs) in zip(MAPS[side], ((width, own), (own, width)), strict=True):
                    shapes |= {f"{name}weight": (outputs, inputs), f"{name}bias": (outputs,)}
        for name, shape in shapes.items():
            if name not in self.parts or tuple(self.parts[name].shape) != shape:
                has = tuple(self.parts[name].shape) if name in self.parts else "not there"
                raise UsageError(f"In '{self.path}', '{name}' is {has}; the layer over context and image tokens needs {shape}.",
                                 "It is another method's file, or was changed after training.")  # fmt: skip

    @classmethod
    def names(cls, given: Iterable[str]) -> list[str]:
        given = set(given)
        maps = [[f"{name}{end}" for name in names for end in ("weight", "bias")] for names in MAPS.values()]
        return [SHALLOW, *([DEEP] if DEEP in given else []), *INNER, *(name for side in maps if given & set(side) for name in side)]

    @classmethod
    def _more(cls, content: PromptFile, path: Path) -> dict[str, Any]:
        return super()._more(content, path) | {"mixed": content.extra.get("attention") == "all"}

    @property
    def _extra(self) -> dict[str, str]:
        return super()._extra | {"attention": "all" if self.mixed else "own"}

    @property
    def text(self) -> str:
        return f"{super().text}, both made by one transformer layer" + ("" if self.mixed else ", in which each token attends to itself alone")

    def _unified(self) -> tuple[Tensor, Tensor]:
        """The context and the image tokens that the layer makes of those that were learned."""
        import torch

        both = [self.ctx, super()._layers()]
        rows = [self._mapped(values.flatten(0, -2), MAPS[side][0]) for side, values in zip(MAPS, both, strict=True)]
        made = self._layer(torch.cat(rows)).split([len(part) for part in rows])
        text, image = (
            self._mapped(part, MAPS[side][1]).reshape(values.shape) for side, part, values in zip(MAPS, made, both, strict=True)
        )
        return text, image

    def _mapped(self, values: Tensor, name: str) -> Tensor:
        from torch.nn.functional import linear

        return linear(values, self.parts[f"{name}weight"], self.parts[f"{name}bias"]) if f"{name}weight" in self.parts else values

    def _layer(self, tokens: Tensor) -> Tensor:
        """The transformer layer on tokens (T, D): one head, norms ahead of attention and of the units."""
        from torch.nn.functional import layer_norm, linear

        part = {name.removeprefix(LAYER): value for name, value in self.parts.items() if name.startswith(LAYER)}

        def normed(values: Tensor, name: str) -> Tensor:
            return layer_norm(values, values.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"])

        queries, keys, values = linear(normed(tokens, "ln_1"), part["attn.in_proj_weight"], part["attn.in_proj_bias"]).chunk(3, dim=-1)
        if self.mixed:
            values = (queries @ keys.T / queries.shape[-1] ** 0.5).softmax(dim=-1) @ values
        tokens = tokens + linear(values, part["attn.out_proj.weight"], part["attn.out_proj.bias"])
        units = linear(normed(tokens, "ln_2"), part["mlp.c_fc.weight"], part["mlp.c_fc.bias"])
        units = units * (1.702 * units).sigmoid()
        return tokens + linear(units, part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])

    def _text_context(self) -> Tensor:
        return self._unified()[0]

    def _layers(self) -> Tensor:
        return self._unified()[1]

    @classmethod
    def start(cls, model: MatchingModel, ctx: Tensor, generator: Generator, *, depth: int | None = None,  # type: ignore[override]
              image_size: int = 4, width: int = 128) -> dict[str, Tensor]:  # fmt: skip
        import torch

        parts = super().start(model, ctx, generator, depth=depth, image_size=image_size)
        layers = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width), "mlp.c_fc.": (4 * width, width),
                  "mlp.c_proj.": (width, 4 * width)}  # fmt: skip
        for name, (outputs, inputs) in layers.items():
            parts[f"{LAYER}{name}weight"], parts[f"{LAYER}{name}bias"] = linear(generator, outputs, inputs)
        for name in ("ln_1", "ln_2"):
            parts[f"{LAYER}{name}.weight"], parts[f"{LAYER}{name}.bias"] = torch.ones(width), torch.zeros(width)
        for side, own in {"coop": ctx.shape[-1], "vpt": model.image_tower.width}.items():
            for name, (outputs, inputs) in zip(MAPS[side], ((width, own), (own, width)), strict=True):
                if own != width:
                    parts[f"{name}weight"], parts[f"{name}bias"] = linear(generator, outputs, inputs)
        return {name: value.to(model.device) for name, value in parts.items()}
