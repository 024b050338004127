"""Image-to-image (survey section 5.2, complex control): drawing starts from a given picture.

Source: Meng et al. 2021, "SDEdit" (arXiv:2108.01073). The picture is noised to a share of the way (``strength``) and denoised
under the caption. The denoiser itself is not conditioned on the picture: only where sampling starts differs, so its single
predictions are those of the plain prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.data.images import open_picture
from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import Conditioning, Generated, TextToImagePrompt
from vlaudit.files import user_path
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Needs

if TYPE_CHECKING:
    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "strength")


class ImageToImage(TextToImagePrompt):
    """A picture that drawing starts from.

    ``path``: the picture; ``strength`` in (0, 1]: 1 draws from noise alone."""

    method = "image-to-image"

    def __init__(self, path: Path, strength: float = 0.6) -> None:
        if not 0 < strength <= 1:
            raise UsageError(
                f"The strength {strength} of image-to-image is not in (0, 1].", "Write for example strength=0.6."
            )
        self.path = path
        self.strength = strength
        self._picture = open_picture(path)
        self.id = f"image-to-image-{path.stem}-{strength:g}"

    @classmethod
    def parse(cls, argument: str) -> ImageToImage:
        """``image-to-image:PICTURE`` or ``image-to-image:file=PICTURE,strength=0.6``."""
        options = parse_options(argument, cls.method, OPTIONS)
        if not options.get("file"):
            raise UsageError("The prompt 'image-to-image' needs a picture.", "Write image-to-image:file=PICTURE,….")
        try:
            strength = float(options.get("strength", 0.6))
        except ValueError as error:
            raise UsageError(f"'{options['strength']}' is no strength.", "Give a number in (0, 1].") from error
        return cls(user_path(options["file"]), strength)

    @property
    def text(self) -> str:
        return f"the caption, drawn from the picture {self.path and self.path.name} at strength {self.strength:g}"

    def check(self, model: TextToImageModel) -> None:
        if Needs.IMAGE_LATENTS not in model.capabilities:
            raise UsageError(
                f"'{model.spec}' has no image encoder to start from a picture with.", "Use another prompt."
            )

    def inputs(self, model: TextToImageModel, captions: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        image = model.preprocess(self._picture).to(model.device)
        return {"image": image.expand(len(captions), -1, -1, -1), "strength": self.strength}

    def sample(self, model: TextToImageModel, conditioning: Conditioning, captions: Sequence[str], seeds: Sequence[int],
               **options: Any) -> Generated:  # fmt: skip
        fewest = math.ceil(1 / self.strength)  # fewer would leave no step to take
        options["steps"] = max(options.get("steps") or model.steps, fewest)
        return super().sample(model, conditioning, captions, seeds, **options)
