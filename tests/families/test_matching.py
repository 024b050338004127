"""Labels that a model cannot tell apart are refused by name; what it does not read as written is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vlaudit.audit.targets import Loader
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.config import TargetSpec
from vlaudit.errors import ModelError, UsageError, VlauditWarning
from vlaudit.families.matching import MatchingModel, alike, unknown_tokens
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.template import Template
from vlaudit.zoo import WEIGHTS

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def words(tiny_clip: Path) -> MatchingModel:
    """Reads 16 tokens; a word that it does not know is one token."""
    return HuggingFaceBackend().load(str(tiny_clip), torch.device("cpu"))


def pictures(folder: Path, labels: tuple[str, ...]) -> Path:
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(folder / label / "1.png")
    return folder


def load(model: Path, data: Path, prompt: str | None = None, reference: str | None = None) -> Any:
    spec = TargetSpec(model=f"hf:{model}", data=str(data), prompt=[prompt] if prompt else [], reference=reference)
    return Loader(torch.device("cpu"), allow_network=False).subjects([spec])[0][0]


def test_scores_are_scaled_cosines_plus_the_models_bias(tiny_clip: Path) -> None:
    """A SigLIP's bias decides nothing between labels, but a score's sigmoid is the probability of a pair."""
    model = HuggingFaceBackend().load(str(tiny_clip), torch.device("cpu"))
    matcher, images = Template("a {}").bind(model), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.logit_scale, model.logit_bias = 10.0, 0.0
    cosines = matcher.classifier(["cat", "dog"])(images) / 10
    assert cosines.shape == (3, 2) and bool((cosines.abs() <= 1).all())
    torch.testing.assert_close(cosines[1, 1], (matcher.image_features(images)[1] * model.encode_texts(["a dog"])[0]).sum())
    model.logit_scale, model.logit_bias = 2.0, -12.5
    torch.testing.assert_close(matcher.classifier(["cat", "dog"])(images), 2 * cosines - 12.5)


def test_labels_of_one_text_are_refused_by_name(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", ("cook", "pilot", "Cook", "COOK"))
    with pytest.raises(UsageError, match="apart: 'COOK' and 'Cook' and 'cook': its tokenizer makes the same tokens") as caught:
        load(WEIGHTS / "tiny-clean", data)
    assert "rename" in caught.value.cure


def test_two_labels_that_are_all_labels_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'Cook' and 'cook'"):
        load(WEIGHTS / "tiny-clean", pictures(tmp_path / "data", ("cook", "Cook")))


def test_labels_cut_to_one_text_are_refused_with_the_limit(tmp_path: Path, tiny_clip: Path) -> None:
    long = "dog " * 20
    data = pictures(tmp_path / "data", (f"{long}a", f"{long}b", "cat"))
    with pytest.raises(UsageError, match="longer than the 16 tokens"):
        load(tiny_clip, data)


def test_a_label_that_is_cut_and_stays_itself_is_said_and_kept_in_the_report(tmp_path: Path, tiny_clip: Path) -> None:
    data = pictures(tmp_path / "data", ("car", "cat " + "dog " * 16, "dog"))
    with pytest.warns(VlauditWarning, match="reads 16 tokens; the texts of 1 of 3 labels are cut off there: 'cat dog"):
        subject = load(tiny_clip, data)
    assert any("cut off" in note for note in subject.info.data.notes)


def test_unknown_words_are_said(tmp_path: Path, tiny_clip: Path, words: MatchingModel) -> None:
    assert unknown_tokens(words) == {1}
    with pytest.warns(VlauditWarning, match="does not know every part of 1 of 3 labels: 'okapi'"):
        load(tiny_clip, pictures(tmp_path / "data", ("car", "cat", "okapi")))
    with pytest.raises(UsageError, match="'okapi' and 'tapir'"):
        load(tiny_clip, pictures(tmp_path / "two", ("car", "cat", "okapi", "tapir")))


def test_a_reference_that_cannot_tell_the_labels_apart_is_refused(tmp_path: Path, tiny_clip: Path, words: MatchingModel) -> None:
    """Rows of their own tell two labels apart for the target, and not for the plain prompt."""
    labels = ("okapi", "tapir")
    ctx = torch.randn(2, 2, words.embedding_width, generator=torch.Generator().manual_seed(0))
    CoOp(ctx, labels=labels).save(tmp_path / "own.safetensors")
    with pytest.raises(UsageError, match=r"Under the prompt 'a photo of a \{\}'"):
        load(tiny_clip, pictures(tmp_path / "data", labels), f"coop:{tmp_path / 'own.safetensors'}")


def test_a_tower_that_ignores_its_text_is_the_models_fault(
    tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlaudit.backends.transformers_matching import TransformersModel

    same = torch.nn.functional.normalize(torch.ones(1, 16), dim=-1)
    monkeypatch.setattr(TransformersModel, "encode_tokens", lambda self, sequences, soft=None: same.repeat(len(sequences), 1))
    subject = load(tiny_clip, pictures(tmp_path / "data", ("car", "cat", "dog")))
    assert isinstance(subject.error, ModelError) and "same score" in str(subject.error)


def test_rows_of_one_direction_are_found_wherever_they_stand() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(1500, 8, generator=generator), dim=-1)
    rows[1400], rows[3] = rows[7], rows[7]
    rows[1100] = torch.nn.functional.normalize(rows[20] + 2e-3 * torch.randn(8, generator=generator), dim=-1)
    rows[1300] = rows[20]
    assert alike(rows) == [[3, 7, 1400], [20, 1300]]
    assert alike(torch.full((3, 4), float("nan"))) == []


def test_the_command_ends_with_two_and_names_them(
    tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    data, labels = pictures(tmp_path / "data", ("cook", "pilot")), tmp_path / "labels.txt"
    labels.write_text("cook\nCook\npilot\n")
    model, out = f"hf:{WEIGHTS / 'tiny-clean'}", tmp_path / "out"
    assert vlaudit("scan", model, "--data", data, "--labels", labels, "--probe", "unsafe-file", "--out", out) == 2
    assert "'cook' and 'Cook'" in capsys.readouterr().err
    labels.write_text("cook\npilot\nnurse\n")
    with pytest.warns(VlauditWarning, match="1 of 3 labels have no picture: 'nurse'"):
        assert vlaudit("scan", model, "--data", data, "--labels", labels, "--probe", "unsafe-file", "--out", out) == 0
    assert "have no picture" in " ".join(capsys.readouterr().out.split())
    (target,) = json.loads((out / "report.json").read_text())["targets"]
    assert target["data"]["notes"] == ["1 of 3 labels have no picture: 'nurse'."]
