"""EVP and annotations: what stands on or around the picture, where, and how its gradients flow; files and boxes that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tests.prompts.test_coop import LABELS, of_open_clip, of_transformers, save
from vlaudit.data.example import Example
from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingModel
from vlaudit.prompts.annotation import COLOURS, RED, Annotation
from vlaudit.prompts.evp import EVP
from vlaudit.prompts.files import PromptFile, write_prompt_file
from vlaudit.prompts.specs import parse_prompt
from vlaudit.prompts.template import Template
from vlaudit.records import Family

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MatchingModel:
    return of_transformers(tmp_path_factory.mktemp("clip"))[0]


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def frame(edge: int = 4) -> Tensor:
    pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(2))
    pattern[:, edge : 32 - edge, edge : 32 - edge] = 0
    return pattern


# --- EVP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", [of_transformers, of_open_clip])
def test_evp_scores_are_those_of_the_published_equations(tmp_path: Path, tower: Any) -> None:
    own, _, _ = tower(tmp_path)
    torch.save({"perturbation": frame()}, tmp_path / "checkpoint_best.pth")
    prompt = EVP.parse(str(tmp_path / "checkpoint_best.pth"))
    found = prompt.bind(own).classifier(["Hot_dog", "cat"])(images())
    small = torch.nn.functional.interpolate(images(), (24, 24), mode="bicubic", antialias=True).clamp(0, 1)
    whole = torch.zeros(3, 3, 32, 32)
    whole[..., 4:28, 4:28] = small
    seen = own.encode_images(whole + frame())
    texts = own.encode_texts(["this is a photo of a hot dog", "this is a photo of a cat"])
    torch.testing.assert_close(found, own.logit_scale * seen @ texts.T, atol=1e-5 * own.logit_scale, rtol=0)


def test_evp_shrinks_the_picture_and_gradients_reach_all_of_it(model: MatchingModel) -> None:
    prompt = EVP(frame(), 24)
    changed = images()
    changed[..., 0, 0] = 1 - changed[..., 0, 0]
    seen, other = prompt.transform(images()), prompt.transform(changed)
    assert torch.equal(seen[..., :4, :], other[..., :4, :]) and not torch.equal(seen, other)
    pixels = images().requires_grad_()
    prompt.bind(model).classifier(LABELS)(pixels).sum().backward()
    assert pixels.grad is not None and bool((pixels.grad != 0).any(1).all())


def test_evp_learns_around_the_picture_alone_and_is_kept(model: MatchingModel, tmp_path: Path) -> None:
    losses: list[float] = []
    targets = torch.arange(12) % 3
    prompt = EVP.fit(model, images(12), targets, LABELS, steps=30, rate=0.1, progress=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0] and prompt.size == 24
    assert bool((prompt.pattern[:, 4:28, 4:28] == 0).all()) and bool((prompt.pattern[:, 0] != 0).any())
    prompt.members = ["ab"]
    prompt.save(tmp_path / "p.safetensors")
    loaded: Any = parse_prompt(f"evp:{tmp_path / 'p.safetensors'}", Family.MATCHING)
    assert loaded.members == ["ab"] and loaded.base_model == model.sha256
    torch.testing.assert_close(loaded.bind(model).classifier(LABELS)(images()), prompt.bind(model).classifier(LABELS)(images()))


def test_what_is_not_evps_is_refused_in_a_sentence(model: MatchingModel, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_best.pth"
    for state, said in (
        ({"perturbation": frame(), "mask": frame()}, "more than perturbation: mask"),
        ({"delta": frame()}, "more than perturbation: delta"),
        ({}, "lacks the tensor 'perturbation'"),
        ({"perturbation": torch.zeros(3, 32, 32)}, "does not tell how large"),
        ({"perturbation": torch.ones(3, 32, 32)}, "does not tell how large"),
        ({"perturbation": torch.ones(3, 32, 24)}, "cannot stand in its middle"),
    ):
        save(path, state)
        with pytest.raises(UsageError, match=said):
            EVP.parse(f"file={path}" + (",size=20" if "middle" in said else ""))
    save(path, {"perturbation": frame()})
    for size in ("31", "0", "40", "x"):
        with pytest.raises(UsageError):
            EVP.parse(f"file={path},size={size}")
    assert EVP.parse(f"file={path},size=20").size == 20
    with pytest.raises(UsageError, match=r"40 pixels a side, but .* sees 32"):
        EVP(torch.ones(3, 40, 40), 30).bind(model)
    write_prompt_file(tmp_path / "p.safetensors", PromptFile("evp", {"pattern": frame()}, extra={"size": "a"}))
    with pytest.raises(UsageError, match="says size 'a'"):
        EVP.parse(str(tmp_path / "p.safetensors"))


# --- annotations ------------------------------------------------------------------------------------------------------


def example(folder: Path, **cells: str) -> Example:
    path = folder / "picture.png"
    Image.new("RGB", (60, 40), (10, 20, 30)).save(path)
    return Example("picture.png", path, "cat", attributes=cells)


def test_a_red_circle_is_the_ellipse_that_a_drawing_program_draws(tmp_path: Path) -> None:
    prompt = Annotation.parse("kind=circle,box=box,width=0.1")
    marked = np.asarray(prompt.shown(example(tmp_path, box="6, 4, 54, 36")))
    drawn = Image.new("RGB", (60, 40), (10, 20, 30))
    ImageDraw.Draw(drawn).ellipse((6, 4, 53, 35), outline=RED, width=4)
    mine, theirs = (np.all(picture == RED, axis=-1) for picture in (marked, np.asarray(drawn)))
    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.9
    assert np.all(marked[~mine] == (10, 20, 30))


def test_a_tint_covers_its_box_by_half_and_the_text_names_its_colour(model: MatchingModel, tmp_path: Path) -> None:
    prompt = Annotation.parse("kind=tint,box=0 0 0.5 1,colour=blue")
    seen, blue = prompt.transform(images()), torch.tensor(COLOURS["blue"])[:, None, None] / 255
    torch.testing.assert_close(seen[..., :16], 0.5 * images()[..., :16] + 0.5 * blue)
    assert torch.equal(seen[..., 16:], images()[..., 16:])
    torch.testing.assert_close(prompt.label_features(model, ["cat"]), model.encode_texts(["the cat is in blue color"]))
    pixels = images().requires_grad_()
    prompt.bind(model).classifier(LABELS)(pixels).sum().backward()
    assert pixels.grad is not None and bool((pixels.grad[..., 0] != 0).any())
    marked = np.asarray(Annotation.parse("kind=tint,box=region").shown(example(tmp_path, region="[0, 0, 30, 40]")))
    assert np.all(marked[:, :30] == np.round((np.array([10, 20, 30]) + COLOURS["red"]) / 2)) and np.all(marked[:, 30:] == (10, 20, 30))


def test_no_attack_takes_a_circle_around_the_whole_picture_away(model: MatchingModel) -> None:
    prompt = Annotation.parse("circle")
    pixels = images().requires_grad_()
    seen = prompt.transform(pixels)
    ring = (seen == torch.tensor(RED)[:, None, None] / 255).all(1)
    assert 0.01 < float(ring.float().mean()) < 0.15
    prompt.bind(model).classifier(LABELS)(pixels).sum().backward()
    assert pixels.grad is not None and bool((pixels.grad.abs().sum(1)[ring] == 0).all()) and bool((pixels.grad != 0).any())


def test_pictures_are_read_with_their_marks_and_the_reference_without(tmp_path: Path, tiny_clip: Path) -> None:
    from vlaudit.audit.subjects import check_context
    from vlaudit.audit.targets import Loader
    from vlaudit.config import TargetSpec

    data = tmp_path / "data"
    data.mkdir()
    rows = ["file_name,label,box"]
    for number, label in enumerate(("cat", "dog")):
        Image.new("RGB", (40, 40), (30, 90 * number, 90)).save(data / f"{number}.png")
        rows.append(f'{number}.png,{label},"4,4,36,36"')
    (data / "metadata.csv").write_text("\n".join(rows))
    spec = TargetSpec(model=f"hf:{tiny_clip}", data=str(data), prompt=["annotation:kind=tint,box=box"])
    targets, references = Loader(torch.device("cpu"), allow_network=False).subjects([spec])
    shown, plain = (check_context(subject) for subject in (targets[0], *references.values()))
    marked, bare = shown.images(shown.examples), plain.images(plain.examples)
    assert not torch.allclose(marked[..., 16, 16], bare[..., 16, 16], atol=0.05)
    torch.testing.assert_close(marked[..., 0, 0], bare[..., 0, 0], atol=0.1, rtol=0)
    (data / "metadata.csv").write_text("\n".join(rows).replace("4,4,36,36", "4,4,41,36", 1))
    with pytest.raises(UsageError, match="does not lie within its picture of 40 x 40"):
        Loader(torch.device("cpu"), allow_network=False).subjects([spec])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("square", "unknown"),
        ("kind=circle,colour=mauve", "no colour 'mauve'"),
        ("kind=circle,box=0.5 0.5 0.4 1", "does not lie within"),
        ("kind=circle,box=0 0 1 2", "does not lie within"),
        ("kind=circle,box=0 nan 1 1", "is no box|does not lie within"),
        ("kind=circle,box=0 0 1", "is no box"),
        ("kind=circle,alpha=0.5", "no alpha"),
        ("kind=tint,width=0.5", "no width"),
        ("kind=tint,alpha=2", "alpha=2"),
        ("kind=circle,width=wide", "width=wide"),
        ("kind=circle,template=cat", "exactly one"),
        ("kind=circle,shape=round", "cannot take 'shape'"),
    ],
)
def test_marks_that_cannot_be_are_refused(argument: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Annotation.parse(argument)


@pytest.mark.parametrize(
    ("cell", "said"), [("", "holds none"), ("left", "no box"), ("0,0,61,40", "does not lie within"), ("9,0,9,40", "does not lie"), ("-1,0,9,9", "does not lie")]
)
def test_boxes_outside_the_picture_are_refused_with_its_name(tmp_path: Path, cell: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Annotation.parse("kind=circle,box=box").check_examples([example(tmp_path, box=cell)])
    assert "picture.png" in caught.value.message
    Annotation.parse("kind=circle,box=box").check_examples([example(tmp_path, box="whole")])


def test_prompts_with_one_mark_have_one_name(model: MatchingModel) -> None:
    marks = ["circle", "tint", "kind=tint,colour=blue", "kind=circle,box=0 0 0.5 1", "kind=circle,box=box"]
    assert len({Annotation.parse(mark).id for mark in marks}) == len({Annotation.parse(mark).text for mark in marks}) == len(marks)
    assert Annotation.parse("circle").reference().text == Template().text
