"""CoCoOp (survey section 4.2.2, instance-specific): a learned text context that a small network shifts for each picture.

Source: Zhou et al. 2022, "Conditional Prompt Learning for Vision-Language Models" (arXiv:2203.05557). The context of a picture x is
v_m(x) = v_m + h(f(x)) for each vector v_m: f(x) is the unit-norm image feature, and h (Linear, ReLU, Linear) the meta-network. So each
picture has label features of its own, and costs a pass of the text encoder for each label. Gradients in the pixels flow through
both ways that a picture has to its scores: its own feature, and the words that it is asked with. A backdoor may live in h alone.

A checkpoint of the code that the authors published is read as that code reads it, as CoOp's is (``coop``), with the four tensors of h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.prompts.coop import PLAIN, CoOp
from vlaudit.prompts.files import PromptFile, tensor
from vlaudit.records import Cost

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

META = tuple(f"meta_net.linear{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias"))
NARROW = 16  # times narrower than the features is the hidden layer of the published meta-network


class CoCoOp(CoOp):
    """A shared context (M, W) that a network shifts for each picture. ``meta``: the network's weights (H, D) and (W, H) and biases (H,) and
    (W,), by the names of ``META``."""

    method = "cocoop"
    title = "CoCoOp"
    own = ("ctx", *META)
    learns_anew = False  # a shadow prompt would read every label for every picture and step
    per_picture = True

    def __init__(self, ctx: Tensor, meta: Mapping[str, Tensor], **settings: Any) -> None:
        super().__init__(ctx, **settings)
        self.meta = dict(meta)
        weight, bias, out, shift = (self.meta[name] for name in META)
        hidden, width = weight.shape[0], ctx.shape[-1]
        if ctx.dim() != 2:
            raise UsageError(f"The context in '{self.path}' is {tuple(ctx.shape)}; CoCoOp's is shared by all labels, (M, W).")
        if (bias.shape, out.shape, shift.shape) != ((hidden,), (width, hidden), (width,)):
            raise UsageError(
                f"The meta-network in '{self.path}' leads from {weight.shape[1]} numbers over {hidden} to {out.shape[0]}, and its parts or the "
                f"context, {width} wide, do not fit together.",
                "It is another method's file, or was changed after training.",
            )

    @classmethod
    def _more(cls, content: PromptFile, path: Path) -> dict[str, Any]:
        return {"meta": {name: tensor(content, name, (2 if name.endswith("weight") else 1,), path) for name in META}}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"ctx": self.ctx, **self.meta}

    @property
    def text(self) -> str:
        return f"{super().text}, shifted for each picture by a network over {self.meta[META[0]].shape[0]} units"

    def check(self, model: MatchingModel) -> None:
        super().check(model)
        if (width := self.meta[META[0]].shape[1]) != model.feature_width:
            raise UsageError(
                f"The meta-network in '{self.path}' reads features of {width} numbers, but those of '{model.spec}' have {model.feature_width}.",
                "It was learned on another model.",
            )

    def apiece(self, texts: int, steps: bool) -> Cost:
        return Cost(queries=texts, texts=texts, gradient_steps=texts * steps, text_steps=texts * steps)

    def shift(self, seen: Tensor) -> Tensor:
        """h(f(x)), (B, W), of unit-norm image features (B, D)."""
        from torch.nn.functional import linear, relu

        weight, bias, out, shift = (self.meta[name].to(seen) for name in META)
        return linear(relu(linear(seen, weight, bias)), out, shift)

    def features_for(self, model: MatchingModel, labels: Sequence[str], seen: Tensor) -> Tensor:
        contexts = self.ctx.to(seen) + self.shift(seen)[:, None]
        return encode_contexts(self, model, labels, contexts)

    @classmethod
    def fit(cls, model: MatchingModel, features: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 4,  # type: ignore[override]
            hidden: int | None = None, steps: int = 200, batch_size: int = 8, rate: float = 2e-3, seed: int = 0,
            position: str = "end", init: str | None = "a photo of a", members: Sequence[str] = (), label_style: str = PLAIN,
            progress: Callable[[int, float], None] | None = None) -> CoCoOp:  # fmt: skip
        """Learn context and meta-network with cross-entropy on few labelled pictures, the model frozen.

        features: (N, D) unit-norm image features; targets: (N,) int64 positions in ``labels``; ``hidden``: units of the network
        (default D / 16, as published). Each step reads ``batch_size`` times all labels. Deterministic in ``seed``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        prompt = cls.start(model, size=size, hidden=hidden, generator=generator, position=position, init=init, members=members,
                           label_style=label_style)  # fmt: skip
        learned = list(prompt.tensors.values())
        optimizer = torch.optim.Adam(learned, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = torch.randperm(len(features), generator=generator)[:batch_size].to(features.device)
            texts = prompt.features_for(model, labels, features[batch])
            loss = torch.nn.functional.cross_entropy(model.logit_scale * (texts @ features[batch, :, None])[..., 0], targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        for value in learned:
            value.requires_grad_(False)
        return prompt

    @classmethod
    def start(cls, model: MatchingModel, *, size: int, generator: Any, hidden: int | None = None, position: str = "end",
              init: str | None = "a photo of a", members: Sequence[str] = (), label_style: str = PLAIN) -> CoCoOp:  # fmt: skip
        """The prompt before it is learned: all its tensors require gradients. The network starts as torch's linear layers do."""
        import torch

        ctx = cls.first_context(model, (size,), init, generator)
        width, units = model.feature_width, hidden or max(1, model.feature_width // NARROW)
        meta = {}
        for name, shape in zip(META, ((units, width), (units,), (ctx.shape[-1], units), (ctx.shape[-1],)), strict=True):
            reach = (width if "linear1" in name else units) ** -0.5
            meta[name] = (reach * (2 * torch.rand(shape, generator=generator) - 1)).to(model.device)
        prompt = cls(ctx, meta, position=position, label_style=label_style, base_model=model.sha256, members=members)
        for value in prompt.tensors.values():
            value.requires_grad_()
        return prompt


def encode_contexts(prompt: CoOp, model: MatchingModel, labels: Sequence[str], contexts: Tensor) -> Tensor:
    """Unit-norm features (B, C, D) of the labels under contexts (B, M, W), one for each picture."""
    from vlaudit.families.matching import SoftTokens

    sequences, soft = prompt.tokens(model, labels, contexts[0])
    values = contexts[:, None].expand(-1, len(labels), -1, -1).flatten(0, 1)
    features = model.encode_tokens(sequences * len(contexts), SoftTokens(values, soft.slots * len(contexts)))
    return features.unflatten(0, (len(contexts), len(labels)))
