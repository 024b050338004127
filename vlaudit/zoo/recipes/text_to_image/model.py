"""The text-to-image pipeline: its parts, how they are saved as a diffusers folder, and how they are read back.

A picture of 32 x 32 pixels is 16 x 16 x 4 latents; the denoiser reads the hidden states of the flagship matcher's text
tower. All is kept so small that one picture, ten steps with guidance, takes about a tenth of a second on one core.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from vlaudit.data.emoji import SIZE
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes.matching import model as matching

FLAGSHIP = WEIGHTS / "t2i-clean"
STEPS = 10
GUIDANCE = 3.0
SAMPLING = "sampling.json"
"""Beside `model_index.json`: the number of steps and the guidance that a pipeline is meant for."""


def new_vae(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        mid_block_add_attention=False,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def new_unet(seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DPMSolverMultistepScheduler:
    """Stable Diffusion 2's noise schedule and velocity prediction; sampled by DPM-Solver++ of second order.

    Velocity, because the error of a predicted noise is divided by next to nothing in the first of few steps.
    """
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        solver_order=2,
        steps_offset=1,
    )


def diffuse(
    scheduler: DPMSolverMultistepScheduler, latents: Tensor, noise: Tensor, times: Tensor
) -> tuple[Tensor, Tensor]:
    """Latents (B,4,h,w) at the noise levels `times` (B,), and the velocity that a perfect denoiser says of them.

    By the noise schedule itself: before the solver is told its timesteps, its `add_noise` counts them from the other end.
    """
    keep = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    kept, added = keep.sqrt(), (1 - keep).sqrt()
    return kept * latents + added * noise, kept * noise - added * latents


def text_encoder(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """The text tower of a matcher as transformers' `CLIPTextModel`: the same numbers under other names."""
    state = model.state_dict()
    width = model.token_embedding.embedding_dim
    blocks = model.transformer.resblocks
    config = CLIPTextConfig(
        vocab_size=model.token_embedding.num_embeddings,
        hidden_size=width,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        projection_dim=model.text_projection.shape[1],
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=matching.CONTEXT_LENGTH,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    renamed = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "final_layer_norm.weight": state["ln_final.weight"],
        "final_layer_norm.bias": state["ln_final.bias"],
        **matching.layers_of(model.transformer),
    }
    encoder = CLIPTextModel(config).eval()
    prefix = "text_model." if any(name.startswith("text_model.") for name in encoder.state_dict()) else ""
    encoder.load_state_dict({prefix + name: tensor for name, tensor in renamed.items()})
    return encoder


@torch.no_grad()
def text_states(encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """What the denoiser reads of texts, (N, L, W), padded as the pipeline pads."""
    return encoder(matching.tokenize(tokenizer, texts))[0]


def save(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write the folder that `StableDiffusionPipeline.from_pretrained` loads, in half precision."""
    halves = {
        name: copy.deepcopy(part).half() for name, part in (("vae", vae), ("unet", unet), ("text_encoder", encoder))
    }
    pipeline = StableDiffusionPipeline(
        **halves,
        tokenizer=tokenizer,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    for path in folder.glob("*/config.json"):  # where the part was loaded from is nobody's business
        config = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key != "_name_or_path"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sampling = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    (folder / SAMPLING).write_text(json.dumps(sampling, indent=2) + "\n", encoding="utf-8")


def load(folder: Path = FLAGSHIP) -> StableDiffusionPipeline:
    """Read such a folder back, in single precision, without progress bars."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def paint(pipeline: StableDiffusionPipeline, captions: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
    """Pictures of captions, (N,3,32,32) in [0,1], one seed each, at the steps and guidance the zoo is meant for."""
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE} | options
    pictures = []
    for start in range(0, len(captions), 64):
        part = slice(start, start + 64)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        pictures.append(pipeline(list(captions[part]), generator=generators, output_type="pt", **options).images)
    return torch.cat(pictures)
