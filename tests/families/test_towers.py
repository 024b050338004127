"""Learned tokens in a tower: where they stand, what takes their place, and which towers have room for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.prompts.restated import CPU, DEPTH, TEXT_WIDTH, WIDTH, Towers, drawn, of_open_clip, of_transformers, pictures
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.errors import CapabilityError
from vlaudit.families.matching import SoftTokens
from vlaudit.families.towers import TowerTokens

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("make", [of_transformers, of_open_clip])


def test_what_is_measured_of_a_tower(tmp_path: Path) -> None:
    for number, make in enumerate([of_transformers, of_open_clip]):
        (folder := tmp_path / str(number)).mkdir()
        model = make(folder).model
        image, text = model.image_tower, model.text_tower
        assert (image.depth, image.width, image.length, image.lead) == (DEPTH, WIDTH, 17, 1)
        assert image.norm is not None and text.width == TEXT_WIDTH and text.depth == DEPTH


@BOTH
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_tokens_stand_where_they_are_said_to_and_are_replaced_at_deeper_blocks(
    make: Callable[[Path], Towers], first: bool, normed: bool, tmp_path: Path
) -> None:
    towers, images = make(tmp_path), pictures()
    shallow, later = drawn(2, WIDTH), drawn(4, 5, WIDTH)  # the later ones are five, and each picture's own

    def joined(own: Tensor, tokens: Tensor, before: int) -> Tensor:
        if first:
            return torch.cat([tokens[:, :1], own, tokens[:, 1 + before :]], dim=1)
        return torch.cat([tokens[:, : tokens.shape[1] - before], own], dim=1)

    def change(place: int, tokens: Tensor) -> Tensor:
        if place == 0 and not normed:
            return joined(shallow.expand(4, -1, -1), tokens, 0)
        return joined(later, tokens, 2) if place == 2 else tokens

    with torch.no_grad():
        ahead = (lambda tokens: joined(shallow.expand(4, -1, -1), tokens, 0)) if normed else (lambda tokens: tokens)
        wanted = towers.seen(images, change, ahead)
        found = towers.model.encode_images(images, TowerTokens([shallow, None, later], first=first, normed=normed))
        plain = towers.model.encode_images(images)
        torch.testing.assert_close(plain, towers.seen(images, lambda _, tokens: tokens), atol=1e-5, rtol=0)  # no hook is left
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 1e-2


@BOTH
def test_soft_tokens_are_replaced_at_deeper_blocks_of_the_text_tower(make: Callable[[Path], Towers], tmp_path: Path) -> None:
    towers = make(tmp_path)
    texts = ["x x cat .", "x x big red car ."]
    embeddings, ends = towers.words(texts)
    ctx, deeper = drawn(2, TEXT_WIDTH), [drawn(2, TEXT_WIDTH, seed=seed) for seed in (2, 3)]
    embeddings[:, 1:3] = ctx

    def change(place: int, tokens: Tensor) -> Tensor:
        return tokens if place == 0 else torch.cat([tokens[:, :1], deeper[place - 1].expand(2, -1, -1), tokens[:, 3:]], dim=1)

    soft = SoftTokens(ctx, [[1, 2], [1, 2]], deeper)
    sequences = [towers.model.tokenize(text) for text in texts]
    with torch.no_grad():
        found = towers.model.encode_tokens(sequences, soft)
        torch.testing.assert_close(found, towers.said(embeddings, ends, change), atol=1e-5, rtol=0)
        assert (towers.model.encode_tokens(sequences, SoftTokens(ctx, soft.slots)) - found).abs().max() > 1e-3


@BOTH
def test_gradients_flow_into_tokens_and_pixels_in_one_part_or_several(make: Callable[[Path], Towers], tmp_path: Path) -> None:
    model, images = make(tmp_path).model, pictures().requires_grad_()
    values = [drawn(2, WIDTH).requires_grad_(), drawn(2, WIDTH, seed=3).requires_grad_()]
    slopes = []
    for model.cut.most in (None, 3):
        features = model.encode_images(images, TowerTokens(values))
        slopes.append(torch.autograd.grad(features[:, 0].sum(), [images, *values]))
    for whole, parts in zip(*slopes, strict=True):
        assert whole.abs().sum() > 0
        torch.testing.assert_close(whole, parts)


def test_pooling_sees_the_towers_own_tokens_only(tmp_path: Path) -> None:
    """Where all tokens are averaged, the learned ones are not among them."""
    model = of_open_clip(tmp_path, pool_type="avg", final_ln_after_pool=True).model
    with torch.no_grad():
        lengths: list[int] = []
        visual: Any = model._modules()[0]
        pool, visual._global_pool = visual._global_pool, lambda x: (lengths.append(x.shape[1]), pool(x))[1]
        model.encode_images(pictures(), TowerTokens([drawn(3, WIDTH)]))
    assert set(lengths) == {17}


def test_siglip_has_room_for_tokens_and_no_class_token(tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    from tests.conftest import word_tokenizer

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = shape | {"vocab_size": word_tokenizer(["a", "cat"], tmp_path), "max_position_embeddings": 8, "projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=shape | {"image_size": 32, "patch_size": 8})).save_pretrained(tmp_path)
    model = HuggingFaceBackend().load(str(tmp_path), CPU)
    assert (model.image_tower.lead, model.image_tower.length, model.image_tower.norm) == (0, 16, None)
    with torch.no_grad():
        moved = model.encode_images(pictures(), TowerTokens([drawn(3, 32), drawn(3, 32)])) - model.encode_images(pictures())
    assert moved.abs().max() > 1e-3


def test_a_tower_that_is_no_transformer_is_refused_by_name(tmp_path: Path) -> None:
    model = of_open_clip(tmp_path, layers=[1, 1, 1, 1], width=16, patch_size=None, image_size=32).model
    with pytest.raises(CapabilityError, match=r"image tower of 'open_clip:.*no plain transformer"):
        model.encode_images(pictures(), TowerTokens([drawn(2, 16)]))


def test_more_layers_than_the_tower_has_are_refused(tmp_path: Path) -> None:
    model = of_open_clip(tmp_path).model
    with pytest.raises(CapabilityError, match=rf"4 blocks.*has {DEPTH}"):
        model.encode_images(pictures(), TowerTokens([drawn(2, WIDTH)] * 4))
