"""Matchers that fuse picture and text: their scores are the checkpoint's own, and what they cannot do is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import fusing
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.backends.transformers_fusing import BlipMatching
from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.families.base import plain_prompt
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.template import Ensemble, Template
from vlaudit.records import Cost, Family, Needs
from vlaudit.zoo import folder as zoo

CPU = torch.device("cpu")
SCORED = [
    ("blip", "contrastive"), ("blip", "matching"), ("blip-2", "contrastive"), ("blip-2", "matching"), ("flava", "contrastive"),
    ("flava", "matching"), ("bridgetower", "matching"), ("bridgetower-contrastive", "contrastive"),
]  # fmt: skip
HEADS = [(kind, score) for kind, score in SCORED if score == "matching"]
LABELS = ["cat", "dog", "red car"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: fusing.save(kind, tmp_path_factory.mktemp(kind)) for kind in fusing.KINDS}


def load(folder: Path, score: str = "") -> Any:
    return HuggingFaceBackend().load(f"{folder}#{score}" if score else str(folder), CPU)


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(1)
    return [Image.fromarray(draw.integers(0, 255, (41 + 9 * n, 53, 3)).astype(np.uint8)) for n in range(2)]


def official(folder: Path, kind: str, score: str, picture: Image.Image, text: str) -> float:
    """The score of a pair, by the checkpoint's own class, processor and tokenizer."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    own = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0]).from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt")["pixel_values"]
    coded = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    inputs = {"pixel_values": pixels, "input_ids": coded["input_ids"], "attention_mask": coded["attention_mask"]}
    with torch.no_grad():
        if kind == "blip":
            out = own(**inputs, use_itm_head=score == "matching").itm_score
        elif kind == "blip-2":
            out = own(**inputs, use_image_text_matching_head=score == "matching").logits_per_image
        elif kind == "flava":
            found = own(**inputs, input_ids_masked=inputs["input_ids"], return_loss=False)
            out = found.itm_logits if score == "matching" else found.contrastive_logits_per_image
        else:
            found = own(**inputs)
            out = found.logits if score == "matching" else own.logit_scale.exp() * found.image_embeds @ found.text_embeds.T
    return float(out[0, 1] - out[0, 0]) if score == "matching" else float(out[0, 0])


@pytest.mark.parametrize(("kind", "score"), SCORED)
def test_scores_are_the_checkpoints_own(folders: dict[str, Path], kind: str, score: str) -> None:
    model = load(folders[kind], score)
    images = torch.stack([model.preprocess(picture) for picture in pictures()])
    found = Template("a photo of a {}").bind(model).classifier(LABELS)(images)
    expected = [[official(folders[kind], kind, score, picture, f"a photo of a {label}") for label in LABELS] for picture in pictures()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-3)
    assert float(found.std(dim=1).min()) > 1e-4


