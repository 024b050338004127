"""TPT: the context is tuned on each picture as the paper's equations say, the gradient is that of what answers, and its cost is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.prompts.test_coop import LABELS, Tower, context, learned, of_open_clip, of_transformers, save
from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingModel
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.template import Template
from vlaudit.prompts.tpt import TPT, views_of
from vlaudit.records import Cost

torch.set_num_threads(1)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def published(model: MatchingModel, picture: Tensor, prompt: TPT, ctx: Tensor, table: Tensor, encode: Tower, create_graph: bool = False) -> Tensor:
    """Logits (C,) of one picture (3, H, W), by torch's own optimizer; or, with ``create_graph``, by its formula, so that slopes of the
    tuned context in the pixels are there too."""
    views = [picture[None], *views_of(picture[None], prompt.views - 1, prompt.seed)]
    features = model.encode_images(torch.cat(views)) if not create_graph else model._encode_images(torch.cat(views))

    def logits(context: Tensor, seen: Tensor) -> Tensor:
        embeddings, ends, _ = learned(table, context, LABELS)
        texts = torch.nn.functional.normalize(encode(embeddings, ends), dim=-1)
        return model.logit_scale * seen @ texts.T

    tuned = ctx.clone().requires_grad_()
    said = logits(tuned, features if create_graph else features.detach())
    entropy = -(said.softmax(1) * said.log_softmax(1)).sum(1)
    chosen = said[entropy.argsort()[: int(len(views) * prompt.select)]].softmax(1).mean(0)
    loss = -(chosen * chosen.log()).sum()
    if create_graph:
        (slope,) = torch.autograd.grad(loss, tuned, create_graph=True)
        tuned = tuned * (1 - prompt.rate * 0.01) - prompt.rate * slope / (slope.abs() + 1e-8)
    else:
        optimizer = torch.optim.AdamW([tuned], prompt.rate)
        loss.backward()
        optimizer.step()
    return logits(tuned, features[:1])[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[MatchingModel, Tensor, Tower]:
    return of_transformers(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("tower", [of_transformers, of_open_clip])
def test_scores_are_those_of_the_published_equations(tmp_path: Path, tower: Callable[[Path], tuple[MatchingModel, Tensor, Tower]]) -> None:
    model, table, encode = tower(tmp_path)
    path = save(tmp_path / "model.pth.tar-50", learned(table, context(), LABELS)[2])
    prompt = TPT.parse(f"file={path},views=20,rate=0.05")
    with torch.no_grad():
        found = prompt.bind(model).classifier(LABELS)(images())
    wanted = torch.stack([published(model, picture, prompt, context(), table, encode) for picture in images()]).detach()
    torch.testing.assert_close(found, wanted, atol=1e-5 * model.logit_scale, rtol=0)
    untuned = CoOp.parse(f"file={path},labels=any").bind(model).classifier(LABELS)(images())
    assert not torch.allclose(found, untuned, atol=1e-3 * model.logit_scale)


def test_words_to_begin_with_are_those_of_the_template_with_a_full_stop(clip: Any) -> None:
    model = clip[0]
    still = TPT(rate=1e-12, views=4)
    found = still.bind(model).classifier(["cat", "hot_dog"])(images())
    texts = model.encode_texts(["a photo of a cat .", "a photo of a hot dog ."])
    torch.testing.assert_close(found, model.logit_scale * model.encode_images(images()) @ texts.T, rtol=1e-4, atol=1e-4)
    assert "(seed 0)" in still.text and still.reference().text == Template().text


def test_the_gradient_is_that_of_tuning_and_answering_together(clip: Any) -> None:
    """Through the step of AdamW, differentiated as it is written, no slope is lost that the pixels have."""
    model, table, encode = clip
    prompt = TPT(CoOp(context(), label_style="official"), views=8, select=0.3, rate=0.05)
    target, pixels = prompt.bind(model), images(1).requires_grad_()
    target.classifier(LABELS)(pixels)[0, 1].backward()
    whole = images(1).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        published(model, whole[0], prompt, context(), table, encode, create_graph=True)[1].backward()
    assert pixels.grad is not None and whole.grad is not None
    torch.testing.assert_close(pixels.grad, whole.grad, rtol=1e-2, atol=1e-3 * float(whole.grad.abs().max()))


def test_the_context_is_tuned_anew_on_what_an_attack_has_made_of_the_picture(clip: Any) -> None:
    model = clip[0]
    prompt = TPT(CoOp(context()), views=8, select=0.3, rate=0.1)
    seen = [prompt.seen(model, picture) for picture in (images(), (images() + 0.2).clamp(0, 1))]
    first, second = (prompt.tuned(model, LABELS, views) for views in seen)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_a_picture_is_seen_alike_alone_and_beside_others(clip: Any) -> None:
    classify = TPT(CoOp(context()), views=8, select=0.3).bind(clip[0]).classifier(LABELS)
    together = classify(images())
    torch.testing.assert_close(torch.cat([classify(image) for image in images().split(1)]), together, rtol=1e-4, atol=1e-4)
    assert not torch.equal(torch.stack(views_of(images(), 7, 0)), torch.stack(views_of(images(), 7, 1)))
    state = torch.random.get_rng_state()
    views_of(images(), 3, 5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_it_passes_for_each_picture_is_counted_and_planned(clip: Any) -> None:
    target = TPT(CoOp(context()), views=8).bind(clip[0])
    classify = target.classifier(LABELS)
    with torch.no_grad():
        classify(images(2))
    asked = Cost(queries=2)
    assert target.meter.cost() == target.whole(asked, 3) == Cost(queries=2 * (8 + 6), texts=12, gradient_steps=6, text_steps=6)
    before = target.meter.cost()
    classify(images(1).requires_grad_()).sum().backward()
    assert target.meter.cost() - before == target.whole(Cost(queries=1, gradient_steps=1), 3)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("views=1", "views=1"),
        ("views=2.5", "views=2.5"),
        ("views=1e9", "views=1e9"),
        ("select=0", "select=0"),
        ("rate=nan", "rate=nan"),
        ("seed=-1", "seed=-1"),
        ("init={}", "cannot begin with"),
        ("init=", "cannot begin with"),
        ("steps=3", "cannot take 'steps'"),
        ("absent.safetensors", "does not exist"),
    ],
)
def test_settings_that_cannot_be_are_refused(argument: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TPT.parse(argument)


def test_files_that_it_cannot_begin_with_are_refused(clip: Any, tmp_path: Path) -> None:
    _, table, _ = clip
    rows = save(tmp_path / "rows.pth", learned(table, context(3), LABELS)[2])
    with pytest.raises(UsageError, match="row for each label"):
        TPT.parse(str(rows))
    meta = save(tmp_path / "meta.pth", {"ctx": context(), "meta_net.linear1.weight": torch.zeros(1, 16)})
    with pytest.raises(UsageError, match="CoCoOp"):
        TPT.parse(str(meta))
    with pytest.raises(UsageError, match="both are given"):
        TPT.parse(f"file={rows},init=a photo of a")
    assert TPT.parse("").views == 64 and TPT.parse("").kept == 6
