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
        ({"prompt": drawn(3, POOL, 2, WIDTH)}, "3 dimensions"),
        ({"prompt": drawn(POOL, 2, 40), "prompt_key": drawn(POOL, 40)}, "40 wide, but the image tower"),
    ]
    for change, said in changes:
        with pytest.raises(UsageError, match=said):
            KeyedPool.parse(str(checkpoint(path, before="", **change))).bind(towers.model)
    for option in ("top=0", "top=7", "top=x", "keys=5"):
        with pytest.raises(UsageError):
            KeyedPool.parse(f"file={checkpoint(path)},{option}")
    assert KeyedPool.parse(str(checkpoint(path))).top == 5
