"""SigLIP 2 in its NaFlex kind (arXiv:2502.14786): pictures of any shape, as so many patches as fit.

Here all pictures are made square, at the largest side that fits: so they stack, as attacks and visual prompts need them, and of
a square picture the processor's resizing changes nothing more. The processor's own patches are held against ours at load.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlaudit.backends.transformers_matching import TransformersModel
from vlaudit.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class NaFlexModel(TransformersModel):
    """A loaded SigLIP 2 of the NaFlex kind."""

    def __init__(self, spec: str, model: Any, processor: Any, tokenizer: Any, weights: list[Path], files: list[Path],
                 device: torch.device) -> None:  # fmt: skip
        import torch
        from torchvision.transforms.functional import to_tensor

        self._patch, self._grid = int(processor.patch_size), isqrt(int(processor.max_num_patches))
        self.resolution = self._grid * self._patch
        super().__init__(spec, model, processor, tokenizer, weights, files, device)
        self.remarks = [f"'{spec}' reads pictures of any shape; here all are made square, {self.resolution} pixels a side."]
        shades = Image.radial_gradient("L").resize((self.resolution, self.resolution))
        picture = Image.merge("RGB", (shades, shades.rotate(90), shades.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
        theirs = self._processor(images=picture, return_tensors="pt")
        mine = self._inputs((to_tensor(picture)[None] * self._range + self._black).to(device))
        shape = [self._grid, self._grid]
        if theirs["spatial_shapes"][0].tolist() != shape or not torch.allclose(
            theirs["pixel_values"][:, : self._grid**2].to(device), mine["pixel_values"], atol=1e-3
        ):
            raise ModelError(f"The processor of '{spec}' does not cut pictures into patches as SigLIP 2's does.",
                             "Save the model's own processor into its folder.")  # fmt: skip

    def _side(self) -> int:
        return self.resolution

    def _official(self, picture: Image.Image) -> Tensor:
        square = picture.resize((self.resolution, self.resolution), Image.Resampling.BILINEAR)
        patches = self._processor(images=square, return_tensors="pt")["pixel_values"][0, : self._grid**2].float()
        cells = patches.view(self._grid, self._grid, self._patch, self._patch, 3)
        return cells.permute(4, 0, 2, 1, 3).reshape(3, self.resolution, self.resolution)

    def _inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        import torch

        count, grid, patch = len(pixels), self._grid, self._patch
        cells = pixels.view(count, 3, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
        return {
            "pixel_values": cells.reshape(count, grid * grid, -1),
            "pixel_attention_mask": torch.ones(count, grid * grid, dtype=torch.int32, device=pixels.device),
            "spatial_shapes": torch.tensor([[grid, grid]] * count, device=pixels.device),
        }
