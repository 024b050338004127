"""The kinds of text-to-image pipelines that the diffusers backend reads.

What a kind adds to :class:`PipelineModel` is the seam between a pipeline's parts: which tensors its text side makes, how
its denoiser is called, how its latents are laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlaudit.backends.diffusion import PipelineModel
from vlaudit.errors import ModelError
from vlaudit.families.text_to_image import Conditioning, Generated, PredictionType
from vlaudit.families.text_to_image_tokens import TokenModel
from vlaudit.records import Needs

if TYPE_CHECKING:
    from torch import Tensor


class StableDiffusion(PipelineModel):
    """Stable Diffusion 1 and 2 and their relatives: one text encoder, a U-Net (arXiv:2112.10752)."""

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": self.pipe.encode_prompt(texts, self.device, 1, False)[0]}

    def _encode_nothing(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return self.denoiser(
            latents,
            timesteps,
            encoder_hidden_states=tensors["prompt_embeds"],
            timestep_cond=self._scale_embedding(latents),
        ).sample

    def _scale_embedding(self, latents: Tensor) -> Tensor | None:
        """Distilled U-Nets read the guidance scale instead of being guided (arXiv:2310.04378)."""
        import torch

        width = self.denoiser.config.time_cond_proj_dim
        if width is None:
            return None
        scales = torch.full((len(latents),), self.guidance - 1, device=latents.device)
        return self.pipe.get_guidance_scale_embedding(scales, embedding_dim=width).to(latents)


class StableDiffusionXL(StableDiffusion):
    """SDXL: two text encoders, one of them pooled, and the picture's size as a condition (arXiv:2307.01952)."""

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        out = self.pipe.encode_prompt(texts, device=self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": out[0], "pooled_prompt_embeds": out[2]}

    def _encode_nothing(self) -> dict[str, Tensor]:
        out = self.pipe.encode_prompt([""], device=self.device, do_classifier_free_guidance=True)
        return {"prompt_embeds": out[1], "pooled_prompt_embeds": out[3]}

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        size, pooled = (self.resolution, self.resolution), tensors["pooled_prompt_embeds"]
        time_ids = self.pipe._get_add_time_ids(
            size, (0, 0), size, dtype=latents.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        added = {"text_embeds": pooled, "time_ids": time_ids.to(latents.device).expand(len(latents), -1)}
        return self.denoiser(
            latents, timesteps, encoder_hidden_states=tensors["prompt_embeds"], added_cond_kwargs=added,
            timestep_cond=self._scale_embedding(latents),
        ).sample  # fmt: skip


class StableDiffusionInpaint(StableDiffusion):
    """A U-Net that was trained for inpainting (arXiv:2112.10752): it reads the latents, a mask, and the latents of what the mask
    keeps. Without a picture nothing is kept, which is text-to-image."""

    _kept: tuple[Tensor, Tensor] | None = None  # picture and mask

    def _latent_channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    def _nothing_kept(self) -> tuple[Tensor, Tensor]:
        import torch

        shape = (self.resolution, self.resolution)
        return torch.full((1, 3, *shape), 0.5, device=self.device), torch.ones(1, 1, *shape, device=self.device)

    @contextmanager
    def inpainted(self, picture: Tensor, mask: Tensor) -> Iterator[None]:
        outer, self._kept = self._kept, (picture, mask)
        try:
            yield
        finally:
            self._kept = outer

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        import torch

        picture, mask = self._kept or self._nothing_kept()
        with torch.no_grad():
            kept = self.encode_images(torch.where(mask < 0.5, picture, 0.5))
        small = torch.nn.functional.interpolate(mask, latents.shape[-2:])
        read = [latents, *(part.to(latents).expand(len(latents), -1, -1, -1) for part in (small, kept))]
        return super()._predict(torch.cat(read, dim=1), timesteps, tensors)

    def sample(self, conditioning: Conditioning, seeds: Sequence[int], **options: Any) -> Generated:
        picture, mask = (part.expand(len(seeds), -1, -1, -1) for part in self._nothing_kept())
        return super().sample(conditioning, seeds, **{"image": picture, "mask_image": mask, **options})


class FlowModel(PipelineModel):
    """Transformers trained by flow matching: straight paths from noise to picture (arXiv:2403.03206)."""

    denoiser_name = "transformer"

    def _prediction_type(self) -> PredictionType:
        if type(self.pipe.scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
            raise ModelError(
                f"'{self.spec}' has the scheduler {type(self.pipe.scheduler).__name__}.",
                "Pipelines of this kind need FlowMatchEulerDiscreteScheduler in scheduler/scheduler_config.json.",
            )
        return "flow_prediction"

    def noise_level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        s = timesteps.float() / self.train_timesteps
        return 1 - s, s

    def _shift(self, tokens: int, longest: float) -> float:
        """The resolution-dependent shift of the schedule, as the pipelines compute it."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipe.scheduler.config
        return calculate_shift(
            tokens, config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5), config.get("max_shift", longest),
        )  # fmt: skip


class StableDiffusion3(FlowModel):
    """Stable Diffusion 3: three text encoders and a multimodal transformer (arXiv:2403.03206)."""

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        texts = [self._spelled(text) for text in texts]  # unlike the other kinds, the pipeline does not do it
        out = self.pipe.encode_prompt(texts, None, None, device=self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": out[0], "pooled_prompt_embeds": out[2]}

    def _encode_nothing(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _schedule(self, steps: int) -> dict[str, Any]:
        schedule: dict[str, Any] = {"num_inference_steps": steps}
        if self.pipe.scheduler.config.get("use_dynamic_shifting"):
            side = self.latent_shape[1] // self.denoiser.config.patch_size
            schedule["mu"] = self._shift(side * side, 1.16)
        return schedule

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return self.denoiser(
            hidden_states=latents, timestep=timesteps, encoder_hidden_states=tensors["prompt_embeds"],
            pooled_projections=tensors["pooled_prompt_embeds"], return_dict=False,
        )[0]  # fmt: skip


class Flux(FlowModel):
    """Flux: CLIP pooled, T5 states, packed latents; guidance is an input of the transformer, not a second pass.

    The first text encoder is CLIP, of which only the pooled state reaches the transformer.
    """

    def _latent_side(self) -> int:
        return int(self.pipe.default_sample_size)

    def _latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

    def _guides(self, guidance: float) -> bool:
        return False

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        out = self.pipe.encode_prompt(texts, device=self.device)
        return {"prompt_embeds": out[0], "pooled_prompt_embeds": out[1]}

    def _encode_nothing(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _schedule(self, steps: int) -> dict[str, Any]:
        import numpy as np

        schedule: dict[str, Any] = {
            "num_inference_steps": steps,
            "mu": self._shift(self.latent_shape[1] * self.latent_shape[2] // 4, 1.15),
        }
        if not self.pipe.scheduler.config.get("use_flow_sigmas"):
            schedule["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return schedule

    def _pack(self, latents: Tensor) -> Tensor:
        return self.pipe._pack_latents(latents, *latents.shape)

    def _unpack(self, latents: Tensor) -> Tensor:
        return self.pipe._unpack_latents(latents, self.resolution, self.resolution, self.pipe.vae_scale_factor)

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        import torch

        embeds, (_, _, height, width) = tensors["prompt_embeds"], latents.shape
        positions = self.pipe._prepare_latent_image_ids(
            len(latents), height // 2, width // 2, latents.device, latents.dtype
        )
        scale = torch.full((len(latents),), self.guidance, device=latents.device)
        packed = self.denoiser(
            hidden_states=self._pack(latents), timestep=timesteps.to(latents.dtype) / 1000,
            guidance=scale if self.denoiser.config.guidance_embeds else None,
            pooled_projections=tensors["pooled_prompt_embeds"], encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, device=latents.device, dtype=latents.dtype), img_ids=positions,
            return_dict=False,
        )[0]  # fmt: skip
        return self._unpack(packed)


class Amused(TokenModel, PipelineModel):
    """aMUSEd: tokens of a picture are unmasked in a few steps, the likeliest first (arXiv:2401.01808)."""

    denoiser_name = "transformer"

    def _describe(self, side: int) -> None:
        self.latent_shape = (1, side, side)

    def _capabilities(self) -> frozenset[Needs]:
        guided = {Needs.GUIDANCE} if self.guided else set()
        return frozenset({Needs.FILES, Needs.TEXT_FEATURES, Needs.EMBEDDING_GRADIENTS, Needs.GENERATED_PICTURES} | guided)

    def _guides(self, guidance: float) -> bool:
        return guidance > 1

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        read = self.text_encoder(self._inputs(texts).input_ids, output_hidden_states=True)
        return {"prompt_embeds": read.text_embeds, "encoder_hidden_states": read.hidden_states[-2]}

    def _encode_nothing(self) -> dict[str, Tensor]:
        return self._encode([""])

    def _draw(self, conditioning: Conditioning, nothing: Conditioning | None, seed: int, steps: int, guidance: float) -> Tensor:
        import torch

        dtype = next(self.denoiser.parameters()).dtype
        read = {name: tensor.to(self.device, dtype) for name, tensor in conditioning.tensors.items()}
        against = {f"negative_{name}": tensor.to(self.device, dtype) for name, tensor in (nothing.tensors.items() if nothing else ())}
        return self.pipe(
            **read, **against, height=self.resolution, width=self.resolution, num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), output_type="latent",
        ).images  # fmt: skip

    def _detokenize(self, tokens: Tensor) -> Tensor:
        vqvae = self.pipe.vqvae
        shape = (*tokens.shape, vqvae.config.latent_channels)
        return vqvae.decode(tokens.to(self.device), force_not_quantize=True, shape=shape).sample.float().clamp(0, 1)

    def blank(self, count: int) -> Tensor:
        import torch

        shape, size = (count, *self.latent_shape[1:]), int(self.denoiser.config.codebook_size)
        return torch.randint(size, shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def first_step(self, conditioning: Conditioning) -> Tensor:
        dtype = next(self.denoiser.parameters()).dtype
        read = {name: tensor.to(self.device, dtype) for name, tensor in conditioning.tensors.items()}
        size = read["prompt_embeds"].new_tensor([[self.resolution, self.resolution, 0, 0, 6]]).expand(len(conditioning), -1)
        masked = self.blank(len(conditioning)) * 0 + self.pipe.scheduler.config.mask_token_id
        return self.denoiser(masked, micro_conds=size, pooled_text_emb=read["prompt_embeds"], encoder_hidden_states=read["encoder_hidden_states"])


KINDS: dict[str, type[PipelineModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionInpaintPipeline": StableDiffusionInpaint,
    "LatentConsistencyModelPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "AmusedPipeline": Amused,
}
