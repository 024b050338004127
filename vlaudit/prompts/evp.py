"""EVP, enhanced visual prompting (survey section 4.3, patch-wise): the picture is shrunk, and learned pixels stand around it.

Source: Wu et al. 2022, "Unleashing the Power of Visual Prompting At the Pixel Level" (arXiv:2212.10556). Unlike VP, the prompt covers
nothing of the picture: of a picture of 224 pixels, 164 in the middle are the picture and the others the prompt. The sum is not clamped,
as in the published code. Labels are asked with a hard template beside it.

A checkpoint of that code holds ``perturbation`` alone. It is asked as the code asks it: "this is a photo of a {}", the names in lower
case with spaces for underscores and hyphens. The code shrinks the picture's file; here it is the picture that the model would read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.prompts.coop import OFFICIAL, PLAIN, is_checkpoint, state_tensors
from vlaudit.prompts.files import PromptFile, check_base_model, read_prompt_file, refuse_more, tensor, write_prompt_file
from vlaudit.prompts.specs import parse_options
from vlaudit.prompts.template import PLAIN as PLAIN_TEMPLATE
from vlaudit.prompts.template import Template, fill

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

PUBLISHED_TEMPLATE = "this is a photo of a {}"


class EVP(MatchingPrompt):
    """Learned pixels, ``pattern`` (3, H, W), around a picture that is shrunk to ``size`` pixels a side."""

    method = "evp"
    learned = True

    def __init__(self, pattern: Tensor, size: int, *, template: str = PLAIN_TEMPLATE, label_style: str = PLAIN, base_model: str | None = None,
                 members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        side = pattern.shape[-1]
        if pattern.shape != (3, side, side) or not 0 < size < side or (side - size) % 2:
            raise UsageError(
                f"The pattern in '{path}' is {tuple(pattern.shape)}, and a picture of {size} pixels cannot stand in its middle.",
                "EVP has a square pattern, and an even number of pixels around the picture.",
            )
        self.pattern, self.size = pattern, size
        self._words, self.label_style = Template(template), label_style
        self.base_model, self.members, self.path = base_model, list(members), path
        self.id = f"evp-{path.stem}" if path else "evp"

    @classmethod
    def parse(cls, argument: str) -> EVP:
        """``evp:FILE``, or ``evp:file=FILE,size=164,template=…{}…``: a vlaudit prompt file or a checkpoint of the published code. ``size`` of
        the picture within the pattern, and ``template``, are for checkpoints, which do not say them."""
        options = parse_options(argument, cls.method, ("file", "size", "template"))
        size = options.get("size")
        if not options.get("file") or (size is not None and not (size.isdecimal() and len(size) < 6)):
            raise UsageError(f"'{argument[:60]}' is no EVP prompt.", "Write evp:FILE, or evp:file=FILE,size=164.")
        return cls.load(user_path(options["file"]), size=None if size is None else int(size), template=options.get("template"))

    @classmethod
    def load(cls, path: Path, *, size: int | None = None, template: str | None = None) -> EVP:
        if is_checkpoint(path):
            state = state_tensors(path)
            refuse_more(state, ("perturbation",), path)
            pattern = tensor(PromptFile(cls.method, state), "perturbation", (3,), path)
            size = _picture_within(pattern, path) if size is None else size
            return cls(pattern, size, template=template or PUBLISHED_TEMPLATE, label_style=OFFICIAL, path=path)
        content = read_prompt_file(path, cls.method)
        pattern = tensor(content, "pattern", (3,), path)
        refuse_more(content.tensors, ("pattern",), path)
        own, said = content.extra.get("size", ""), content.extra.get("template", PLAIN_TEMPLATE)
        if not (own.isdecimal() and len(own) < 6) or size not in (None, int(own)) or template not in (None, said):
            raise UsageError(f"'{path}' says size '{own[:10]}' and template '{said[:60]}'.", "Leave size= and template= out, or save it again.")
        return cls(pattern, int(own), template=said, label_style=content.extra.get("label_style", PLAIN), base_model=content.base_model,
                   members=content.members, path=path)  # fmt: skip

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        extra = {"size": str(self.size), "template": self._words.template, "label_style": self.label_style}
        write_prompt_file(path, PromptFile(self.method, {"pattern": self.pattern}, base_model=self.base_model, members=self.members, extra=extra))

    @property
    def text(self) -> str:
        return f"the picture shrunk to {self.size} of {self.pattern.shape[-1]} pixels within learned ones, with '{self._words.template}'"

    @property
    def templates(self) -> tuple[str, ...]:
        return self._words.templates

    def fill(self, template: str, label: str) -> str:
        return fill(template, label.lower().replace("_", " ").replace("-", " ") if self.label_style == OFFICIAL else label)

    def check(self, model: MatchingModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        if self.pattern.shape[-1] != model.resolution:
            raise UsageError(
                f"The pattern in '{self.path}' is {self.pattern.shape[-1]} pixels a side, but '{model.spec}' sees {model.resolution}.",
                "It was learned on another model.",
            )

    def transform(self, images: Tensor) -> Tensor:
        from torch.nn.functional import interpolate, pad

        edge = (self.pattern.shape[-1] - self.size) // 2
        small = interpolate(images, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return pad(small, (edge,) * 4) + self.pattern.to(images)

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return model.encode_texts([self.fill(self._words.template, label) for label in labels])

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, size: int | None = None,
            template: str = PLAIN_TEMPLATE, steps: int = 300, batch_size: int = 64, rate: float = 0.02, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> EVP:  # fmt: skip
        """Learn the pixels around pictures of ``size`` (default: three quarters of the side) with cross-entropy and steps of normed
        gradients, as published; ``rate``: root mean square of the first step, in [0, 1]. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``.
        """
        import torch

        generator, side = torch.Generator().manual_seed(seed), model.resolution
        size = size or side - 2 * (side // 8)
        edge = (side - size) // 2
        around = torch.ones(side, side, device=model.device)
        around[edge : side - edge, edge : side - edge] = 0
        pattern = torch.zeros(3, side, side, device=model.device, requires_grad=True)
        prompt = cls(pattern, size, template=template, base_model=model.sha256, members=members)
        with torch.no_grad():
            texts = prompt.label_features(model, labels)
        for step in range(steps):
            batch = torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)
            logits = model.logit_scale * prompt.image_features(model, images[batch]) @ texts.T
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            (slope,) = torch.autograd.grad(loss, pattern)
            slope = slope * around
            now = rate * (1 + torch.cos(torch.tensor(torch.pi * step / steps))) / 2
            with torch.no_grad():
                pattern -= now.to(pattern) * slope / slope[:, around > 0].square().mean().sqrt().clamp(min=1e-12)
            if progress:
                progress(step, float(loss.detach()))
        pattern.requires_grad_(False)
        return prompt


def _picture_within(pattern: Tensor, path: Path) -> int:
    """Pixels a side of the middle that was not learned. Raises UsageError."""
    side = pattern.shape[-1]
    edge = next((edge for edge in range(1, side // 2) if not pattern[:, edge : side - edge, edge : side - edge].any()), None)
    if edge is None or not pattern.any():
        raise UsageError(f"'{path}' does not tell how large the picture within its pattern is.", "Say it: evp:file=FILE,size=164.")
    return side - 2 * edge
