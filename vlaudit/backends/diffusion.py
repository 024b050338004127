"""A diffusers pipeline as a :class:`TextToImageModel`: what all kinds share. Sampling is the pipeline's own call."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from vlaudit.backends._prompt_parts import (
    Adapters,
    AddedTokens,
    attention_control,
    reweighted,
    text_layers,
    unknown_token,
)
from vlaudit.backends.base import reading
from vlaudit.backends.controls import Controls
from vlaudit.errors import CapabilityError, ModelError, VlauditWarning, foreign
from vlaudit.families.text_to_image import AttentionControl, Conditioning, Generated, PredictionType, TextToImageModel
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TEXT_SIDES = (
    ("tokenizer", "text_encoder"),
    ("tokenizer_2", "text_encoder_2"),
    ("tokenizer_3", "text_encoder_3"),
)
SHARE = 0.8  # of a GPU's free memory that weights may take
SMALLEST_TILE = 32  # latents: below, tiles show
PICTURES = {"image", "mask_image"}  # inputs of a pipeline's call
SAMPLING_FILE = "sampling.json"  # {"num_inference_steps": …, "guidance_scale": …, "resolution": …}, each optional


class PipelineModel(TextToImageModel):
    """A diffusers pipeline. ``sampling``: settings that stand in for the pipeline's defaults."""

    denoiser_name: ClassVar[str] = "unet"

    def __init__(self, spec: str, pipe: Any, files: list[Path], sha256: str, device: torch.device,
                 sampling: dict[str, float]) -> None:  # fmt: skip
        self.spec = spec
        self.files = files
        self.sha256 = sha256
        self.device = device
        self.pipe = pipe
        self.offloaded = _place(pipe, device)
        pipe.set_progress_bar_config(disable=True)
        self.sides = [(t, e) for t, e in TEXT_SIDES if _part(pipe, t) is not None and _part(pipe, e) is not None]
        self.denoiser: Any = getattr(pipe, self.denoiser_name)
        for part in pipe.components.values():
            if hasattr(part, "requires_grad_"):
                part.requires_grad_(False).eval()
        self.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        defaults = inspect.signature(type(pipe).__call__).parameters
        self.steps = int(sampling.get("num_inference_steps", defaults["num_inference_steps"].default))
        self.guidance = float(sampling.get("guidance_scale", defaults["guidance_scale"].default))
        self.resolution = int(sampling.get("resolution", self._latent_side() * pipe.vae_scale_factor))
        self._describe(self.resolution // pipe.vae_scale_factor)
        self.guided = self._guides(self.guidance)
        self.context_length = self._context_length() if self.sides else 0
        self.capabilities = self._capabilities()
        self._tokens = AddedTokens(pipe, self.sides)
        self._adapters = Adapters(pipe)
        self._controls = Controls(self)
        self._siblings: dict[str, Any] = {}
        if (vae := _part(pipe, "vae")) is not None:
            self._decode_in_parts(vae)

    def _capabilities(self) -> frozenset[Needs]:
        found = {Needs.FILES}
        vae = _part(self.pipe, "vae")
        if self.sides:
            found |= {Needs.TEXT_FEATURES, Needs.EMBEDDING_GRADIENTS, Needs.NOISE_PREDICTIONS}
            found |= {Needs.GENERATED_PICTURES} if vae is not None else set()
            found |= {Needs.GUIDANCE} if self.guided else set()
            found |= {Needs.CROSS_ATTENTION} if self.denoiser_name == "unet" else set()
        found |= {Needs.IMAGE_LATENTS} if vae is not None and _part(vae, "encoder") is not None else set()
        return frozenset(found)

    def _count(self, _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self.cut.measuring:
            self.passes += len(arguments[0] if arguments else named["hidden_states"])

    # what a kind says of itself

    def _describe(self, side: int) -> None:
        """What the denoiser works on: latents of so many places a side, and how noise is said."""
        self.latent_shape = (self._latent_channels(), side, side)
        self.train_timesteps = int(self.pipe.scheduler.config.num_train_timesteps)
        self.prediction_type = self._prediction_type()

    def _latent_side(self) -> int:
        size = self.denoiser.config.sample_size
        return int(size if isinstance(size, int) else size[0])

    def _latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels)

    def _prediction_type(self) -> PredictionType:
        kind = self.pipe.scheduler.config.get("prediction_type", "epsilon")
        if kind not in get_args(PredictionType) or not hasattr(self.pipe.scheduler, "alphas_cumprod"):
            raise ModelError(
                f"The scheduler {type(self.pipe.scheduler).__name__} of '{self.spec}' is not one vlaudit can read "
                f"(prediction type '{kind}').",
                "Use one of DDIM, DDPM, PNDM, Euler or DPM-Solver in scheduler/scheduler_config.json.",
            )
        return kind

    def _guides(self, guidance: float) -> bool:
        """Whether sampling at this guidance scale makes an unconditional pass beside each conditional one."""
        return guidance > 1 and getattr(self.denoiser.config, "time_cond_proj_dim", None) is None

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _encode_nothing(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _predict(self, latents: Tensor, timesteps: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def _pack(self, latents: Tensor) -> Tensor:
        """(B, c, h, w) as the pipeline's call takes them."""
        return latents

    def _unpack(self, latents: Tensor) -> Tensor:
        """The inverse of ``_pack``."""
        return latents

    def _schedule(self, steps: int) -> dict[str, Any]:
        """What the pipeline's call hands to its scheduler."""
        return {"num_inference_steps": steps}

    # texts

    @property
    def tokenizer(self) -> Any:
        return getattr(self.pipe, self._first_side()[0])

    @property
    def text_encoder(self) -> Any:
        return getattr(self.pipe, self._first_side()[1])

    def _first_side(self) -> tuple[str, str]:
        if not self.sides:
            raise CapabilityError(f"'{self.spec}' has no text encoder.")
        return self.sides[0]

    def _context_length(self) -> int:
        positions = getattr(self.text_encoder.config, "max_position_embeddings", None)
        length = int(self.tokenizer.model_max_length)
        if (
            positions is not None and length > positions
        ):  # a tokenizer without a limit; the pipeline would run past the end
            length = self.tokenizer.model_max_length = int(positions)
        return min(length, 512)

    def tokenize(self, text: str) -> list[int]:
        return self._ids([text])[0]

    def token_counts(self, texts: Sequence[str]) -> list[int]:  # one call: a fast tokenizer is slow to begin
        return [len(ids) for ids in self._ids(texts)] if texts else []

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        spelled = [self._spelled(text) for text in texts]
        with reading(self.spec):
            return [list(ids) for ids in self.tokenizer(spelled, truncation=False, verbose=False).input_ids]

    def _spelled(self, text: str) -> str:
        """The text with added tokens of several vectors written out, as diffusers' text sides do."""
        from diffusers.loaders import TextualInversionLoaderMixin

        with reading(self.spec):
            return str(TextualInversionLoaderMixin._maybe_convert_prompt(self.pipe, text, self.tokenizer))

    def token_text(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(int(token)))

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def vocabulary(self) -> dict[str, int]:
        return dict(self.tokenizer.get_vocab())

    def _inputs(self, texts: Sequence[str]) -> Any:
        spelled = [self._spelled(text) for text in texts]
        with reading(self.spec):
            return self.tokenizer(
                spelled, padding="max_length", max_length=self.context_length, truncation=True, return_tensors="pt"
            ).to(self.device)

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        return self._inputs(texts).input_ids

    def token_embeddings(self, ids: Tensor) -> Tensor:
        table = self.text_encoder.get_input_embeddings()
        return table(ids.to(table.weight.device)).float().to(self.device)

    @contextmanager
    def _embedded(self, embeddings: Tensor | None) -> Iterator[None]:
        """While open, the first text encoder reads these token embeddings, in float32 (half precision starves
        gradients); None: its own."""
        if self.offloaded:
            self.pipe.maybe_free_model_hooks()  # the denoiser may still be where the text encoder has to go
        if embeddings is None:
            yield
            return
        name = self._first_side()[1]
        own = getattr(self.pipe, name)
        encoder = own
        if own.dtype.itemsize < 4:
            encoder = copy.deepcopy(own).float()
            setattr(self.pipe, name, encoder)
        handle = encoder.get_input_embeddings().register_forward_hook(lambda *_: embeddings.float())
        try:
            yield
        finally:
            handle.remove()
            setattr(self.pipe, name, own)

    def encode_texts(self, texts: Sequence[str], embeddings: Tensor | None = None) -> Conditioning:
        self._first_side()
        with self._embedded(embeddings), reading(self.spec, ()):
            return Conditioning({name: tensor.float() for name, tensor in self._encode(list(texts)).items()})

    def encode_nothing(self) -> Conditioning:
        self._first_side()
        return Conditioning({name: tensor.float() for name, tensor in self._encode_nothing().items()})

    def text_states(self, texts: Sequence[str], embeddings: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self._inputs(texts)
        with self._embedded(embeddings):
            encoder = self.text_encoder
            masked = getattr(encoder.config, "use_attention_mask", None)
            output = encoder(inputs.input_ids, attention_mask=inputs.attention_mask if masked else None)
            pooled = self._pool(encoder, inputs, output.last_hidden_state, getattr(output, "pooler_output", None))
        return output.last_hidden_state.float(), pooled.float(), inputs.attention_mask.bool()

    def _pool(self, encoder: Any, inputs: Any, states: Tensor, pooled: Tensor | None) -> Tensor:
        """CLIP: the projected state at the end of the text (looked up by its token, because old configurations take the
        largest id, which an added token has); others: what the encoder pools, or the mean over the text."""
        import torch

        if "clip" in encoder.config.model_type and self.tokenizer.eos_token_id is not None:
            end = (inputs.input_ids == self.tokenizer.eos_token_id).int().argmax(dim=1)
            pooled = states[torch.arange(len(states), device=states.device), end]
            return encoder.text_projection(pooled) if hasattr(encoder, "text_projection") else pooled
        if pooled is None:
            mask = inputs.attention_mask[..., None]
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return pooled

    @property
    def embedding_widths(self) -> tuple[int, ...]:
        encoders = [getattr(self.pipe, encoder) for _, encoder in self.sides]
        return tuple(encoder.get_input_embeddings().embedding_dim for encoder in encoders)

    def knows_token(self, token: str) -> bool:
        with reading(self.spec):
            return not unknown_token(self.tokenizer, token)

    def added_token(self, token: str, vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
        return self._tokens.on(token, vectors)

    def load_adapter(self, name: str, source: dict[str, Tensor], path: Path) -> None:
        self._adapters.load(name, source, path)

    def adapter(self, name: str, scale: float = 1.0) -> AbstractContextManager[None]:
        return self._adapters.on(name, scale)

    def adapter_training(self, rank: int, seed: int) -> AbstractContextManager[dict[str, Tensor]]:
        return self._adapters.training(self.denoiser_name, rank, seed)

    def load_control(self, name: str, path: Path) -> None:
        self._controls.load(name, path)

    def control(self, name: str, pictures: Tensor, scale: float = 1.0) -> AbstractContextManager[None]:
        return self._controls.on(name, pictures, scale)

    def fresh_control(self, name: str, seed: int) -> dict[str, Tensor]:
        return self._controls.fresh(name, seed)

    def save_control(self, name: str, path: Path, metadata: dict[str, str]) -> None:
        self._controls.save(name, path, metadata)

    def cross_attention(self) -> dict[str, Tensor]:
        return {name: getattr(layer, key).detach().float().clone() for name, (layer, key) in text_layers(self.denoiser).items()}

    def reweighted(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return reweighted(self.denoiser, weights)

    def attention(self, control: AttentionControl) -> AbstractContextManager[None]:
        if Needs.CROSS_ATTENTION not in self.capabilities:
            raise CapabilityError(f"'{self.spec}' has no cross-attention layers.")
        return attention_control(self.denoiser, control)

    # latents

    def sampling_timesteps(self, steps: int | None = None) -> Tensor:
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(device=self.device, **self._schedule(steps or self.steps))
        return scheduler.timesteps

    def noise_level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """From the scheduler's own cumulated alphas, between whole timesteps by interpolation."""
        import torch

        table = self.pipe.scheduler.alphas_cumprod.to(device=timesteps.device, dtype=torch.float32).sqrt()
        t = timesteps.float().clamp(0, len(table) - 1)
        below = t.floor().long()
        a = torch.lerp(table[below], table[(below + 1).clamp(max=len(table) - 1)], t - below)
        return a, (1 - a**2).clamp(min=0).sqrt()

    def denoise(self, latents: Tensor, timesteps: Tensor | float, conditioning: Conditioning) -> Tensor:
        import torch

        if self.offloaded and conditioning.requires_grad and torch.is_grad_enabled():
            raise CapabilityError(
                f"'{self.spec}' does not fit on {self.device} as a whole, so no gradient flows from its denoiser to a text."
            )
        t = torch.as_tensor(timesteps, device=self.device)
        t = t.expand(len(latents)) if t.dim() == 0 else t.to(self.device)
        dtype = next(self.denoiser.parameters()).dtype
        tensors = {name: tensor.to(self.device, dtype) for name, tensor in conditioning.tensors.items()}
        return self._predict(latents.to(self.device, dtype), t, tensors).float()

    @contextmanager
    def _vae(self) -> Iterator[Any]:
        """The VAE, in float32 where its config says that half precision overflows."""
        vae = _part(self.pipe, "vae")
        if vae is None:
            raise CapabilityError(f"'{self.spec}' has no VAE.")
        dtype = vae.dtype
        upcast = dtype.itemsize < 4 and vae.config.get("force_upcast", False)
        if upcast:
            vae.float()
        try:
            yield vae
        finally:
            if upcast:
                vae.to(dtype)

    def _latent_scale(self, vae: Any) -> tuple[Tensor, Tensor]:
        """Mean and scale of the VAE's raw latents: scaled = (raw - mean) * scale."""
        import torch

        mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
        factor = float(vae.config.scaling_factor)
        if mean is None or std is None:
            mean, std = [vae.config.get("shift_factor") or 0.0], [1.0]
        shape = (1, -1, 1, 1)
        return (
            torch.tensor(mean, device=self.device).view(shape),
            factor / torch.tensor(std, device=self.device).view(shape),
        )

    def _encode_images(self, images: Tensor) -> Tensor:
        with self._vae() as vae:
            encoded = vae.encode(2 * images.to(self.device, vae.dtype) - 1)
            raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            mean, scale = self._latent_scale(vae)
            return (raw.float() - mean) * scale

    def _decode_in_parts(self, vae: Any) -> None:
        """Let the VAE decode as many latents at once as fit, whoever calls it: the pipeline's own call has drawn them by then."""
        own = vae.decode

        def decode(latents: Tensor, return_dict: bool = True, **options: Any) -> Any:
            def run(_: slice, part: Tensor) -> Tensor:
                return own(part, return_dict=False, **options)[0]

            grad = latents.requires_grad and torch.is_grad_enabled()  # what a VAE is cast to meanwhile is not kept for later
            images = run(slice(None), latents) if grad else self.cut("pictures to decode", run, latents, thrift=self._save_memory)
            return DecoderOutput(sample=images) if return_dict else (images,)

        import torch
        from diffusers.models.autoencoders.vae import DecoderOutput

        vae.decode = decode

    def _save_memory(self) -> bool:
        """Let the VAE see a picture in tiles, smaller than it."""
        vae, side = self.pipe.vae, self.latent_shape[1]
        tile = max(SMALLEST_TILE, side // 2)
        if getattr(vae, "use_tiling", True) or not hasattr(vae, "tile_latent_min_size") or side <= tile:
            return False
        vae.enable_tiling()
        vae.tile_latent_min_size = tile
        vae.tile_sample_min_size = tile * self.pipe.vae_scale_factor
        warnings.warn(
            f"Memory is short: '{self.spec}' encodes and decodes pictures in tiles, whose seams may show.", VlauditWarning, stacklevel=2
        )
        return True

    def decode(self, latents: Tensor) -> Tensor:
        with self._vae() as vae:
            mean, scale = self._latent_scale(vae)
            raw = latents.to(self.device) / scale + mean
            return (vae.decode(raw.to(vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    def sample(self, conditioning: Conditioning, seeds: Sequence[int], *, nothing: Conditioning | None = None,
               steps: int | None = None, guidance: float | None = None, latents_only: bool = False,
               **inputs: Any) -> Generated:  # fmt: skip
        import torch

        scale = self.guidance if guidance is None else guidance
        pipe = self._pipeline_for(inputs)
        dtype = next(self.denoiser.parameters()).dtype
        call: dict[str, Any] = {name: tensor.to(self.device, dtype) for name, tensor in conditioning.tensors.items()}
        if self._guides(scale):
            rows = (nothing or self.encode_nothing()).repeat(len(conditioning))
            call |= {f"negative_{name}": tensor.to(self.device, dtype) for name, tensor in rows.tensors.items()}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # on the CPU: the same on every device
        if pipe is self.pipe:
            noise = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])
            call["latents"] = self._pack(noise.to(self.device, dtype))
        call |= {"height": self.resolution, "width": self.resolution, "num_inference_steps": steps or self.steps}
        call |= {"guidance_scale": scale, "generator": generators, "output_type": "latent" if latents_only else "pt"}
        known = inspect.signature(type(pipe).__call__).parameters
        with torch.no_grad():
            output = pipe(**{name: value for name, value in {**call, **inputs}.items() if name in known})
        if latents_only:
            return Generated(self._unpack(output.images).float(), [False] * len(seeds))
        images = output.images.float()
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        black = (images == 0).flatten(1).all(dim=1).tolist()
        return Generated(images, [bool(flag) or dark for flag, dark in zip(flagged, black, strict=True)])

    def _pipeline_for(self, inputs: dict[str, Any]) -> Any:
        """The pipeline whose call takes these inputs: an image-to-image or inpainting one of the same parts where a picture is given."""
        if inputs.keys() & PICTURES <= inspect.signature(type(self.pipe).__call__).parameters.keys():
            return self.pipe
        task = "AutoPipelineForInpainting" if "mask_image" in inputs else "AutoPipelineForImage2Image"
        if task not in self._siblings:
            import diffusers

            with foreign(f"'{self.spec}' cannot start from a picture", "Use another prompt."):
                sibling = getattr(diffusers, task).from_pipe(self.pipe, dtype=next(self.denoiser.parameters()).dtype)
            sibling.set_progress_bar_config(disable=True)
            self._siblings[task] = sibling
        return self._siblings[task]


def _place(pipe: Any, device: torch.device) -> bool:
    """Move a pipeline to its device. Where that is a GPU with too little memory for all of its models, and enough for each, they
    go there one by one, when they are due: then true."""
    import torch

    if getattr(pipe, "hf_device_map", None):  # its parts have their places
        return False
    if device.type == "cuda" and pipe.model_cpu_offload_seq:
        parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        sizes = [sum(p.numel() * p.element_size() for p in part.parameters()) for part in parts]
        room = SHARE * torch.cuda.mem_get_info(device)[0]
        if max(sizes) <= room < sum(sizes):
            pipe.enable_model_cpu_offload(device=device)
            return True
    pipe.to(device)
    return False


def _part(holder: Any, name: str) -> Any:
    return getattr(holder, name, None)
