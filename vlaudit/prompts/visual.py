"""VP, visual prompting (survey section 4.3, patch-wise): a learned pixel pattern that is added to every picture.

Source: Bahng et al. 2022, "Exploring Visual Prompts for Adapting Large-Scale Models" (arXiv:2203.17274). The pattern
covers a frame (the usual case: ``mask`` is 1 on a border) or any other part of the picture. Labels are asked with a hard
template beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.prompts.files import PromptFile, check_base_model, read_prompt_file, refuse_more, tensor, write_prompt_file
from vlaudit.prompts.template import PLAIN, Template

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel


class VisualPrompt(MatchingPrompt):
    """``pattern`` (3, H, W), added where ``mask`` (H, W) is not 0; the sum is clamped to [0, 1]."""

    method = "vp"
    learned = True

    def __init__(self, pattern: Tensor, mask: Tensor, *, template: str = PLAIN, base_model: str | None = None,
                 members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        if pattern.shape[-2:] != mask.shape:
            raise UsageError(
                f"The visual prompt in '{path}' has a pattern of {tuple(pattern.shape)} and a mask of {tuple(mask.shape)}.",
                "Both must have the same height and width.",
            )
        self.pattern = pattern
        self.mask = mask
        self._words = Template(template)
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"vp-{path.stem}" if path else "vp"

    @classmethod
    def parse(cls, argument: str) -> VisualPrompt:
        """``vp:FILE``: a vlaudit prompt file."""
        return cls.load(user_path(argument))

    @classmethod
    def load(cls, path: Path) -> VisualPrompt:
        content = read_prompt_file(path, cls.method)
        pattern, mask = tensor(content, "pattern", (3,), path), tensor(content, "mask", (2,), path)
        refuse_more(content.tensors, ("pattern", "mask"), path)
        return cls(
            pattern,
            mask,
            template=content.extra.get("template", PLAIN),
            base_model=content.base_model,
            members=content.members,
            path=path,
        )

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        content = PromptFile(
            self.method, {"pattern": self.pattern, "mask": self.mask}, base_model=self.base_model, members=self.members,
            extra={"template": self._words.template},
        )  # fmt: skip
        write_prompt_file(path, content)

    @property
    def text(self) -> str:
        return f"learned pixels on {float((self.mask != 0).float().mean()):.0%} of the picture, with '{self._words.template}'"

    @property
    def templates(self) -> tuple[str, ...]:
        return self._words.templates

    def check(self, model: MatchingModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        expected = (3, model.resolution, model.resolution)
        if tuple(self.pattern.shape) != expected:
            raise UsageError(
                f"The visual prompt in '{self.path}' is {tuple(self.pattern.shape)}, but '{model.spec}' sees {expected}.",
                "It was learned on another model.",
            )

    def transform(self, images: Tensor) -> Tensor:
        pattern, mask = self.pattern.to(images), self.mask.to(images)
        return (images + mask * pattern).clamp(0, 1)

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return self._words.label_features(model, labels)

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, border: int = 3,
            template: str = PLAIN, steps: int = 300, batch_size: int = 64, rate: float = 0.02, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> VisualPrompt:  # fmt: skip
        """Learn a frame of ``border`` pixels with cross-entropy, the model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        size = model.resolution
        mask = torch.ones(size, size, device=model.device)
        mask[border : size - border, border : size - border] = 0
        pattern = torch.zeros(3, size, size, device=model.device, requires_grad=True)
        prompt = cls(pattern, mask, template=template, base_model=model.sha256, members=members)
        with torch.no_grad():
            texts = prompt.label_features(model, labels)
        optimizer = torch.optim.Adam([pattern], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)
            logits = model.logit_scale * model.encode_images(prompt.transform(images[batch])) @ texts.T
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        prompt.pattern = pattern.detach()
        return prompt