@pytest.mark.parametrize(("kind", "score"), SCORED)
def test_gradients_reach_the_pixels_and_are_right(folders: dict[str, Path], kind: str, score: str) -> None:
    model = load(folders[kind], score)
    assert Needs.PIXEL_GRADIENTS in model.capabilities
    assert (Needs.FEATURES in model.capabilities) == (score == "contrastive" and kind != "blip-2")
    classify = Template("a photo of a {}").bind(model).classifier(LABELS)
    images = torch.rand(2, 3, model.resolution, model.resolution, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    images.requires_grad_()
    (slope,) = torch.autograd.grad((classify(images) * torch.tensor([1.0, -1.0, 0.5])).sum(), images)
    step, direction = 1e-3, slope / slope.norm()
    with torch.no_grad():
        up, down = ((classify(images + sign * step * direction) * torch.tensor([1.0, -1.0, 0.5])).sum() for sign in (1, -1))
    assert float((up - down) / (2 * step)) == pytest.approx(float(slope.norm()), rel=0.05)


@pytest.mark.parametrize(("kind", "score"), HEADS)
def test_batches_parts_and_ensembles_of_pairs(folders: dict[str, Path], kind: str, score: str) -> None:
    model = load(folders[kind], score)
    images = torch.rand(5, 3, model.resolution, model.resolution)
    target = Template("a photo of a {}").bind(model)
    whole = target.classifier(LABELS)(images)
    torch.testing.assert_close(target.classifier(["dog"])(images[2:3]), whole[2:3, 1:2], atol=1e-4, rtol=1e-3)
    model.cut.most = 2
    torch.testing.assert_close(target.classifier(LABELS)(images), whole, atol=1e-4, rtol=1e-3)
    model.cut.most = None
    both = Ensemble(["a photo of a {}", "the {}"]).bind(model).classifier(LABELS)(images)
    torch.testing.assert_close(both, (whole + Template("the {}").bind(model).classifier(LABELS)(images)) / 2, atol=1e-4, rtol=1e-3)


def test_passes_of_pairs_are_counted_and_planned(folders: dict[str, Path]) -> None:
    target = Template("a {}").bind(load(folders["blip"], "matching"))
    target.classifier(LABELS)(torch.rand(4, 3, 24, 24))
    assert target.meter.cost() == Cost(queries=4 + 12, texts=12) == target.whole(Cost(queries=4), 3)
    target.meter.__init__()  # type: ignore[misc]
    target.classifier(LABELS)(torch.rand(2, 3, 24, 24).requires_grad_())
    assert target.meter.cost() == Cost(queries=2 + 6, gradient_steps=2 + 6, texts=6, text_steps=6)
    assert target.whole(Cost(queries=2, gradient_steps=2), 3) == target.meter.cost()
    queries = Template("a {}").bind(load(folders["blip-2"]))
    queries.classifier(LABELS)(torch.rand(4, 3, 24, 24))
    assert queries.meter.cost() == Cost(queries=4 + 3, texts=3) and queries.whole(Cost(queries=4), 3) == Cost(queries=4)


def test_what_pairs_lack_is_said(folders: dict[str, Path]) -> None:
    model = load(folders["blip"], "matching")
    target = plain_prompt(Family.MATCHING).bind(model)
    for call in (lambda: target.text_features(["cat"]), lambda: target.image_features(torch.rand(1, 3, 24, 24)),
                 lambda: model.encode_texts(["cat"])):  # fmt: skip
        with pytest.raises(CapabilityError, match="scores pairs of picture and text"):
            call()
    with pytest.raises(UsageError, match="makes features of labels"):
        CoOp(torch.zeros(2, 32)).bind(model)
    assert CoOp(torch.zeros(2, 32)).bind(load(folders["blip"])).text_features(["cat"]).shape == (1, 16)  # the contrastive score takes it
    with pytest.raises(UsageError, match="same tokens"):
        target.check_labels(["cat", "cat", "dog"])


def test_a_score_that_is_not_there_is_refused(folders: dict[str, Path], tiny_clip: Path, tmp_path: Path) -> None:
    from tests import generators

    for folder, score, said in ((folders["bridgetower"], "contrastive", "has no contrastive score: it has matching"),
                                (tiny_clip, "matching", "whose cosine it is"),
                                (generators.save("blip-vqa", tmp_path), "matching", "image-text-to-text generation")):  # fmt: skip
        with pytest.raises(ModelError, match=said):
            load(folder, score)


def test_parts_that_do_not_make_the_checkpoints_score_are_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BlipMatching._together
    monkeypatch.setattr(BlipMatching, "_together", lambda self, seen, inputs: plain(self, seen, inputs) + 1)
    with pytest.raises(ModelError, match="not what its own forward pass makes"):
        load(folders["blip"], "matching")


def test_a_head_without_gradients_lacks_them(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BlipMatching._pictured
    monkeypatch.setattr(BlipMatching, "_pictured", lambda self, inputs: plain(self, inputs).detach() + 0 * inputs["pixel_values"].sum())
    assert load(folders["blip"], "matching").capabilities == {Needs.SCORES, Needs.FILES}


def test_coca_has_both_scores(tmp_path: Path) -> None:
    """Against its own forward pass: features for the one, the captioner's logits and labels for the other."""
    folder = fusing.coca(tmp_path)
    plain, captioner = (OpenCLIPBackend().load(f"local-dir:{folder}{score}", CPU) for score in ("", "#matching"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    texts = ["a photo of a cat", "the red dog"]
    ids = plain._ids([plain.tokenize(text) for text in texts])
    contrastive, matching = (Template("{}").bind(model).classifier(texts)(images) for model in (plain, captioner))
    for row in range(2):
        with torch.no_grad():
            own = plain._model(images[row : row + 1].expand(2, -1, -1, -1) * 2 - 1, ids)
        torch.testing.assert_close(contrastive[row], own["logit_scale"] * (own["image_features"] * own["text_features"]).sum(1))
        losses = torch.nn.functional.cross_entropy(own["logits"].transpose(1, 2), own["labels"], ignore_index=0, reduction="none").sum(1)
        torch.testing.assert_close(matching[row], -losses, atol=1e-4, rtol=1e-4)
    (slope,) = torch.autograd.grad(matching[:, 0].sum(), images)
    assert float(slope.abs().amax(dim=(1, 2, 3)).min()) > 0
    assert Needs.FEATURES not in captioner.capabilities and Needs.FEATURES in plain.capabilities
    with pytest.raises(ModelError, match="only CoCa has one"):
        OpenCLIPBackend().load(f"local-dir:{zoo('flagship')}#matching", CPU)
