"""The text-to-image contract: conditionings, what a target says of itself, and how it refuses to speak nonsense."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests import tiny_pipelines
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.cli import _format_warning
from vlaudit.errors import ModelError, VlauditWarning
from vlaudit.families.text_to_image import Conditioning
from vlaudit.probe import Needs
from vlaudit.prompts.design import Design
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Cost, Family

CAPTIONS = SimpleNamespace(captions=("a cat", "a dog", "the red bird"))


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return DiffusersBackend().load(str(tiny_pipelines.stable_diffusion(tmp_path)), torch.device("cpu"))


def test_conditionings_are_picked_joined_and_repeated(model: Any) -> None:
    both = Design().bind(model).encode(["a cat", "a dog"])
    swapped = both.rows([1, 0])
    assert len(both) == 2 and not both.requires_grad
    assert torch.equal(swapped.tensors["prompt_embeds"], both.tensors["prompt_embeds"].flip(0))
    joined = Conditioning.cat([both.rows([0]), both.rows([1])])
    assert torch.equal(joined.tensors["prompt_embeds"], both.tensors["prompt_embeds"])
    assert len(both.rows([1]).repeat(3)) == 3


def test_pictures_are_resized_by_the_short_side_and_cropped(model: Any) -> None:
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (0, 0, 16, 32))
    pixels = model.preprocess(picture)
    assert pixels.shape == (3, 16, 16) and pixels.min() >= 0 and pixels.max() <= 1
    assert pixels[0].min() > 0.8  # the blue quarter was cropped away, but for what the resize smears


def test_captions_that_are_cut_or_one_text_are_said(model: Any) -> None:
    long = "a red cat " * 40
    same = SimpleNamespace(captions=("a cat", "a  cat", "a dog", f"{long}one", f"{long}two"))
    target = Design().bind(model)
    with pytest.warns(VlauditWarning):
        target.check(same)  # type: ignore[arg-type]
    cut, one = target.remarks
    assert f"reads {model.context_length} tokens; the texts of 2 of 5 captions are cut off there" in cut
    assert "'a cat' and 'a  cat'; 'a red cat" in one and "'a dog'" not in one
    target.check(CAPTIONS)  # type: ignore[arg-type]
    assert target.remarks == []


def test_a_sound_target_passes_its_own_check_and_times_itself(model: Any) -> None:
    target = Design("a photo of {}").bind(model)
    target.check(CAPTIONS)  # type: ignore[arg-type]
    speed = target.calibrate(CAPTIONS)  # type: ignore[arg-type]
    assert 0 < speed.forward < speed.backward and speed.text > 0
    mixed = Cost(queries=10, gradient_steps=2, texts=5)
    assert speed.seconds(mixed) == pytest.approx(3 * speed.forward + 2 * speed.backward + 5 * speed.text)
    assert Needs.PERSONAL_TOKEN not in target.capabilities and Needs.LEARNED_PROMPT not in target.capabilities
    assert (
        Needs.PERSONAL_TOKEN in parse_prompt("lora:token=monet,noun=dog", Family.TEXT_TO_IMAGE).bind(model).capabilities
    )


def _nan(model: Any) -> None:
    model.denoiser.conv_out.bias.data.fill_(float("nan"))


def _deaf(model: Any) -> None:
    table = model.text_encoder.get_input_embeddings().weight.data
    table.copy_(table[:1].expand_as(table))


@pytest.mark.parametrize(("damage", "said"), [(_nan, "NaN"), (_deaf, "same text")])
def test_targets_whose_words_mean_nothing_are_refused(model: Any, damage: Callable[[Any], None], said: str) -> None:
    damage(model)
    with pytest.raises(ModelError, match=said):
        Design().bind(model).check(CAPTIONS)  # type: ignore[arg-type]


def test_as_many_seeds_as_captions(model: Any) -> None:
    with pytest.raises(ValueError, match="seeds"):
        Design().bind(model).generate(["a cat", "a dog"], [1])


def test_the_command_line_shows_warnings_as_sentences() -> None:
    assert _format_warning("cut off", VlauditWarning, "file.py", 3) == "Warning: cut off\n"
    assert "file.py" in _format_warning("theirs", UserWarning, "file.py", 3)
    assert warnings.formatwarning is not _format_warning  # only the command line changes it
