"""Folders that peft wrote as models: the adapter merged into the base that it names, or a clear refusal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_reader import noise
from vlaudit.errors import ModelError, UnsafeFileError, UsageError
from vlaudit.families.generation import Conversation, Turn
from vlaudit.families.matching import MatchingModel
from vlaudit.records import Family

CPU = torch.device("cpu")


def adapt(model: torch.nn.Module, folder: Path, base: str, targets: list[str]) -> torch.nn.Module:
    """An adapter with random weights that matter, saved to ``folder``; the adapted model, not merged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(str(folder))
    return adapted.eval()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.nn.Module]:
    """A base folder, an adapter folder that names it as a neighbour, and the adapted model as peft runs it."""
    from transformers import AutoModelForImageTextToText

    home = tmp_path_factory.mktemp("adapted")
    base = generators.save("llava", home / "base")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="float32")
    adapted = adapt(model, home / "adapter", "../base", ["q_proj", "v_proj", "up_proj"])
    return base, home / "adapter", adapted


@pytest.fixture
def adapter(pair: tuple[Path, Path, torch.nn.Module], tmp_path: Path) -> Path:
    """A copy of the adapter to be damaged, its base named by its whole path."""
    base, folder, _ = pair
    copy = shutil.copytree(folder, tmp_path / "copy")
    rewrite(copy, base_model_name_or_path=str(base))
    return copy


def rewrite(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_adapted_model_is_what_peft_runs(pair: tuple[Path, Path, torch.nn.Module]) -> None:
    base, folder, adapted = pair
    backend = HuggingFaceBackend()
    assert not backend.is_remote(str(folder))
    assert backend.family(str(folder)) is Family.GENERATION
    model, plain = backend.load(str(folder), CPU), backend.load(str(base), CPU)
    assert isinstance(model, TransformersGenerator)
    assert isinstance(plain, TransformersGenerator)
    talk = Conversation((Turn("user", (model.preprocess(noise(40, 30)), "what is this ?")),))
    ours, before = (each.token_log_probs([talk], ["a cat"])[0] for each in (model, plain))
    ids = torch.tensor([[*model.tokens(talk), *model.tokenize("a cat")]])
    with torch.no_grad():
        pictures = model._reader.pictures(talk.turns, CPU)
        theirs = adapted(input_ids=ids, **pictures).logits[0, -3:-1].log_softmax(-1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 0.1
    assert model.sha256 != plain.sha256
    names = [path.name for path in backend.files(str(folder))]
    assert {"model.safetensors", "adapter_model.safetensors"} <= set(names)
    assert [path.name for path in model.files] == names


def test_matching_models_can_be_adapted_too(tiny_clip: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    adapt(AutoModel.from_pretrained(tiny_clip), tmp_path / "adapter", str(tiny_clip), ["q_proj"])
    backend = HuggingFaceBackend()
    model, plain = (backend.load(str(folder), CPU) for folder in (tmp_path / "adapter", tiny_clip))
    assert isinstance(model, MatchingModel)
    assert isinstance(plain, MatchingModel)
    images = torch.rand(2, 3, model.resolution, model.resolution)
    with torch.no_grad():
        assert (model.encode_images(images) - plain.encode_images(images)).abs().max() > 1e-3


def test_a_base_on_the_hub_is_remote(adapter: Path) -> None:
    rewrite(adapter, base_model_name_or_path="someone/something")
    assert HuggingFaceBackend().is_remote(str(adapter))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_a_learned_prompt_is_no_model(kind: str, adapter: Path) -> None:
    rewrite(adapter, peft_type=kind)
    with pytest.raises(UsageError, match="learned prompt") as caught:
        HuggingFaceBackend().family(str(adapter))
    assert f"--prompt {kind.lower().replace('_', '-')}:{adapter}" in str(caught.value.cure)


@pytest.mark.parametrize("base", [None, ""])
def test_an_adapter_without_its_base(base: str | None, adapter: Path) -> None:
    rewrite(adapter, base_model_name_or_path=base)
    with pytest.raises(ModelError, match="does not say which model"):
        HuggingFaceBackend().family(str(adapter))


@pytest.mark.parametrize("damage", ["lacking", "left over", "shape", "layers", "kind", "import", "weights", "json"])
def test_what_does_not_fit_is_refused(damage: str, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    if damage == "lacking":
        save_file({name: tensors[name] for name in sorted(tensors)[1:]}, path)
    elif damage == "left over":
        save_file({**tensors, first.replace("layers.0", "layers.9"): tensors[first].clone()}, path)
    elif damage == "shape":
        save_file({**tensors, first: torch.zeros(2, 7)}, path)
    elif damage == "layers":
        rewrite(adapter, target_modules=["no_such_layer"])
    elif damage == "kind":
        rewrite(adapter, peft_type="NEWEST_TUNING")
    elif damage == "import":
        rewrite(adapter, megatron_config={"a": 1}, megatron_core="antigravity")
    elif damage == "weights":
        path.unlink()
    elif damage == "json":
        (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(ModelError) as caught:
        HuggingFaceBackend().load(str(adapter), CPU)
    assert str(adapter) in str(caught.value)
    assert caught.value.cure


def test_pickled_code_in_an_adapter_is_not_run(adapter: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weights": Harm()}, adapter / "adapter_model.bin")
    with pytest.raises(UnsafeFileError):
        HuggingFaceBackend().load(str(adapter), CPU)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("named", ["whole", "beside", "current", "link"])
def test_adapter_and_base_may_be_named_by_different_kinds_of_paths(
    pair: tuple[Path, Path, torch.nn.Module], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder, _ = pair
    (tmp_path / "runs").mkdir()
    shutil.copytree(folder, tmp_path / "runs" / "adapter")
    (tmp_path / "base").symlink_to(base)
    says = {"whole": str(base), "beside": "../../base", "current": "base", "link": "../adapter/../../base"}[named]
    rewrite(tmp_path / "runs" / "adapter", base_model_name_or_path=says)
    monkeypatch.chdir(tmp_path)
    backend, found = HuggingFaceBackend(), set()
    for spec in ("runs/adapter", "./runs/../runs/adapter/", str(tmp_path / "runs" / "adapter")):
        assert not backend.is_remote(spec) and backend.files(spec)
        found.add(backend.load(spec, CPU).sha256)
    assert len(found) == 1
