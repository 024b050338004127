"""ControlNets of a diffusers pipeline: a hook on the denoiser, so that the pipeline's own call and single predictions read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.backends.base import refuse_oversized
from vlaudit.errors import CapabilityError, ModelError, UsageError, foreign
from vlaudit.inspection.configs import read_config
from vlaudit.inspection.folder import DIFFUSERS_WEIGHTS, inspect_part

if TYPE_CHECKING:
    from torch import Tensor

CONTROLS = {  # by the class of the denoiser
    "UNet2DConditionModel": "ControlNetModel",
    "SD3Transformer2DModel": "SD3ControlNetModel",
    "FluxTransformer2DModel": "FluxControlNetModel",
}
WIDTHS = ("cross_attention_dim", "joint_attention_dim", "pooled_projection_dim", "in_channels")


class Controls:
    """The ControlNets of a pipeline: loaded once, off unless one is in use."""

    def __init__(self, model: Any) -> None:
        self._model = model  # the pipeline's, of ``vlaudit.backends.diffusion``
        self._nets: dict[str, Any] = {}
        self._stack: list[tuple[Any, Tensor, float]] = []
        self._encoded: tuple[Tensor, Tensor] | None = None  # the picture last seen, as its ControlNet reads it
        self._kind = CONTROLS.get(type(model.denoiser).__name__)
        if self._kind:
            model.denoiser.register_forward_pre_hook(self._steer, with_kwargs=True)

    def load(self, name: str, path: Path) -> None:
        """Load a ControlNet from a folder that diffusers wrote. Raises UsageError for one that does not fit, ModelError."""
        import diffusers
        import torch

        if name in self._nets:
            return
        found = read_config(path / "config.json", "Give the folder that a ControlNet's save_pretrained wrote.").get("_class_name")
        if not self._kind or found != self._kind:
            raise UsageError(f"'{path}' holds a {str(found)[:60]}, and '{self._model.spec}' takes "
                             f"{'a ' + self._kind if self._kind else 'no ControlNet'}.", "It was made for another kind of pipeline.")  # fmt: skip
        folder, variant = inspect_part(path, self._dtype != torch.float32)
        kind = getattr(diffusers, self._kind)
        with foreign(f"The ControlNet '{path}' could not be loaded", "Check that its config and weights belong together."):
            refuse_oversized(folder, lambda: kind.from_config(kind.load_config(path, local_files_only=True)))
            net, report = kind.from_pretrained(path, dtype=self._dtype, variant=variant, local_files_only=True,
                                               use_safetensors=folder.safetensors, output_loading_info=True)  # fmt: skip
        if wrong := sorted({*map(str, report["missing_keys"]), *map(str, report["unexpected_keys"]), *map(str, report["mismatched_keys"])}):
            raise ModelError(f"The weights of '{path}' lack or have besides {len(wrong)} tensors, such as '{wrong[0]}'.",
                             "Save the ControlNet again.")  # fmt: skip
        self._check(net, path)
        self._nets[name] = net.eval().requires_grad_(False).to(self._model.device)

    @property
    def _dtype(self) -> Any:
        return next(self._model.denoiser.parameters()).dtype

    def _check(self, net: Any, path: Path) -> None:
        theirs, own = net.config, self._model.denoiser.config
        for width in WIDTHS:
            if (wanted := theirs.get(width)) is not None and wanted != own.get(width):
                raise UsageError(f"The ControlNet '{path}' has the {width} {wanted}, and '{self._model.spec}' has {own.get(width)}.",
                                 "It was made for another model.")  # fmt: skip
        if getattr(net, "union", False) or getattr(net, "pos_embed", True) is None or theirs.get("extra_conditioning_channels"):
            raise UsageError(f"The ControlNet '{path}' needs more than a picture (a mode, a mask or its pipeline's positions).",
                             "Use one that is made for one kind of picture.")  # fmt: skip

    def fresh(self, name: str, seed: int) -> dict[str, Tensor]:
        """A ControlNet that is the denoiser's copy and changes nothing yet: its trainable tensors."""
        import torch
        from diffusers import ControlNetModel

        if self._kind != "ControlNetModel":
            raise CapabilityError(f"A ControlNet is learned on a U-Net only, which '{self._model.spec}' has not.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ControlNetModel.from_unet(self._model.denoiser, conditioning_embedding_out_channels=self._embedding(),
                                            load_weights_from_unet=False)  # fmt: skip
        own = {key.replace(".base_layer.", "."): value for key, value in self._model.denoiser.state_dict().items() if ".lora_" not in key}
        net.load_state_dict({key: own.get(key, value) for key, value in net.state_dict().items()})
        self._nets[name] = net.float().to(self._model.device)
        return dict(net.named_parameters())

    def _embedding(self) -> tuple[int, ...]:
        """Channels of the layers that halve the condition picture until it is as large as the latents."""
        halvings = int(self._model.pipe.vae_scale_factor).bit_length() - 1
        return tuple(16 * 2**index for index in range(halvings + 1))

    def save(self, name: str, path: Path, metadata: dict[str, str]) -> None:
        """Write a ControlNet as diffusers does, with metadata that others ignore."""
        from safetensors.torch import save_file

        net = self._nets[name]
        net.save_config(path)
        tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
        save_file(tensors, str(path / f"{DIFFUSERS_WEIGHTS}.safetensors"), metadata={"format": "pt", **metadata})

    @contextmanager
    def on(self, name: str, pictures: Tensor, scale: float) -> Iterator[None]:
        self._stack.append((self._nets[name], pictures, scale))
        try:
            yield
        finally:
            self._stack.pop()

    def _steer(self, _module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What the denoiser is called with, and what the ControlNet makes of it and the picture."""
        if not self._stack:
            return None
        net, pictures, scale = self._stack[-1]
        latents = arguments[0] if arguments else named["hidden_states"]
        condition = self._condition(net, pictures).to(latents)
        if len(condition) not in (1, len(latents)):
            raise ValueError(f"{len(condition)} condition pictures do not fit {len(latents)} latents")
        call: dict[str, Any] = {"controlnet_cond": condition.expand(len(latents), *condition.shape[1:]), "conditioning_scale": scale, "return_dict": False}
        if self._kind == "ControlNetModel":
            down, middle = net(*arguments[:2], encoder_hidden_states=named["encoder_hidden_states"],
                               added_cond_kwargs=named.get("added_cond_kwargs"), **call)  # fmt: skip
            return arguments, {**named, "down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        read = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")
        call |= {key: named[key] for key in read}
        if self._kind == "SD3ControlNetModel":
            if net.config.force_zeros_for_pooled_projection:
                call["pooled_projections"] = call["pooled_projections"] * 0
            (blocks,) = net(**call)
            return arguments, {**named, "block_controlnet_hidden_states": blocks}
        guidance = named["guidance"] if net.config.guidance_embeds else None
        blocks, single = net(**call, guidance=guidance, txt_ids=named["txt_ids"], img_ids=named["img_ids"])
        repeat = net.input_hint_block is not None
        return arguments, {**named, "controlnet_block_samples": blocks, "controlnet_single_block_samples": single,
                           "controlnet_blocks_repeat": repeat}  # fmt: skip

    def _condition(self, net: Any, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] as the ControlNet reads them: as they are, in [-1, 1], or as the VAE's latents."""
        import torch

        if self._kind == "ControlNetModel":
            return pictures
        if getattr(net, "input_hint_block", None) is not None:
            return 2 * pictures - 1
        if self._encoded is None or self._encoded[0] is not pictures:
            with torch.no_grad():
                latents = self._model.encode_images(pictures)
            if self._kind == "FluxControlNetModel":
                latents = self._model._pack(latents)
            elif net.config.force_zeros_for_pooled_projection:  # those of InstantX leave the VAE's shift in
                config = self._model.pipe.vae.config
                latents = latents + (config.shift_factor or 0) * config.scaling_factor
            self._encoded = pictures, latents
        return self._encoded[1]
