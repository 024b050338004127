"""Which files are the model: those that the library itself reads, whatever else lies beside them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.inspection.conftest import CPU, edit, load
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.errors import ModelError, UnsafeFileError, UsageError
from vlaudit.files import folder_files
from vlaudit.inspection.folder import (
    inspect_adapter,
    inspect_open_clip,
    inspect_pipeline,
    inspect_transformers,
)
from vlaudit.plugins import plugin
from vlaudit.zoo import WEIGHTS

Copy = Callable[[str], Path]


class Harm:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def trained(folder: Path) -> Path:
    """What a trainer leaves beside a checkpoint: pickles of more than tensors, which no loader of models opens."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(state, folder / "rng_state.pth")
    torch.save({"state": {}, "param_groups": [random.Random(0)]}, folder / "optimizer.pt")
    torch.save(Harm(folder / "harm"), folder / "training_args.bin")
    torch.save({"last_epoch": 3}, folder / "scheduler.pt")
    (folder / "trainer_state.json").write_text("{")
    return folder


def sharded(folder: Path, name: str, index: str, save: Callable[[dict[str, torch.Tensor], Path], Any]) -> list[Path]:
    """The weights of a folder in two files with an index, in the place of one."""
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names = sorted(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [folder / name.format(number) for number in (1, 2)]
    for half, file in zip(halves, files, strict=True):
        save({key: tensors[key] for key in half}, file)
    places = {key: file.name for half, file in zip(halves, files, strict=True) for key in half}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    return files


def save_safely(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})


def test_both_layouts_in_one_folder(copy: Copy) -> None:
    """As repositories of the hub that serve two libraries: each backend takes its own library's file."""
    folder, clip = copy("open_clip"), WEIGHTS / "tiny-clean"
    both = folder.parent / "both"
    shutil.copytree(clip, both)
    shutil.copy(folder / "open_clip_model.safetensors", both)
    shutil.copy(clip / "model.safetensors", folder)
    assert load("open_clip", folder).sha256 == sha256(WEIGHTS / "flagship" / "open_clip_model.safetensors")
    assert load("clip", both).sha256 == sha256(clip / "model.safetensors")


def test_open_clip_takes_its_librarys_order_of_names(copy: Copy) -> None:
    folder = copy("open_clip")
    safe = folder / "open_clip_model.safetensors"
    torch.save(load_file(safe), folder / "open_clip_pytorch_model.bin")
    torch.save(Harm(folder / "harm"), folder / "model.pth")
    assert inspect_open_clip(folder)[0].weights == [safe]
    safe.unlink()
    assert load("open_clip", folder).sha256 == sha256(folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UnsafeFileError):
        load("open_clip", folder)
    assert not (folder / "harm").exists()
    (folder / "model.pth").unlink()
    for name in ("epoch_1.pt", "epoch_2.pt"):
        torch.save(load_file(WEIGHTS / "flagship" / safe.name), folder / name)
    with pytest.raises(ModelError, match="several weight files"):
        load("open_clip", folder)
    (folder / "epoch_1.pt").unlink()
    assert load("open_clip", folder).sha256 == sha256(folder / "epoch_2.pt")


@pytest.mark.parametrize("kind", ["clip", "generator"])
def test_a_trainers_checkpoint(kind: str, copy: Copy) -> None:
    folder = trained(copy(kind))
    model = load(kind, folder)
    assert model.sha256 == sha256(folder / "model.safetensors")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert load(kind, folder).sha256 == model.sha256
    (folder / "model.safetensors").unlink()
    assert load(kind, folder).sha256 == sha256(folder / "pytorch_model.bin")
    names = {path.name for path in HuggingFaceBackend().files(str(folder))}
    assert {"rng_state.pth", "optimizer.pt", "training_args.bin"} <= names
    assert not (folder / "harm").exists()


def test_pickles_that_the_loader_reads_are_refused_and_others_are_not(copy: Copy) -> None:
    folder = copy("clip")
    torch.save({"a": Harm(folder / "harm")}, folder / "pytorch_model.bin")
    load("clip", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeFileError):
        load("clip", folder)
    assert not (folder / "harm").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_are_those_that_the_index_names(form: str, copy: Copy) -> None:
    folder = copy("clip")
    if form == "safetensors":
        name, index, save = "model-0000{}-of-00002.safetensors", "model.safetensors.index.json", save_safely
    else:
        name, index, save = "pytorch_model-0000{}-of-00002.bin", "pytorch_model.bin.index.json", torch.save
    files = sharded(folder, name, index, save)
    save({"stray": torch.zeros(1)}, folder / name.format(3))
    inspected = inspect_transformers(folder)
    assert inspected.weights == files
    model = load("clip", folder)
    lines = "".join(sorted(f"{file.name} {sha256(file)}\n" for file in files))
    assert model.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    files[0].unlink()
    with pytest.raises(ModelError, match="cannot be opened"):
        load("clip", folder)


