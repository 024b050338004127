"""Prompts: contexts stand where words would, files round-trip, and what does not fit is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_matching import TransformersModel
from vlaudit.errors import UnsafeFileError, UsageError
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.files import PromptFile, write_prompt_file
from vlaudit.prompts.specs import parse_prompt
from vlaudit.prompts.template import Ensemble, Template
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.records import Family

LABELS = ["car", "cat", "dog"]


@pytest.fixture(scope="session")
def model(tiny_clip: Path) -> TransformersModel:
    return HuggingFaceBackend().load(str(tiny_clip), torch.device("cpu"))


@pytest.mark.parametrize(
    "position, text", [("end", "a photo of a {}"), ("front", "{} a photo of a"), ("middle", "a photo {} of a")]
)
def test_context_made_of_words_equals_the_template(model: TransformersModel, position: str, text: str) -> None:
    ids = model.tokenize("a photo of a")
    words = model.token_embeddings(ids.ids[1:-1])
    soft = CoOp(words, position=position).label_features(model, LABELS)
    torch.testing.assert_close(soft, Template(text).label_features(model, LABELS))


def test_class_specific_rows_go_with_their_labels(model: TransformersModel) -> None:
    ctx = torch.randn(3, 4, model.embedding_width, generator=torch.Generator().manual_seed(0))
    prompt = CoOp(ctx, labels=LABELS)
    whole = prompt.label_features(model, LABELS)
    torch.testing.assert_close(prompt.label_features(model, ["dog", "car"]), whole[[2, 0]])
    torch.testing.assert_close(CoOp(ctx[1]).label_features(model, ["cat"])[0], whole[1])
    with pytest.raises(UsageError, match="rows"):
        prompt.label_features(model, ["bird"])


def test_fit_learns_and_repeats(model: TransformersModel) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(30) % 3
    centres = torch.nn.functional.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    features = torch.nn.functional.normalize(centres[targets] + 0.1 * torch.randn(30, 16, generator=generator), dim=-1)
    losses: list[float] = []
    first = CoOp.fit(
        model, features, targets, LABELS, steps=60, class_specific=True, progress=lambda _, loss: losses.append(loss)
    )
    again = CoOp.fit(model, features, targets, LABELS, steps=60, class_specific=True)
    assert torch.equal(first.ctx, again.ctx) and losses[-1] < 0.8 * losses[0]


def test_visual_prompt_changes_its_frame_only_and_is_differentiable(model: TransformersModel) -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prompt = VisualPrompt.fit(model, images, torch.arange(6) % 3, LABELS, border=3, steps=5)
    changed = prompt.transform(images) - images
    assert (
        torch.equal(changed[..., 3:-3, 3:-3], torch.zeros_like(changed[..., 3:-3, 3:-3]))
        and float(changed.abs().max()) > 0
    )
    pixels = images.requires_grad_()
    prompt.bind(model).classifier(LABELS)(pixels).sum().backward()
    assert pixels.grad is not None and float(pixels.grad[..., 10:20, 10:20].abs().max()) > 0


@pytest.mark.parametrize("kind", ["coop", "coop-rows", "vp"])
def test_files_round_trip(model: TransformersModel, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.safetensors"
    if kind == "vp":
        saved: CoOp | VisualPrompt = VisualPrompt(
            torch.rand(3, 32, 32), torch.ones(32, 32), base_model=model.sha256, members=["ab"]
        )
    else:
        shape = (3, 4, 32) if kind == "coop-rows" else (4, 32)
        saved = CoOp(
            torch.randn(shape),
            position="middle",
            labels=LABELS if kind == "coop-rows" else None,
            base_model=model.sha256,
        )
    saved.save(path)
    loaded = parse_prompt(f"{saved.method}:{path}", Family.MATCHING)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(
        loaded.bind(model).classifier(LABELS)(image), saved.bind(model).classifier(LABELS)(image)
    )  # type: ignore[attr-defined]
    assert loaded.members == saved.members and loaded.info().sha256  # type: ignore[attr-defined]


def test_coop_checkpoints_of_the_official_code_are_read(model: TransformersModel, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-50"
    ctx = torch.randn(4, 32)
    buffers = {"token_prefix": torch.zeros(3, 1, 32), "token_suffix": torch.zeros(3, 72, 32)}
    torch.save({"state_dict": {"ctx": ctx, **buffers}, "epoch": 50, "optimizer": None}, path)
    loaded = CoOp.parse(str(path))
    assert torch.equal(loaded.ctx, ctx)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_prompt_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"ctx": Payload()}}, path)
    with pytest.raises(UnsafeFileError):
        CoOp.parse(str(path))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        (PromptFile("coop", {"ctx": torch.randn(4, 48)}), "48 wide"),
        (PromptFile("coop", {"ctx": torch.randn(4, 32)}, base_model="0" * 64), "another model"),
        (PromptFile("coop", {"ctx": torch.randn(40, 32)}), "at most"),
        (PromptFile("coop", {"ctx": torch.randn(32)}), "dimensions"),
        (PromptFile("coop", {"ctx": torch.full((4, 32), float("nan"))}), "not finite"),
        (PromptFile("coop", {"context": torch.randn(4, 32)}), "lacks the tensor"),
        (PromptFile("coop", {"ctx": torch.randn(4, 32)}, class_token_position="left"), "unknown"),
        (PromptFile("coop", {"ctx": torch.randn(4, 32), "meta": torch.ones(2)}), "more than ctx: meta"),
        (
            PromptFile("vp", {"pattern": torch.rand(3, 32, 32), "mask": torch.ones(32, 32), "text": torch.ones(2)}),
            "more than pattern, mask: text",
        ),
        (PromptFile("vp", {"pattern": torch.rand(3, 16, 16), "mask": torch.ones(16, 16)}), "sees"),
        (PromptFile("vp", {"pattern": torch.rand(3, 32, 32), "mask": torch.ones(16, 16)}), "same height"),
    ],
)
def test_prompts_that_do_not_fit(model: TransformersModel, tmp_path: Path, content: PromptFile, message: str) -> None:
    path = tmp_path / "p.safetensors"
    write_prompt_file(path, content)
    with pytest.raises(UsageError, match=message):
        parse_prompt(f"{content.method}:{path}", Family.MATCHING).bind(model)


def test_specs() -> None:
    assert isinstance(parse_prompt("a photo: {}", Family.MATCHING), Template)
    for bad, message in [
        ("a photo of a", "not a prompt"),
        ("coup:x", "Did you mean 'coop'"),
        ("{} and {}", "exactly one"),
        ("coop:/no/file", "does not exist"),
    ]:
        with pytest.raises(UsageError, match=message):
            parse_prompt(bad, Family.MATCHING)


def test_ensemble_averages_unit_features(model: TransformersModel, tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("# two ways\na photo of a {}\n\nthe {}\n")
    prompt = Ensemble.parse(str(path))
    parts = [Template(t).label_features(model, LABELS) for t in ("a photo of a {}", "the {}")]
    torch.testing.assert_close(
        prompt.label_features(model, LABELS), torch.nn.functional.normalize(parts[0] + parts[1], dim=-1)
    )
