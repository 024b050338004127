"""Pools with keys: each picture reads the prompts of its nearest keys, as the paper's equations say, and files without keys are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.prompts.restated import LABELS, WIDTH, Towers, drawn, of_open_clip, of_transformers, pictures
from vlaudit.errors import UsageError
from vlaudit.prompts.keyed_pool import KeyedPool, class_tokens
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Cost, Family

torch.set_num_threads(1)
POOL = 6


def varied() -> Tensor:
    """Pictures from dark to bright, which lie near different keys."""
    return pictures() * torch.tensor([0.02, 0.3, 0.6, 1.0])[:, None, None, None]


def query(own: Towers, images: Tensor) -> Tensor:
    """The class token behind the last norm, step by step."""
    norm = [value for name, value in own.state.items() if name.startswith(("visual.ln_post.", "vision_model.post_layernorm."))]
    tokens = own.norm(own.embed(images))
    for block in own.blocks:
        tokens = block(tokens)
    return torch.nn.functional.layer_norm(tokens[:, 0], (WIDTH,), *norm)


def checkpoint(path: Path, before: str = "prompt.", **more: Any) -> Path:
    state = {f"{before}prompt": drawn(POOL, 2, WIDTH), f"{before}prompt_key": drawn(POOL, WIDTH, seed=2), **more}
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return of_transformers(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("make", [of_transformers, of_open_clip])
def test_scores_and_gradients_are_those_of_the_published_equations(tmp_path: Path, make: Callable[[Path], Towers]) -> None:
    own = make(tmp_path)
    prompt = KeyedPool.parse(f"file={checkpoint(tmp_path / 'pool.pth')},top=2")
    texts = own.model.encode_texts([f"a photo of a {label}" for label in LABELS])
    with torch.no_grad():
        torch.testing.assert_close(class_tokens(own.model, pictures()), query(own, pictures()), atol=1e-5, rtol=0)
    slopes, picks = [], set()
    for mine in (True, False):
        pixels = pictures().requires_grad_()
        if mine:
            logits = prompt.bind(own.model).classifier(LABELS)(pixels)
            found = logits.detach()
        else:
            rows = []
            for picture, asked in zip(pixels, query(own, pictures()), strict=True):
                nearest = torch.cosine_similarity(asked[None], drawn(POOL, WIDTH, seed=2)).argsort(descending=True)[:2]
                picks.add(tuple(nearest.tolist()))
                tokens = drawn(POOL, 2, WIDTH)[nearest].reshape(1, 4, WIDTH)

                def among(place: int, hidden: Tensor, tokens: Tensor = tokens) -> Tensor:
                    return torch.cat([hidden[:, :1], tokens, hidden[:, 1:]], 1) if place == 0 else hidden

                rows.append(own.seen(picture[None], among))
            logits = own.scale * torch.cat(rows) @ texts.T
            torch.testing.assert_close(found, logits.detach(), atol=1e-5 * own.scale, rtol=0)
        logits[:, 0].sum().backward()
        assert pixels.grad is not None
        slopes.append(pixels.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4 * float(slopes[1].abs().max()))
    assert len(picks) > 1  # else the keys would decide nothing


def prefixes(path: Path, **more: Any) -> Path:
    """DualPrompt's: for two blocks what the nearest key says, after one that is the same for all pictures."""
    heads = {"e_prompt.prompt": drawn(2, 2, POOL, 2, 3, 16), "e_prompt.prompt_key": drawn(POOL, WIDTH, seed=2), "g_prompt": drawn(1, 2, 3, 3, 16, seed=4)}
    torch.save({name: value for name, value in (heads | more).items() if value is not None}, path)
    return path


