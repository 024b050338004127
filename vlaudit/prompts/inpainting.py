"""Inpainting (survey section 5.2, complex control): a given picture is kept, and drawn anew only where a mask is white.

Source: Lugmayr et al. 2022, "RePaint" (arXiv:2201.09865), as diffusers' inpainting pipelines have it: at every step the kept part
is the given picture, noised to that step. A denoiser that was trained for inpainting reads mask and kept part besides, so its
single predictions are conditioned; another's are those of the plain prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import Conditioning, Generated, TextToImagePrompt
from vlaudit.prompts.condition_pictures import ConditionPicture, fingerprint_of, named_file, share
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "mask", "strength")


class Inpainting(TextToImagePrompt):
    """A picture and a mask.

    ``path``: the picture; ``mask``: drawn anew where it is lighter than mid-grey; ``strength`` in (0, 1]: 1 draws the masked part
    from noise alone."""

    method = "inpainting"

    def __init__(self, path: Path, mask: Path, strength: float = 1.0) -> None:
        self.path, self.strength = path, strength
        self.picture, self.mask = ConditionPicture(path, "picture to inpaint"), ConditionPicture(mask, "mask")
        self.mask.picture = self.mask.picture.convert("L")
        if self.mask.picture.point(lambda shade: shade >= 128).getbbox() is None:
            raise UsageError(f"The mask '{mask}' is dark everywhere, so nothing would be drawn.", "Make white what is to be drawn anew.")
        self.id = f"inpainting-{path.stem}-{mask.stem}" + (f"-{strength:g}" if strength != 1 else "")

    @classmethod
    def parse(cls, argument: str) -> Inpainting:
        """``inpainting:file=PICTURE,mask=MASK,strength=0.8``."""
        options = parse_options(argument, cls.method, OPTIONS)
        path = named_file(options, "file", cls.method, "a picture")
        return cls(path, named_file(options, "mask", cls.method, "a mask"), share(options, "strength", 1.0, 0.0, 1.0))

    @property
    def text(self) -> str:
        return f"the caption, drawn into the picture {self.picture.path.name} where {self.mask.path.name} is white"

    def sha256(self) -> str:
        return fingerprint_of(self.picture.path, self.mask.path)

    def check(self, model: TextToImageModel) -> None:
        if Needs.IMAGE_LATENTS not in model.capabilities:
            raise UsageError(f"'{model.spec}' has no image encoder to keep a picture with.", "Use another prompt.")
        self.picture.check(model)
        self.mask.check(model)

    def _mask(self, model: TextToImageModel) -> Tensor:
        """(1, 1, H, W): 1 where it is drawn anew."""
        return (self.mask.pixels(model) >= 0.5).float()

    def active(self, model: TextToImageModel) -> AbstractContextManager[None]:
        return model.inpainted(self.picture.pixels(model), self._mask(model))

    def inputs(self, model: TextToImageModel, captions: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        image, mask = (part.expand(len(captions), -1, -1, -1) for part in (self.picture.pixels(model), self._mask(model)))
        return {"image": image, "mask_image": mask, "strength": self.strength}

    def sample(self, model: TextToImageModel, conditioning: Conditioning, captions: Sequence[str], seeds: Sequence[int],
               **options: Any) -> Generated:  # fmt: skip
        fewest = math.ceil(1 / self.strength)  # fewer would leave no step to take
        options["steps"] = max(options.get("steps") or model.steps, fewest)
        return super().sample(model, conditioning, captions, seeds, **options)
