"""Small randomly initialised text-to-image pipelines of every kind vlaudit reads: plumbing, not pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "an", "the", "of", "photo", "painting", "cat", "dog", "bird", "red", "blue", "big", "small", "and", "on", "by",
         "monet", "soft", "dramatic", "lighting", "moody"]  # fmt: skip
CONTEXT = 16


def clip_tokenizer(folder: Path) -> Any:
    """A word-level tokenizer with CLIP's start and end tokens, context of 16."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<s>", "<unk>", *WORDS, "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = len(vocabulary) - 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="</s>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=CONTEXT,
    )  # fmt: skip


def _clip(tokenizer: Any, projected: bool = False, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = len(tokenizer)
    config = CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=CONTEXT, projection_dim=width, bos_token_id=0, eos_token_id=size - 1, pad_token_id=1,
        hidden_act="gelu",
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5(folder: Path) -> tuple[Any, Any]:
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    fast = clip_tokenizer(folder)._tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="</s>", unk_token="<unk>", eos_token="</s>", model_max_length=CONTEXT
    )
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    return tokenizer, T5EncoderModel(config)


def _vae(channels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32), in_channels=3, out_channels=3, latent_channels=channels, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    )  # fmt: skip


def _unet(width: int = 32, channels: int = 4, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=channels, out_channels=4, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=8, **more,
    )  # fmt: skip


def stable_diffusion(
    folder: Path, prediction: str = "epsilon", scheduler: str = "DDIMScheduler", kind: str = "StableDiffusionPipeline", **parts: Any
) -> Path:
    """SD 1 (``epsilon``) or SD 2 (``v_prediction``)."""
    import diffusers

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    schedule = getattr(diffusers, scheduler)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, steps_offset=1,
        **({"clip_sample": False, "set_alpha_to_one": False} if scheduler == "DDIMScheduler" else {}),
    )  # fmt: skip
    own = {"unet": _unet(), "vae": _vae(), "text_encoder": _clip(tokenizer), "tokenizer": tokenizer}
    own |= {"scheduler": schedule, "safety_checker": None, "feature_extractor": None}
    getattr(diffusers, kind)(**{**own, **parts}, requires_safety_checker=False).save_pretrained(folder)
    return folder


def inpainter(folder: Path) -> Path:
    """SD whose U-Net reads a mask and what it keeps."""
    return stable_diffusion(folder, kind="StableDiffusionInpaintPipeline", unet=_unet(channels=9))


def sdxl(folder: Path) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    unet = _unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
        use_linear_projection=True, transformer_layers_per_block=(1, 1),
    )  # fmt: skip
    schedule = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                      timestep_spacing="leading")  # fmt: skip
    StableDiffusionXLPipeline(
        unet=unet, vae=_vae(force_upcast=True), scheduler=schedule, tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder=_clip(tokenizer), text_encoder_2=_clip(tokenizer, projected=True), add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def sd3(folder: Path, with_t5: bool = True, layers: int = 1, channels: int = 4) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    t5_tokenizer, t5 = _t5(folder) if with_t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=channels, num_layers=layers, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=channels,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(channels, shift_factor=0.06),
        text_encoder=_clip(tokenizer, True), text_encoder_2=_clip(tokenizer, True), tokenizer=tokenizer,
        tokenizer_2=tokenizer, text_encoder_3=_wide(t5), tokenizer_3=t5_tokenizer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _wide(t5: Any) -> Any:
    """A T5 encoder as wide as the joint attention."""
    from transformers import T5Config, T5EncoderModel

    return t5 and T5EncoderModel(T5Config(**{**t5.config.to_diff_dict(), "d_model": 64}))


def flux(folder: Path, guidance_embeds: bool = True) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    t5_tokenizer, t5 = _t5(folder)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(shift_factor=0.06), text_encoder=_clip(tokenizer), tokenizer=tokenizer, text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "sampling.json").write_text(json.dumps({"resolution": 16}))
    return folder


def amused(folder: Path) -> Path:
    """aMUSEd: masked tokens of a codebook of 16."""
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    transformer = UVit2DModel(
        hidden_size=32, cond_embed_dim=32, micro_cond_encode_dim=8, micro_cond_embed_dim=40, encoder_hidden_size=32, vocab_size=20,
        codebook_size=16, in_channels=32, block_out_channels=32, num_res_blocks=1, block_num_heads=2, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48, sample_size=8,
    )  # fmt: skip
    for parameter in transformer.mlm_layer.parameters():  # else one token is likelier than all others
        parameter.data.mul_(0.3)
    vqvae = VQModel(
        block_out_channels=(32, 32), latent_channels=8, num_vq_embeddings=16, vq_embed_dim=8, norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, lookup_from_codebook=True,
    )  # fmt: skip
    AmusedPipeline(vqvae=vqvae, tokenizer=tokenizer, text_encoder=_clip(tokenizer, projected=True), transformer=transformer,
                   scheduler=AmusedScheduler(mask_token_id=19)).save_pretrained(folder)  # fmt: skip
    return folder