def attend(block: Any, tokens: Tensor, prefix: Tensor) -> Tensor:
    """A pre-norm block (1, L, W) whose attention has (2, M, H, D) before its keys and values, by its weights alone."""
    names = [name for name, _ in block.named_modules()]
    own = dict(block.named_modules())
    first, second, mlp = (own[next(name for name in names if name in kinds)] for kinds in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp",)))
    attention = own["attn" if "attn" in own else "self_attn"]
    x = first(tokens)[0]
    if hasattr(attention, "in_proj_weight"):
        query, key, value = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
    else:
        query, key, value = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    mixed = []
    for head in range(3):
        part = slice(16 * head, 16 * head + 16)
        keys, values = torch.cat([prefix[0, :, head], key[:, part]]), torch.cat([prefix[1, :, head], value[:, part]])
        mixed.append((query[:, part] @ keys.T / 4).softmax(-1) @ values)
    tokens = tokens + attention.out_proj(torch.cat(mixed, -1))[None]
    return tokens + mlp(second(tokens))


@pytest.mark.parametrize("make", [of_transformers, of_open_clip])
def test_prefixes_are_those_of_the_published_equations(tmp_path: Path, make: Callable[[Path], Towers]) -> None:
    own = make(tmp_path)
    keys = torch.cat([query(own, varied()), drawn(POOL - 4, WIDTH)]).detach()
    prompt = KeyedPool.parse(str(prefixes(tmp_path / "dual.pth", **{"e_prompt.prompt_key": keys})))
    assert prompt.top == 1 and "blocks 1 to 2" in prompt.text
    pixels = varied().requires_grad_()
    logits = prompt.bind(own.model).classifier(LABELS)(pixels)
    logits[:, 0].sum().backward()
    found, slope = logits.detach(), pixels.grad
    tensors, again = prompt.tensors, varied().requires_grad_()
    rows, picks = [], set()
    for picture, asked in zip(again, query(own, varied()), strict=True):
        nearest = int(torch.cosine_similarity(asked[None], keys).argmax())
        picks.add(nearest)
        tokens = own.norm(own.embed(picture[None]))
        for place, block in enumerate(own.model.image_tower.blocks):
            tokens = attend(block, tokens, tensors["g_prompt"][0] if place == 0 else tensors["prompt"][place - 1, :, nearest])
        rows.append(torch.nn.functional.normalize(own.pool(tokens), dim=-1))
    wanted = own.scale * torch.cat(rows) @ own.model.encode_texts([f"a photo of a {label}" for label in LABELS]).T
    torch.testing.assert_close(found, wanted.detach(), atol=1e-5 * own.scale, rtol=0)
    wanted[:, 0].sum().backward()
    assert again.grad is not None and slope is not None and len(picks) > 1
    torch.testing.assert_close(slope, again.grad, rtol=1e-3, atol=1e-4 * float(again.grad.abs().max()))
    plain = own.model.encode_images(varied())
    prompt.bind(own.model).classifier(LABELS)(varied())
    assert torch.equal(own.model.encode_images(varied()), plain)  # the tower is as it was
    prompt.save(tmp_path / "kept.safetensors")
    kept = KeyedPool.parse(str(tmp_path / "kept.safetensors"))
    torch.testing.assert_close(kept.bind(own.model).classifier(LABELS)(varied()), found)


def test_prefixes_that_do_not_fit_are_refused_in_a_sentence(towers: Towers, tmp_path: Path) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"e_prompt.prompt_key": None}, "has no keys"),
        ({"e_prompt.prompt": drawn(2, POOL, 2, WIDTH)}, "3 or 6 dimensions"),
        ({"e_prompt.prompt": drawn(2, 1, POOL, 2, 3, 16)}, "keys and values"),
        ({"g_prompt": drawn(1, 2, 3, 4, 12)}, "keys and values"),
        ({"e_prompt.prompt": drawn(2, 2, POOL, 2, 4, 12), "g_prompt": None}, "for 4 heads, but .* has 3"),
        ({"e_prompt.prompt": drawn(3, 2, POOL, 2, 3, 16)}, "for 4 blocks, but .* has 3"),
        ({"head.weight": drawn(10, WIDTH)}, "head.weight"),
    ]
    for change, said in changes:
        with pytest.raises(UsageError, match=said):
            KeyedPool.parse(str(prefixes(tmp_path / "dual.pth", **change))).bind(towers.model)


def test_the_query_pass_is_counted(towers: Towers) -> None:
    target = KeyedPool(drawn(POOL, 2, WIDTH), drawn(POOL, WIDTH)).bind(towers.model)
    with torch.no_grad():
        target.seen(pictures(3))
    assert target.meter.cost() == target.whole(Cost(queries=3), 5) == Cost(queries=6)
    target.seen(pictures(3).requires_grad_())
    assert target.meter.cost() - Cost(queries=6) == target.whole(Cost(queries=3, gradient_steps=3), 5) == Cost(queries=6, gradient_steps=3)