@pytest.mark.parametrize(
    "table",
    [None, [], {}, {"a": 1}, {"a": "../model.safetensors"}, {"a": "/tmp/model.safetensors"}, {"a": "sub/model.safetensors"},
     {"a": ""}, {"a": "..\\model.safetensors"}, {"a": "x" * 300 + ".safetensors"}, {"a": "nul\0.safetensors"}],
)  # fmt: skip
def test_an_index_names_files_beside_it_alone(table: Any, copy: Copy) -> None:
    folder = copy("clip")
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    with pytest.raises(ModelError) as caught:
        load("clip", folder)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


def test_weights_that_the_config_names(copy: Copy) -> None:
    folder = copy("clip")
    (folder / "model.safetensors").rename(folder / "special.safetensors")
    with pytest.raises(ModelError, match="holds no weights"):
        load("clip", folder)
    edit(folder / "config.json", transformers_weights="special.safetensors")
    assert load("clip", folder).sha256 == sha256(folder / "special.safetensors")


def test_a_model_with_an_adapter_in_it_is_not_mixed(copy: Copy) -> None:
    """transformers would apply the adapter without a word."""
    for kind, place in (("clip", "."), ("pipeline", "text_encoder")):
        folder = copy(kind)
        config = {"peft_type": "LORA", "base_model_name_or_path": "a/b"}
        (folder / place / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="a model and an adapter"):
            load(kind, folder)


def test_a_pipelines_variants_and_shards_are_its_librarys_own(copy: Copy) -> None:
    from diffusers import UNet2DConditionModel

    folder = copy("pipeline")
    unet, plain = folder / "unet", load("pipeline", folder).sha256
    model = UNet2DConditionModel.from_pretrained(unet)
    model.half().save_pretrained(unet, variant="fp16")
    (unet / "optimizer.bin").write_bytes(b"not looked at")
    for half, name in ((False, "diffusion_pytorch_model.safetensors"), (True, "diffusion_pytorch_model.fp16.safetensors")):
        part = inspect_pipeline(folder, half)["unet"]
        assert part.folder is not None and [path.name for path in part.folder.weights] == [name]
    assert load("pipeline", folder).sha256 == plain
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    assert inspect_pipeline(folder, False)["unet"].variant == "fp16"
    assert load("pipeline", folder).sha256 != plain
    shutil.rmtree(unet)
    model.float().save_pretrained(unet, max_shard_size="4MB")
    part = inspect_pipeline(folder, False)["unet"]
    assert part.folder is not None and len(part.folder.weights) > 1
    assert {path.name for path in part.folder.weights} == {path.name for path in unet.glob("*.safetensors")}
    load("pipeline", folder)


def test_an_adapters_weights(copy: Copy) -> None:
    folder = trained(copy("adapter"))
    safe = folder / "adapter_model.safetensors"
    torch.save(load_file(safe), folder / "adapter_model.bin")
    assert inspect_adapter(folder).weights == [safe]
    safe.unlink()
    assert inspect_adapter(folder).weights == [folder / "adapter_model.bin"]
    load("adapter", folder)


def test_all_files_are_listed_those_below_too(copy: Copy) -> None:
    folder = trained(copy("clip"))
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "evil.pkl").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_bytes(b"")
    names = {path.relative_to(folder).as_posix() for path in folder_files(folder)}
    assert {"model.safetensors", "rng_state.pth", "deep/deeper/evil.pkl"} <= names
    assert not any(name.startswith(".git") for name in names)


def test_a_file_is_no_folder_and_no_name_on_the_hub(copy: Copy, monkeypatch: pytest.MonkeyPatch, sockets: list[str]) -> None:
    folder = copy("clip")
    monkeypatch.chdir(folder.parent)
    for argument in ("clip/model.safetensors", str(folder / "model.safetensors"), "./clip/config.json"):
        for kind, given in (("hf", argument), ("diffusers", argument), ("open_clip", f"local-dir:{argument}")):
            backend = plugin("backends", kind)()
            with pytest.raises(UsageError, match="is a file") as caught:
                backend.is_remote(given)
                backend.load(given, CPU)
            assert f"'{Path(argument).parent}'" in caught.value.cure
    assert not sockets


