"""The contract of a text-to-image pipeline without a prompt, and what goes in and out of it.

Latents are noised the same way in every kind of pipeline, whatever its sampler does inside: ``x_t = a(t) x_0 + s(t) e``
with unit Gaussian ``e``; variance-preserving (``a² + s² = 1``) for denoisers of noise, velocity or sample, straight
(``a = 1 - s``) for flow matching. Timesteps are those of training, in [0, ``train_timesteps``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlaudit.errors import CapabilityError
from vlaudit.families.base import Model
from vlaudit.records import Family, Needs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


AttentionControl = Callable[["Tensor", bool, "Tensor"], "Tensor"]
"""Attention maps (rows, heads, queries, keys), whether they look at the text (else at the picture), and the rows' timesteps
(rows,), to maps of the same shape."""

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser reads of B texts.

    ``tensors``: "prompt_embeds" (B, L, W) and what the kind of pipeline adds, such as "pooled_prompt_embeds" (B, P);
    each has one row for each text.
    """

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tensors["prompt_embeds"])

    @property
    def requires_grad(self) -> bool:
        return any(tensor.requires_grad for tensor in self.tensors.values())

    def rows(self, index: Any) -> Conditioning:
        """The rows that a slice, a list of positions or an index tensor picks."""
        return Conditioning({name: tensor[index] for name, tensor in self.tensors.items()})

    def repeat(self, count: int) -> Conditioning:
        """A single row, ``count`` times."""
        return Conditioning({name: tensor.expand(count, *tensor.shape[1:]) for name, tensor in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Rows of several conditionings, one after the other."""
        import torch

        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


@dataclass(frozen=True)
class Generated:
    """Generated pictures.

    images: (B, 3, H, W) float32 in [0, 1], or latents (B, c, h, w) where only those were asked for; blocked: for each
    picture whether the pipeline blacked it out (its safety checker). A blocked picture shows nothing and proves nothing.
    """

    images: Tensor
    blocked: list[bool]


class TextToImageModel(Model):
    """A pipeline without a prompt. Backends implement it; gradients flow wherever a method says so."""

    family = Family.TEXT_TO_IMAGE
    capabilities: frozenset[Needs]
    resolution: int  # pixels; pictures are square
    latent_shape: tuple[int, int, int]  # (c, h, w)
    prediction_type: PredictionType
    steps: int  # denoising steps of a picture, unless asked otherwise
    guidance: float  # the pipeline's guidance scale
    guided: bool  # whether sampling makes an unconditional pass beside each conditional one
    train_timesteps: int
    context_length: int  # the most tokens the first tokenizer keeps, special ones included
    passes: int = 0  # pictures that went through the denoiser so far (a guided step is two for each picture)

    def preprocess(self, picture: Image) -> Tensor:
        """An RGB picture as (3, H, W) in [0, 1]: the shorter side resized to the resolution, then centre-cropped."""
        from torchvision.transforms import functional

        size = [self.resolution, self.resolution]
        resized = functional.resize(picture.convert("RGB"), self.resolution, antialias=True)
        return functional.to_tensor(functional.center_crop(resized, size))

    # texts

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """Token ids of the first tokenizer, with special tokens, neither cut nor padded."""

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens ``tokenize`` makes of each text."""
        return [len(self.tokenize(text)) for text in texts]

    @abstractmethod
    def token_text(self, token: int) -> str:
        """The token as the tokenizer writes it."""

    @abstractmethod
    def text_of(self, ids: Sequence[int]) -> str:
        """What one would type for token ids of the first tokenizer; special tokens are left out."""

    @property
    @abstractmethod
    def vocabulary(self) -> dict[str, int]:
        """Tokens of the first tokenizer, added ones included, to their ids."""

    @abstractmethod
    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """(N, L) int64: ids as the first text encoder reads them, cut and padded to the context."""

    @abstractmethod
    def token_embeddings(self, ids: Tensor) -> Tensor:
        """(..., E) float32: rows of the first text encoder's embedding table for ids of any shape."""

    @property
    @abstractmethod
    def embedding_widths(self) -> tuple[int, ...]:
        """Widths of the text encoders' token embeddings, in their order."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], embeddings: Tensor | None = None) -> Conditioning:
        """The conditioning of texts. ``embeddings`` (N, L, E), where given, stand for the first text encoder's token
        embeddings of the same texts (``token_embeddings(token_ids(texts))`` changes nothing); gradients flow into them,
        in float32. Further text encoders, if any, read the texts themselves."""

    @abstractmethod
    def encode_nothing(self) -> Conditioning:
        """One row: what guidance contrasts a text with (the empty text, or zeros where the pipeline says so)."""

    @abstractmethod
    def text_states(self, texts: Sequence[str], embeddings: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Of the first text encoder: last hidden states (N, L, W), pooled (N, D) (the projected or end-of-text state;
        the mean over the text's tokens where the encoder pools nothing), and the mask (N, L) of tokens that are text."""

    def text_features(self, texts: Sequence[str], embeddings: Tensor | None = None) -> Tensor:
        """(N, D) float32 of unit norm: the pooled states."""
        import torch

        return torch.nn.functional.normalize(self.text_states(texts, embeddings)[1].float(), dim=-1)

    # what prompts add while they are active

    @abstractmethod
    def knows_token(self, token: str) -> bool:
        """Whether the first tokenizer has an entry of its own for the token."""

    @abstractmethod
    def added_token(self, token: str, vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """While open, texts may hold the token. ``vectors``: for each of the first text encoders (K, E), read as K token
        embeddings in a row; they may require gradients."""

    @abstractmethod
    def load_adapter(self, name: str, source: dict[str, Tensor], path: Path) -> None:
        """Load a LoRA adapter (tensors in diffusers' or kohya's naming), switched off. Raises UsageError that names
        ``path`` for one that does not fit."""

    @abstractmethod
    def adapter(self, name: str, scale: float = 1.0) -> AbstractContextManager[None]:
        """While open, a loaded adapter is on, at this scale."""

    @abstractmethod
    def adapter_training(self, rank: int, seed: int) -> AbstractContextManager[dict[str, Tensor]]:
        """While open, the denoiser carries a fresh adapter that changes nothing yet: its trainable tensors, in diffusers'
        naming. Afterwards it is gone."""

    def load_control(self, name: str, path: Path) -> None:
        """Load a ControlNet, off. Raises UsageError for one that does not fit, ModelError."""
        raise CapabilityError(f"'{self.spec}' takes no ControlNet.")

    def control(self, name: str, pictures: Tensor, scale: float = 1.0) -> AbstractContextManager[None]:
        """While open, a loaded ControlNet is on. ``pictures``: (1, 3, H, W) for all latents, or one for each, in [0, 1]."""
        raise CapabilityError(f"'{self.spec}' takes no ControlNet.")

    def fresh_control(self, name: str, seed: int) -> dict[str, Tensor]:
        """Make a ControlNet that changes nothing yet: its trainable tensors."""
        raise CapabilityError(f"'{self.spec}' takes no ControlNet.")

    def save_control(self, name: str, path: Path, metadata: dict[str, str]) -> None:
        """Write a ControlNet to a folder, as diffusers does."""
        raise CapabilityError(f"'{self.spec}' takes no ControlNet.")

    def cross_attention(self) -> dict[str, Tensor]:
        """Copies of the weights of the denoiser's layers that attend to the text, float32, by their names in its state dict."""
        raise CapabilityError(f"'{self.spec}' has no cross-attention layers.")

    def reweighted(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """While open, these weights of ``cross_attention`` stand for the denoiser's own; gradients flow into them."""
        raise CapabilityError(f"'{self.spec}' has no cross-attention layers.")

    def inpainted(self, picture: Tensor, mask: Tensor) -> AbstractContextManager[None]:
        """While open, a denoiser that was trained for inpainting reads the picture (1, 3, H, W) where the mask (1, 1, H, W) is
        0. Others read neither."""
        return nullcontext()

    @abstractmethod
    def attention(self, control: AttentionControl) -> AbstractContextManager[None]:
        """While open, every attention map of the denoiser goes through ``control``, which may record or replace it.
        Raises CapabilityError for denoisers without cross-attention layers of their own."""

    # latents

    @abstractmethod
    def sampling_timesteps(self, steps: int | None = None) -> Tensor:
        """(S,) the timesteps that sampling visits, from noise to picture."""

    @abstractmethod
    def noise_level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``a(t)`` and ``s(t)``, each of the shape of the timesteps, float32."""

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """(B, c, h, w) float32: the unit Gaussian latents that sampling with these seeds starts from. Drawn on the CPU
        with one generator a seed: equal on every device and in every batch."""
        import torch

        draws = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(draws).to(self.device)

    def blank(self, count: int) -> Tensor:
        """Something that pictures can be decoded from, whatever they show."""
        return self.noise(range(count))

    def first_step(self, conditioning: Conditioning) -> Tensor:
        """What draws says at its first step, a row for each text."""
        return self.denoise(self.noise(range(len(conditioning))), self.sampling_timesteps()[0], conditioning)

    @abstractmethod
    def denoise(self, latents: Tensor, timesteps: Tensor | float, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction (B, c, h, w) float32, of what ``prediction_type`` says; no guidance. ``timesteps``:
        one number, or (B,). Gradients flow into latents and conditioning."""

    def to_noise(self, prediction: Tensor, latents: Tensor, timesteps: Tensor | float) -> Tensor:
        """The noise ``e`` that a prediction implies."""
        a, s = self._level(timesteps, latents)
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":  # v = a e - s x0 (arXiv:2202.00512)
            return a * prediction + s * latents
        if self.prediction_type == "sample":
            return (latents - a * prediction) / s
        return latents + a * prediction  # flow: v = e - x0

    def to_sample(self, prediction: Tensor, latents: Tensor, timesteps: Tensor | float) -> Tensor:
        """The clean latents ``x_0`` that a prediction implies."""
        a, s = self._level(timesteps, latents)
        if self.prediction_type == "epsilon":
            return (latents - s * prediction) / a
        if self.prediction_type == "v_prediction":
            return a * latents - s * prediction
        return prediction if self.prediction_type == "sample" else latents - s * prediction

    def prediction_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """What a perfect denoiser would predict of ``add_noise(latents, noise, timesteps)``: training's target."""
        if self.prediction_type == "v_prediction":
            a, s = self._level(timesteps, latents)
            return a * noise - s * latents
        return {"epsilon": noise, "sample": latents, "flow_prediction": noise - latents}[self.prediction_type]

    def denoising_loss(self, latents: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """Training's loss on clean latents: mean squared error of the prediction at timesteps and noise that the (CPU)
        generator draws. Gradients flow."""
        import torch

        t = torch.randint(self.train_timesteps, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        prediction = self.denoise(self.add_noise(latents, noise, t), t, conditioning)
        return torch.nn.functional.mse_loss(prediction, self.prediction_target(latents, noise, t))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor | float) -> Tensor:
        """``x_t`` of clean latents (B, c, h, w)."""
        a, s = self._level(timesteps, latents)
        return a * latents + s * noise

    def _level(self, timesteps: Tensor | float, latents: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and ``s`` broadcast over the latents."""
        import torch

        t = torch.as_tensor(timesteps, device=latents.device)
        t = t.expand(len(latents)) if t.dim() == 0 else t
        a, s = self.noise_level(t)
        return a.to(latents.device)[:, None, None, None], s.to(latents.device)[:, None, None, None]

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to scaled latents (B, c, h, w) float32: the mode of the encoder's distribution, so
        deterministic. Gradients flow into the pixels."""
        return self.cut("pictures to encode", lambda _, part: self._encode_images(part), images, thrift=self._save_memory)

    @abstractmethod
    def _encode_images(self, images: Tensor) -> Tensor:
        """The same, at once."""

    def _save_memory(self) -> bool:
        """Make the passes of a single picture through the VAE cheaper; whether that could be done."""
        return False

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) to pictures (B, 3, H, W) in [0, 1], without a safety checker."""

    @abstractmethod
    def sample(self, conditioning: Conditioning, seeds: Sequence[int], *, nothing: Conditioning | None = None,
               steps: int | None = None, guidance: float | None = None, latents_only: bool = False,
               **inputs: Any) -> Generated:  # fmt: skip
        """Pictures through the pipeline's own call: B texts, B seeds; a picture depends on its text and seed alone.
        ``nothing``: one row for guidance (default ``encode_nothing()``); ``inputs``: more arguments of the call."""