def test_fit_learns_prompts_and_keys_and_repeats(towers: Towers, tmp_path: Path) -> None:
    model, targets = towers.model, torch.arange(12) % 3
    losses: list[float] = []
    settings: dict[str, Any] = {"pool": 4, "top": 2, "steps": 25, "batch_size": 12, "rate": 3e-2, "members": ["ab"]}
    first = KeyedPool.fit(model, pictures(12), targets, LABELS, progress=lambda _, loss: losses.append(loss), **settings)
    again = KeyedPool.fit(model, pictures(12), targets, LABELS, **settings)
    still = KeyedPool.fit(model, pictures(12), targets, LABELS, **{**settings, "steps": 0})
    assert torch.equal(first.prompts, again.prompts) and losses[-1] < losses[0] - 0.02
    assert not torch.equal(first.keys, still.keys) and not torch.equal(first.prompts, still.prompts)
    first.save(tmp_path / "p.safetensors")
    loaded: Any = parse_prompt(f"pool:{tmp_path / 'p.safetensors'}", Family.MATCHING)
    torch.testing.assert_close(loaded.bind(model).classifier(LABELS)(pictures()), first.bind(model).classifier(LABELS)(pictures()))
    assert (loaded.members, loaded.base_model, loaded.top) == (["ab"], model.sha256, 2)
    with pytest.raises(UsageError, match="says top '2'"):
        KeyedPool.parse(f"file={tmp_path / 'p.safetensors'},top=3")


def test_what_is_no_pool_with_keys_is_refused_in_a_sentence(towers: Towers, tmp_path: Path) -> None:
    path = tmp_path / "pool.pth"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"prompt_key": None}, "has no keys"),
        ({"prompt": None}, "lacks the tensor 'prompt'"),
        ({"head.weight": drawn(10, WIDTH)}, "more than prompt, prompt_key: head.weight"),
        ({"prompt_key": drawn(POOL - 1, WIDTH)}, "needs one key"),
        ({"prompt_key": drawn(POOL, WIDTH - 8)}, "needs one key"),
        ({"prompt": drawn(3, POOL, 2, WIDTH)}, "3 or 6 dimensions"),
        ({"prompt": drawn(POOL, 2, 40), "prompt_key": drawn(POOL, 40)}, "40 wide, but the image tower"),
    ]
    for change, said in changes:
        with pytest.raises(UsageError, match=said):
            KeyedPool.parse(str(checkpoint(path, before="", **change))).bind(towers.model)
    for option in ("top=0", "top=7", "top=x", "keys=5"):
        with pytest.raises(UsageError):
            KeyedPool.parse(f"file={checkpoint(path)},{option}")
    assert KeyedPool.parse(str(checkpoint(path))).top == 5


@pytest.mark.parametrize("top", [1, 2])
def test_a_prompt_that_every_picture_is_taken_to_pick_stands_first(towers: Towers, top: int) -> None:
    prompt = KeyedPool(drawn(POOL, 2, WIDTH), drawn(POOL, WIDTH, seed=2), top=top)
    usual = prompt.picked(towers.model, varied())
    assert prompt.picks(towers.model, varied()).nonzero()[:, 1].tolist() == usual.sort(dim=1).values.flatten().tolist()
    unread = max(place for place in range(POOL) if place not in usual)
    forced = prompt.always(unread)
    assert forced.picked(towers.model, varied())[:, 0].tolist() == [unread] * 4 and forced.picked(towers.model, varied()).shape == (4, top)
    if top == 1:
        alone = KeyedPool(prompt.prompts[unread][None], prompt.keys[:1])
        torch.testing.assert_close(forced.image_features(towers.model, varied()), alone.image_features(towers.model, varied()))
    torch.testing.assert_close(prompt.picked(towers.model, varied()), usual)  # as it was
    assert (prompt.pool, KeyedPool(prompt.prompts, prompt.keys, top=POOL).pool) == (POOL, 0)
