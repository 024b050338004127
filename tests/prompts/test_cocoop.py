"""CoCoOp: its label features are those of the published equations for each picture, its files are read whole or refused, and what it
passes for each picture is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.prompts.test_coop import LABELS, Tower, context, learned, of_open_clip, of_transformers, save
from vlaudit.errors import CapabilityError, UsageError
from vlaudit.families.matching import MatchingModel
from vlaudit.prompts.cocoop import META, CoCoOp
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.specs import parse_prompt
from vlaudit.prompts.template import Template
from vlaudit.records import Cost, Family

torch.set_num_threads(1)


def meta_net(seed: int = 3, width: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, width), (2,), (32, 2), (32,))
    return {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in zip(META, shapes, strict=True)}


def published(features: Tensor, ctx: Tensor, meta: dict[str, Tensor], table: Tensor, encode: Tower, scale: float) -> Tensor:
    """Logits (B, C) by the paper's equations, one picture after the other, on unit-norm image features (B, D)."""
    w1, b1, w2, b2 = (meta[name] for name in META)
    rows = []
    for feature in features:
        bias = w2 @ torch.clamp(w1 @ feature + b1, min=0) + b2
        embeddings, ends, _ = learned(table, ctx + bias, LABELS)
        texts = encode(embeddings, ends)
        rows.append(scale * (texts / texts.norm(dim=-1, keepdim=True)) @ feature)
    return torch.stack(rows)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[MatchingModel, Tensor, Tower]:
    return of_transformers(tmp_path_factory.mktemp("clip"))


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("tower", [of_transformers, of_open_clip])
def test_scores_and_gradients_are_those_of_the_published_equations(
    tmp_path: Path, tower: Callable[[Path], tuple[MatchingModel, Tensor, Tower]]
) -> None:
    model, table, encode = tower(tmp_path)
    state, meta = learned(table, context(), LABELS)[2], meta_net()
    prompt = CoCoOp.parse(str(save(tmp_path / "model.pth.tar-10", state | {f"prompt_learner.{name}": value for name, value in meta.items()})))
    target = prompt.bind(model)
    target.check_labels(LABELS)
    slopes = []
    for own in (True, False):
        pixels = images().requires_grad_()
        if own:
            logits = target.classifier(LABELS)(pixels)
            found = logits.detach()
        else:
            logits = published(model.encode_images(pixels), context(), meta, table, encode, model.logit_scale)
            torch.testing.assert_close(found, logits.detach(), atol=1e-5 * model.logit_scale, rtol=0)
        logits[:, 0].sum().backward()
        assert pixels.grad is not None
        slopes.append(pixels.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


def test_a_picture_keeps_its_scores_whatever_stands_beside_it(clip: Any) -> None:
    model = clip[0]
    classify = CoCoOp(context(), meta_net()).bind(model).classifier(LABELS)
    together = classify(images())
    torch.testing.assert_close(torch.cat([classify(image) for image in images().split(1)]), together, rtol=1e-4, atol=1e-4)
    plain = CoOp(context()).bind(model).classifier(LABELS)(images())
    assert not torch.allclose(together, plain, atol=1e-2)
    still = {name: torch.zeros_like(value) for name, value in meta_net().items()}
    torch.testing.assert_close(CoCoOp(context(), still).bind(model).classifier(LABELS)(images()), plain, rtol=1e-4, atol=1e-4)


def test_what_it_passes_for_each_picture_is_counted_and_planned(clip: Any) -> None:
    target = CoCoOp(context(), meta_net()).bind(clip[0])
    classify = target.classifier(LABELS)
    with torch.no_grad():
        classify(images(4))
    asked = Cost(queries=4)
    assert target.meter.cost() == target.whole(asked, len(LABELS)) == Cost(queries=16, texts=12)
    before = target.meter.cost()
    classify(images(2).requires_grad_()).sum().backward()
    spent = target.meter.cost() - before
    assert spent == target.whole(Cost(queries=2, gradient_steps=2), len(LABELS)) == Cost(queries=8, gradient_steps=8, texts=6, text_steps=6)
    plain = Template("a {}").bind(clip[0])
    assert plain.whole(asked, len(LABELS)) == asked
    with pytest.raises(CapabilityError, match="depend on the picture"):
        target.text_features(LABELS)


def test_fit_learns_the_network_too_and_repeats(clip: Any, tmp_path: Path) -> None:
    model = clip[0]
    targets = torch.arange(24) % 3
    features = torch.nn.functional.normalize(
        torch.eye(16)[targets] + 0.1 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    losses: list[float] = []
    first = CoCoOp.fit(model, features, targets, LABELS, steps=25, rate=2e-2, batch_size=12, hidden=6, progress=lambda _, loss: losses.append(loss))
    again = CoCoOp.fit(model, features, targets, LABELS, steps=25, rate=2e-2, batch_size=12, hidden=6)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in CoCoOp.own)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    start = CoCoOp.start(model, size=4, hidden=6, generator=torch.Generator().manual_seed(0))
    assert all(not torch.equal(first.tensors[name], start.tensors[name]) for name in CoCoOp.own)
    first.save(tmp_path / "p.safetensors")
    loaded: Any = parse_prompt(f"cocoop:{tmp_path / 'p.safetensors'}", Family.MATCHING)
    torch.testing.assert_close(loaded.bind(model).classifier(LABELS)(images()), first.bind(model).classifier(LABELS)(images()))
    with pytest.raises(UsageError, match="--prompt cocoop:"):
        CoOp.parse(str(tmp_path / "p.safetensors"))


def test_what_is_not_cocoops_is_refused_in_a_sentence(clip: Any, tmp_path: Path) -> None:
    model, table, _ = clip
    state, meta = learned(table, context(), LABELS)[2], meta_net()
    changes: dict[str, dict[str, Tensor | None]] = {
        "lacks the tensor 'meta_net.linear2.bias'": {"meta_net.linear2.bias": None},
        "more than ctx, .*meta_net.linear3.weight": {"meta_net.linear3.weight": torch.zeros(2, 2)},
        "TCP": {"class_context": torch.zeros(3, 4, 32)},
        "MaPLe": {"compound_prompts_text.0": torch.zeros(4, 32)},
        "do not fit together": {"meta_net.linear2.weight": torch.zeros(16, 2)},
        "shared by all labels": {"ctx": context(3)},
        "one of token_prefix and token_suffix": {"token_suffix": None},
    }
    for said, change in changes.items():
        held = {name: value for name, value in ({**state, **meta, **change}).items() if value is not None}
        with pytest.raises(UsageError, match=said):
            CoCoOp.parse(str(save(tmp_path / "model.pth.tar-10", held)))
    with pytest.raises(UsageError, match=r"features of 24 numbers, but those of .* have 16"):
        CoCoOp(context(), meta_net(width=24)).bind(model)
    with pytest.raises(UsageError, match="48 wide"):
        CoCoOp(torch.zeros(4, 48), {**meta, META[2]: torch.zeros(48, 2), META[3]: torch.zeros(48)}).bind(model)
    read = CoCoOp.parse(str(save(tmp_path / "model.pth.tar-10", state | meta)))
    with pytest.raises(UsageError, match="learned on 3 labels, and 2 are given"):
        read.check_labels(model, LABELS[:2])
