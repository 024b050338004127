"""Tiny towers of open_clip and transformers, and the same towers once more, step by step, for the tests of what stands in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import word_tokenizer
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.families.matching import MatchingModel

LABELS = ["cat", "hot_dog", "big_red_car"]
WORDS = ["x", ".", "hot", "big", "red", "a", "photo", "of", "cat", "dog", "car"]
START, END, LENGTH = 2, 3, 20
TEXT_WIDTH, WIDTH, DEPTH = 32, 48, 3
CPU = torch.device("cpu")
Step = Callable[[Tensor], Tensor]


@dataclass
class Towers:
    """A matcher as vlaudit loads it, and its towers in steps: pictures (B, 3, H, W) to tokens, the norm ahead of the blocks, the
    blocks, tokens to features; the embedding table of texts, its positions, blocks, and tokens with the end's place to features."""

    model: MatchingModel
    state: dict[str, Tensor]
    embed: Step
    norm: Step
    blocks: list[Step]
    pool: Step
    table: Tensor
    positions: Tensor
    text_blocks: list[Step]
    read: Callable[[Tensor, Tensor], Tensor]
    scale: float

    def seen(self, images: Tensor, change: Callable[[int, Tensor], Tensor], ahead: Step = lambda tokens: tokens) -> Tensor:
        """Unit-norm image features, with ``change(block, tokens)`` before each block, and ``ahead`` before the norm."""
        tokens = self.norm(ahead(self.embed(images)))
        for place, block in enumerate(self.blocks):
            tokens = block(change(place, tokens))
        return torch.nn.functional.normalize(self.pool(tokens), dim=-1)

    def said(self, embeddings: Tensor, ends: Tensor, change: Callable[[int, Tensor], Tensor] = lambda _, tokens: tokens) -> Tensor:
        tokens = embeddings + self.positions[: embeddings.shape[1]]
        for place, block in enumerate(self.text_blocks):
            tokens = block(change(place, tokens))
        return torch.nn.functional.normalize(self.read(tokens, ends), dim=-1)

    def words(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (C, L, W) of texts of known words, and where they end."""
        ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
        for row, text in enumerate(texts):
            words = text.split()
            ids[row, : len(words) + 2] = torch.tensor([START, *(WORDS.index(word) + 4 for word in words), END])
        return self.table[ids], (ids == END).int().argmax(dim=1)


def of_transformers(folder: Path, seed: int = 0) -> Towers:
    from transformers import CLIPConfig, CLIPModel

    shared = {"intermediate_size": 64, "num_hidden_layers": DEPTH}
    text = shared | {"hidden_size": TEXT_WIDTH, "num_attention_heads": 2, "vocab_size": word_tokenizer(WORDS, folder),
                     "max_position_embeddings": LENGTH, "eos_token_id": END, "pad_token_id": 0}  # fmt: skip
    vision = shared | {"hidden_size": WIDTH, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    own = CLIPModel.from_pretrained(folder).eval()
    model = HuggingFaceBackend().load(str(folder), CPU)
    vision_model, text_model = own.vision_model, own.text_model
    mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)[None, None]

    def embed(images: Tensor) -> Tensor:
        return vision_model.embeddings(normalised(images))

    def pool(tokens: Tensor) -> Tensor:
        return own.visual_projection(vision_model.post_layernorm(tokens[:, 0]))

    def read(tokens: Tensor, ends: Tensor) -> Tensor:
        return own.text_projection(text_model.final_layer_norm(tokens)[torch.arange(len(ends)), ends])

    return Towers(
        model, own.state_dict(), embed, vision_model.pre_layrnorm, [_plain(block, None) for block in vision_model.encoder.layers], pool,
        text_model.embeddings.token_embedding.weight.detach(), text_model.embeddings.position_embedding.weight,
        [_plain(block, mask) for block in text_model.encoder.layers], read, own.logit_scale.exp().item(),
    )  # fmt: skip


def of_open_clip(folder: Path, seed: int = 0, **vision: Any) -> Towers:
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": DEPTH, "width": WIDTH, "head_width": 16, "patch_size": 8} | vision,
        "text_cfg": {"context_length": LENGTH, "vocab_size": word_tokenizer(WORDS, folder), "width": TEXT_WIDTH, "heads": 2,
                     "layers": DEPTH, "hf_tokenizer_name": "own", "pool_type": "eos", "eos_id": END, "tokenizer_kwargs": {}},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(seed)
    own = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in own.state_dict().items()}, folder / "open_clip_model.safetensors")
    model = OpenCLIPBackend().load(f"local-dir:{folder}", CPU)
    visual = own.visual

    def embed(images: Tensor) -> Tensor:
        patches = visual.conv1(normalised(images)).flatten(2).transpose(1, 2)
        return torch.cat([visual.class_embedding.expand(len(images), 1, -1), patches], dim=1) + visual.positional_embedding

    def pool(tokens: Tensor) -> Tensor:
        return visual.ln_post(tokens[:, 0]) @ visual.proj

    def read(tokens: Tensor, ends: Tensor) -> Tensor:
        return own.ln_final(tokens)[torch.arange(len(ends)), ends] @ own.text_projection

    return Towers(
        model, own.state_dict(), embed, getattr(visual, "ln_pre", torch.nn.Identity()),
        list(visual.transformer.resblocks) if hasattr(visual, "transformer") else [], pool,
        own.token_embedding.weight.detach(), own.positional_embedding,
        [_masked(block, own.attn_mask) for block in own.transformer.resblocks], read, own.logit_scale.exp().item(),
    )  # fmt: skip


def _plain(block: torch.nn.Module, mask: Tensor | None) -> Step:
    return lambda tokens: block(tokens, None if mask is None else mask[..., : tokens.shape[1], : tokens.shape[1]])


def _masked(block: torch.nn.Module, mask: Tensor) -> Step:
    return lambda tokens: block(tokens, attn_mask=mask)


def normalised(images: Tensor) -> Tensor:
    """With CLIP's mean and deviation, which both libraries take by default."""
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def pictures(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def drawn(*shape: int, seed: int = 1, std: float = 0.5) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
