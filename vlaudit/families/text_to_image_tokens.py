"""Pictures drawn as tokens, one after another or by unmasking (DALL-E, arXiv:2102.12092; Parti, arXiv:2206.10789; Muse,
arXiv:2301.00704): there is no denoiser, so probes of noise and latents have nothing to ask, and those that look at pictures have all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from vlaudit.errors import CapabilityError
from vlaudit.families.text_to_image_model import AttentionControl, Conditioning, Generated, TextToImageModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TokenModel(TextToImageModel):
    """A model that draws tokens of a codebook. A picture is drawn by itself, because one generator draws the tokens of a whole batch."""

    train_timesteps = 0

    def lacks(self, what: str) -> NoReturn:
        raise CapabilityError(f"'{self.spec}' draws pictures as tokens and has no {what}.")

    @abstractmethod
    def _draw(self, conditioning: Conditioning, nothing: Conditioning | None, seed: int, steps: int, guidance: float) -> Tensor:
        """The tokens (1, h, w) of one picture."""

    @abstractmethod
    def _detokenize(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) to pictures (B, 3, H, W) in [0, 1], at once."""

    def sample(self, conditioning: Conditioning, seeds: Sequence[int], *, nothing: Conditioning | None = None,
               steps: int | None = None, guidance: float | None = None, latents_only: bool = False,
               **inputs: Any) -> Generated:  # fmt: skip
        import torch

        if inputs:
            self.lacks(f"place for {' and '.join(inputs)}")
        scale = self.guidance if guidance is None else guidance
        guided = (nothing or self.encode_nothing()) if scale > 1 else None
        with torch.no_grad():
            drawn = [self._draw(conditioning.rows([row]), guided, seed, steps or self.steps, scale) for row, seed in enumerate(seeds)]
            tokens = torch.cat(drawn)
            return Generated(tokens if latents_only else self.decode(tokens), [False] * len(seeds))

    def decode(self, latents: Tensor) -> Tensor:
        return self.cut("pictures to decode", lambda _, part: self._detokenize(part), latents)

    # what takes a denoiser

    def sampling_timesteps(self, steps: int | None = None) -> Tensor:
        self.lacks("denoiser")

    def noise_level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        self.lacks("denoiser")

    def denoise(self, latents: Tensor, timesteps: Tensor | float, conditioning: Conditioning) -> Tensor:
        self.lacks("denoiser")

    def denoising_loss(self, latents: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        self.lacks("denoiser")

    def _encode_images(self, images: Tensor) -> Tensor:
        self.lacks("latents that gradients flow into")

    def attention(self, control: AttentionControl) -> AbstractContextManager[None]:
        self.lacks("cross-attention layers of a U-Net")

    def cross_attention(self) -> dict[str, Tensor]:
        self.lacks("cross-attention layers of a U-Net")

    def reweighted(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        self.lacks("cross-attention layers of a U-Net")

    @abstractmethod
    def blank(self, count: int) -> Tensor:
        """Random tokens (B, h, w), always the same."""

    @abstractmethod
    def first_step(self, conditioning: Conditioning) -> Tensor:
        """The scores of the tokens at the first step, a row for each text."""
