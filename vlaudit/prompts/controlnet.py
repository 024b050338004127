"""ControlNet (survey section 5.2, complex control): a second network reads a condition picture and steers every denoising step.

Source: Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models" (arXiv:2302.05543). The condition (edges,
a pose, a depth map) is part of the prompt and the same for every caption. What the ControlNet makes of it is added to the
denoiser's inner states, times ``scale``, so single predictions are conditioned as well as drawn pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.inspection.folder import DIFFUSERS_WEIGHTS
from vlaudit.prompts.condition_pictures import ConditionPicture, fingerprint_of, named_file, share
from vlaudit.prompts.files import check_base_model, read_members, read_safetensors
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "picture", "scale")


class ControlNet(TextToImagePrompt):
    """A ControlNet and the picture that it reads.

    ``path``: the folder that diffusers wrote; ``scale`` in (0, 10]: what its outputs are multiplied by."""

    method = "controlnet"
    learned = True

    def __init__(self, path: Path, picture: Path, scale: float = 1.0) -> None:
        if not path.is_dir():
            raise UsageError(f"The ControlNet '{path}' is not a folder.", "Give the folder that its save_pretrained wrote.")
        self.path, self.folder, self.scale = path, path, scale
        self.condition = ConditionPicture(picture, "condition picture")
        weights = path / f"{DIFFUSERS_WEIGHTS}.safetensors"
        metadata = read_safetensors(weights)[1] if weights.is_file() else {}
        self.base_model = metadata.get("base_model") or None
        self.members = read_members(metadata, weights)
        self.id = f"controlnet-{path.name}-{picture.stem}" + (f"-{scale:g}" if scale != 1 else "")

    @classmethod
    def parse(cls, argument: str) -> ControlNet:
        """``controlnet:file=FOLDER,picture=PICTURE,scale=0.8``."""
        options = parse_options(argument, cls.method, OPTIONS)
        path = named_file(options, "file", cls.method, "the folder of a ControlNet")
        picture = named_file(options, "picture", cls.method, "a condition picture")
        return cls(path, picture, share(options, "scale", 1.0, 0.0, 10.0))

    @classmethod
    def load(cls, path: Path, picture: Path, scale: float = 1.0) -> ControlNet:
        return cls(path, picture, scale)

    @property
    def text(self) -> str:
        return f"the caption, steered by {self.condition.path.name} through a ControlNet at scale {self.scale:g}"

    def sha256(self) -> str:
        return fingerprint_of(self.folder, self.condition.path)

    def check(self, model: TextToImageModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        self.condition.check(model)
        model.load_control(self._name, self.folder)

    @cached_property
    def _name(self) -> str:
        return fingerprint_of(self.folder)

    def active(self, model: TextToImageModel) -> AbstractContextManager[None]:
        return model.control(self._name, self.condition.pixels(model), self.scale)

    @classmethod
    def fit(cls, model: TextToImageModel, path: Path, images: Tensor, conditions: Tensor, captions: Sequence[str], picture: Path, *,
            steps: int = 200, batch_size: int = 4, rate: float = 1e-4, seed: int = 0, members: Sequence[str] = (),
            progress: Callable[[int, float], None] | None = None) -> ControlNet:  # fmt: skip
        """Learn a ControlNet that begins as a copy of the denoiser's first half, with the denoising loss, and write it to the
        folder ``path``. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; conditions: one for each, of the same shape; captions: one for each; picture: the
        condition of the prompt that is returned.
        """
        import torch

        name = f"training {seed}"
        tensors = model.fresh_control(name, seed)
        optimizer = torch.optim.AdamW(tensors.values(), lr=rate)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            clean = torch.cat([model.encode_images(batch) for batch in images.split(16)])
            texts = model.encode_texts(captions)
        for step in range(steps):
            batch = torch.randint(len(images), (batch_size,), generator=generator).tolist()
            with model.control(name, conditions[batch].to(model.device)):
                loss = model.denoising_loss(clean[batch], texts.rows(batch), generator)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if progress:
                progress(step, float(loss.detach()))
        model.save_control(name, path, {"base_model": model.sha256, "members": json.dumps(list(members))})
        return cls(path, picture)