PLACES = [
    ("clip", "config.json"), ("clip", "model.safetensors"), ("clip", "tokenizer.json"), ("clip", "preprocessor_config.json"),
    ("open_clip", "open_clip_config.json"), ("open_clip", "open_clip_model.safetensors"), ("open_clip", "tokenizer_config.json"),
    ("pipeline", "model_index.json"), ("pipeline", "unet/config.json"), ("pipeline", "scheduler/scheduler_config.json"),
    ("pipeline", "vae/diffusion_pytorch_model.safetensors"), ("pipeline", "sampling.json"), ("adapter", "adapter_config.json"),
    ("adapter", "adapter_model.safetensors"), ("generator", "chat_template.jinja"), ("generator", "generation_config.json"),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids="/".join)
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "loop", "empty"])
def test_what_is_no_regular_file_is_not_waited_for(what: str, place: tuple[str, str], copy: Copy) -> None:
    kind, name = place
    folder = copy(kind)
    file = folder / name
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "device":
        file.symlink_to("/dev/zero")
    elif what == "folder":
        file.mkdir()
    elif what == "loop":
        file.symlink_to(file.name)
    elif what == "empty":
        file.touch()
    if name.endswith(".jinja") and what in {"empty", "folder"}:
        return  # an empty template is a template
    with pytest.raises(ModelError) as caught:
        load(kind, folder)
    assert "\n" not in str(caught.value) and caught.value.cure


@pytest.mark.parametrize("place", PLACES, ids="/".join)
def test_links_out_of_the_folder_are_refused(place: tuple[str, str], copy: Copy) -> None:
    kind, name = place
    folder = copy(kind)
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(ModelError, match="link out of its folder"):
        load(kind, folder)


def test_a_linked_part_of_a_pipeline_is_refused(copy: Copy) -> None:
    folder = copy("pipeline")
    shutil.move(folder / "unet", folder.parent / "outside")
    (folder / "unet").symlink_to(folder.parent / "outside")
    with pytest.raises(ModelError, match="link out of its pipeline"):
        load("pipeline", folder)


@pytest.mark.parametrize("kind", ["clip", "open_clip", "pipeline", "generator"])
def test_the_hubs_cache_is_made_of_links(kind: str, copy: Copy) -> None:
    folder = copy(kind)
    home = folder.parent / "models--someone--model"
    snapshot = home / "snapshots" / "abc"
    (home / "blobs").mkdir(parents=True)
    for file in folder_files(folder):
        blob = home / "blobs" / sha256(file)
        shutil.copy(file, blob)
        place = snapshot / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))
    assert load(kind, snapshot).sha256 == load(kind, folder).sha256
    link = next(path for path in folder_files(snapshot) if path.suffix == ".safetensors")
    link.unlink()
    link.symlink_to(next(path for path in folder_files(folder) if path.name == link.name))
    with pytest.raises(ModelError, match="link out of its folder"):
        load(kind, snapshot)


def test_links_within_the_folder_are_fine(copy: Copy) -> None:
    folder = copy("clip")
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    (folder / "model.safetensors").symlink_to("best.safetensors")
    load("clip", folder)


def test_damaged_weights_are_one_sentence(copy: Copy) -> None:
    for kind, name in (("clip", "model.safetensors"), ("open_clip", "open_clip_model.safetensors")):
        folder = copy(kind)
        for content in (b"", b"\xff" * 40, (10**12).to_bytes(8, "little") + b"{}", b"\x80\x04."):
            (folder / name).write_bytes(content)
            with pytest.raises(ModelError, match="safetensors") as caught:
                load(kind, folder)
            assert "\n" not in str(caught.value)


def test_a_refused_folder_is_a_report_that_names_the_reason(
    copy: Copy, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("open_clip")
    edit(folder / "open_clip_config.json", model_cfg__text_cfg__tokenizer_kwargs={"trust_remote_code": True})
    out = tmp_path / "audit"
    rest = ("--data", picture_folder / "test", "--probe", "unsafe-file", "--out", out)
    assert vlaudit("scan", f"open_clip:local-dir:{folder}", *rest) == 4
    report = json.loads((out / "report.json").read_text())
    assert "trust_remote_code" in report["targets"][0]["error"]
    (finding,) = report["findings"]
    assert finding["verdict"] == "vulnerable" and "trust_remote_code" in finding["reason"]
    capsys.readouterr()
    for argument in (f"hf:{folder / 'tokenizer.json'}", "hf:" + "a" * 5000, f"diffusers:{'a/' * 3000}"):
        assert vlaudit("scan", argument, "--data", picture_folder / "test", "--out", tmp_path / "none") == 2
        assert "This is a bug" not in capsys.readouterr().err
