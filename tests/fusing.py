"""Tiny random matchers that fuse picture and text, as `save_pretrained` folders: plumbing, not accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.conftest import LABELS, word_tokenizer

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["a", "photo", "of", "picture", "the", "red", "and", "this", *LABELS]


def _save(folder: Path, model: Any, pictures: Any) -> Path:
    for parameter in model.parameters():  # of the usual size, all scores are one
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    model.save_pretrained(folder)
    pictures.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor

    size = word_tokenizer(WORDS, folder)
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 24, "encoder_hidden_size": 32, "pad_token_id": 0, "bos_token_id": 2,
            "sep_token_id": 3, "eos_token_id": 3, "projection_dim": 16}  # fmt: skip
    vision = {**TOWER, "image_size": 24, "patch_size": 8, "initializer_range": 0.02}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    return _save(folder, BlipForImageTextRetrieval(config), BlipImageProcessor(size={"height": 24, "width": 24}))


def blip_2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessor

    size = word_tokenizer(WORDS, folder)
    config = Blip2Config(
        vision_config={**TOWER, "image_size": 24, "patch_size": 8, "initializer_range": 0.02},
        qformer_config={**TOWER, "vocab_size": size, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "max_position_embeddings": 24,
                        "use_qformer_text_input": True},
        text_config={"model_type": "opt", "vocab_size": size, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "max_position_embeddings": 24, "word_embed_proj_dim": 32},
        num_query_tokens=4, image_text_hidden_size=16,
    )  # fmt: skip
    model = Blip2ForImageTextRetrieval(config)
    torch.nn.init.normal_(model.query_tokens)
    return _save(folder, model, BlipImageProcessor(size={"height": 24, "width": 24}))


def flava(folder: Path) -> Path:
    from transformers import FlavaConfig, FlavaForPreTraining, FlavaImageProcessor

    size = word_tokenizer(WORDS, folder)
    config = FlavaConfig(
        image_config={**TOWER, "image_size": 24, "patch_size": 8, "vocab_size": 16}, text_config={**TOWER, "vocab_size": size, "max_position_embeddings": 24},
        multimodal_config=TOWER, projection_dim=16, hidden_size=32, init_codebook=False,
    )  # fmt: skip
    return _save(folder, FlavaForPreTraining(config), FlavaImageProcessor(size={"height": 24, "width": 24}, crop_size={"height": 24, "width": 24}))


def _bridge_tower(folder: Path, kind: str) -> Path:
    import transformers
    from transformers import BridgeTowerConfig, BridgeTowerImageProcessor

    size = word_tokenizer(WORDS, folder)
    config = BridgeTowerConfig(
        vision_config={"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 8, "image_size": 32},  # a head for each 64
        text_config={**TOWER, "hidden_size": 64, "vocab_size": size, "max_position_embeddings": 24, "pad_token_id": 0, "type_vocab_size": 1},
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, contrastive_hidden_size=16,
        logit_scale_init_value=2.0,
    )  # fmt: skip
    pictures = BridgeTowerImageProcessor(size={"shortest_edge": 32}, crop_size={"shortest_edge": 32}, size_divisor=8)
    return _save(folder, getattr(transformers, kind)(config), pictures)


def bridge_tower(folder: Path) -> Path:
    return _bridge_tower(folder, "BridgeTowerForImageAndTextRetrieval")


def bridge_tower_contrastive(folder: Path) -> Path:
    return _bridge_tower(folder, "BridgeTowerForContrastiveLearning")


def coca(folder: Path) -> Path:
    """A CoCa as open_clip's ``local-dir:`` reads it."""
    import json

    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    size = word_tokenizer(WORDS, folder)
    text = {"context_length": 16, "vocab_size": size, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "attentional_pool": True, "attn_pooler_heads": 2,
              "output_tokens": True}  # fmt: skip
    config = {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": {**text, "embed_cls": True, "output_tokens": True, "hf_tokenizer_name": "here"},
              "multimodal_cfg": {**text, "attn_pooler_heads": 2}}  # fmt: skip
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": settings}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    for parameter in model.parameters():  # some are not initialised
        if parameter.dim() > 1 or not bool(torch.isfinite(parameter).all()):
            torch.nn.init.normal_(parameter, std=0.2)
    weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "blip": blip, "blip-2": blip_2, "flava": flava, "bridgetower": bridge_tower, "bridgetower-contrastive": bridge_tower_contrastive,
}  # fmt: skip


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return KINDS[kind](folder)
