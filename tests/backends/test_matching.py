"""Backends: our preprocessing and features equal the checkpoint's own code, and files that would run code stay closed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import LABELS, word_tokenizer
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.errors import ModelError, UnsafeFileError, UsageError
from vlaudit.families.matching import SoftTokens
from vlaudit.files import file_sha256
from vlaudit.prompts.template import Template
from vlaudit.zoo import folder as zoo

CPU = torch.device("cpu")
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = [*["a", "photo", "of", "picture", "the"], *LABELS]


def picture(width: int = 53, height: int = 41) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3)).astype(np.uint8))


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    size = word_tokenizer(WORDS, folder)
    text = {
        **TOWER,
        "vocab_size": size,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "eos_token_id": 3,
        "bos_token_id": 2,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": 32, "patch_size": 8}))
    model.logit_scale.data.fill_(2.0)
    model.logit_bias.data.fill_(-12.5)  # as a trained one has: see Zhai et al. 2023
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_naflex(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    size = word_tokenizer(WORDS, folder)
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**TOWER, "patch_size": 8, "num_patches": 16}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=30).save_pretrained(folder)  # 5 x 5 of them fit, and padding is left


def save_dual(folder: Path) -> None:
    from transformers import (
        BertConfig,
        CLIPImageProcessor,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )

    size = word_tokenizer(WORDS, folder)
    text = BertConfig(**TOWER, vocab_size=size, max_position_embeddings=16)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**TOWER, image_size=32, patch_size=8), text, projection_dim=16
    )
    VisionTextDualEncoderModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def save_align(folder: Path) -> None:
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessor

    size = word_tokenizer(WORDS, folder)
    vision = {
        "image_size": 32, "hidden_dim": 32, "kernel_sizes": [3], "in_channels": [32], "out_channels": [16], "strides": [1],
        "depthwise_padding": [], "num_block_repeats": [1], "expand_ratios": [1], "num_hidden_layers": 2, "width_coefficient": 1.0,
        "depth_coefficient": 1.0, "depth_divisor": 8,
    }  # fmt: skip
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 16}
    AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    EfficientNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.mark.parametrize("save", [save_siglip, save_dual, save_align])
def test_transformers_kinds_agree_with_their_own_forward(save: Callable[[Path], None], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    save(tmp_path)
    model = HuggingFaceBackend().load(str(tmp_path), CPU)
    own = AutoModel.from_pretrained(tmp_path).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a photo of a cat", "the dog"]
    padding = {"padding": "max_length", "max_length": 16} if save is save_siglip else {"padding": True}
    coded = dict(tokenizer(texts, return_tensors="pt", **padding))
    coded.pop("token_type_ids", None)
    if save is save_siglip:
        coded.pop("attention_mask", None)
    with torch.no_grad():
        expected = own(**coded, pixel_values=processor(picture(), return_tensors="pt")["pixel_values"]).logits_per_image
        found = Template("{}").bind(model).classifier(texts)(model.preprocess(picture())[None])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_naflex_agrees_with_its_own_forward_on_square_pictures(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    save_naflex(tmp_path)
    model = HuggingFaceBackend().load(str(tmp_path), CPU)
    assert model.resolution == 40 and "made square, 40 pixels a side" in model.remarks[0]
    own = AutoModel.from_pretrained(tmp_path).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a photo of a cat", "the dog"]
    coded = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=16)["input_ids"]
    with torch.no_grad():
        seen = processor([picture(40, 40), picture(40, 40).rotate(90)], return_tensors="pt")
        expected = own(input_ids=coded, **seen).logits_per_image
    images = torch.stack([model.preprocess(p) for p in (picture(40, 40), picture(40, 40).rotate(90))]).requires_grad_()
    found = Template("{}").bind(model).classifier(texts)(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(found[:, 0].sum(), images)
    assert torch.isfinite(gradient).all() and (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert model.preprocess(picture()).shape == (3, 40, 40)
    sequence = model.tokenize(texts[0])  # is padded on the left: soft tokens move with it
    soft = SoftTokens(model.token_embeddings(sequence.ids[1:3]), [[1, 2]])
    torch.testing.assert_close(model.encode_tokens([sequence], soft), model.encode_tokens([sequence]))


def test_naflex_whose_processor_cuts_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Siglip2ImageProcessor

    save_naflex(tmp_path)
    own = Siglip2ImageProcessor._preprocess

    def flipped(self: Any, images: list[Any], **options: Any) -> Any:
        return own(self, [image.flip(-1) for image in images], **options)

    monkeypatch.setattr(Siglip2ImageProcessor, "_preprocess", flipped)
    with pytest.raises(ModelError, match="does not cut pictures into patches"):
        HuggingFaceBackend().load(str(tmp_path), CPU)


@pytest.fixture
def laion(tmp_path: Path, tiny_clip: Path) -> Path:
    """A folder as laion's on the hub: one model in both libraries' layouts, as safetensors and as pickles."""
    from safetensors.torch import load_file

    folder = tmp_path / "laion"
    shutil.copytree(zoo("flagship"), folder)
    for file in tiny_clip.iterdir():
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_in_both_layouts_loads_in_each(laion: Path, pickled: bool) -> None:
    if pickled:
        (laion / "model.safetensors").unlink()
        (laion / "open_clip_model.safetensors").unlink()
    for backend, argument, file in (
        (HuggingFaceBackend(), str(laion), "pytorch_model.bin" if pickled else "model.safetensors"),
        (OpenCLIPBackend(), f"local-dir:{laion}", "open_clip_pytorch_model.bin" if pickled else "open_clip_model.safetensors"),
    ):
        assert backend.load(argument, CPU).sha256 == file_sha256(laion / file)


def test_a_folder_in_one_layout_says_which_to_write(laion: Path) -> None:
    for file in (*laion.glob("*.bin"), laion / "open_clip_model.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=f"laid out for transformers. Write hf:{laion}"):
        OpenCLIPBackend().load(f"local-dir:{laion}", CPU)
    shutil.copy(zoo("flagship") / "open_clip_model.safetensors", laion)
    (laion / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"They are open_clip's: write open_clip:local-dir:{laion}"):
        HuggingFaceBackend().load(str(laion), CPU)


def test_clip_without_its_image_processor_still_loads(tiny_clip: Path) -> None:
    model = HuggingFaceBackend().load(str(tiny_clip), CPU)
    image = model.preprocess(picture())
    assert image.shape == (3, 32, 32) and float(image.min()) >= 0 and float(image.max()) <= 1
    assert torch.allclose(model.encode_images(image[None]).norm(dim=-1), torch.ones(1))


@pytest.fixture(scope="module", params=[{}, {"init_logit_bias": -10.0}, {"init_logit_bias": -10.0, "custom_text": True}],
                ids=["clip", "siglip", "siglip, custom text"])  # fmt: skip
def open_clip_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open-clip")
    size = word_tokenizer(WORDS, folder)
    config = {
        "embed_dim": 16, **request.param,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": size, "width": 32, "heads": 2, "layers": 2, "hf_tokenizer_name": "own",
                     "pool_type": "eos", "eos_id": 3, "tokenizer_kwargs": {}},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def test_open_clip_agrees_with_its_own_code(open_clip_folder: Path) -> None:
    import open_clip

    model = OpenCLIPBackend().load(f"local-dir:{open_clip_folder}", CPU)
    own, _, transform = open_clip.create_model_and_transforms(f"local-dir:{open_clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")
    own.eval()
    texts = ["a photo of a cat", "the dog", " ".join(["dog"] * 30)]  # the last is longer than the context
    with torch.no_grad():
        expected, _ = own.get_logits(transform(picture())[None], tokenizer(texts))
        found = Template("{}").bind(model).classifier(texts)(model.preprocess(picture())[None])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/vlaudit-was-here",)


@pytest.fixture
def pickled_clip(tiny_clip: Path, tmp_path: Path) -> Path:
    """A CLIP folder whose weights are a pickle that runs a command."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_clip, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": Payload()}))
    return folder


def test_pickle_with_code_is_refused_not_run(pickled_clip: Path) -> None:
    marker = Path("/tmp/vlaudit-was-here")
    marker.unlink(missing_ok=True)
    with pytest.raises(UnsafeFileError, match="would run code"):
        HuggingFaceBackend().load(str(pickled_clip), CPU)
    assert not marker.exists()


def test_pickle_with_code_is_a_critical_finding(
    pickled_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int]
) -> None:
    out = tmp_path / "out"
    code = vlaudit(
        "scan",
        f"hf:{pickled_clip}",
        "--data",
        picture_folder,
        "--probe",
        "unsafe-file",
        "--probe",
        "clip-autoattack",
        "--out",
        out,
    )
    assert code == 4
    findings = {f["probe"]: f for f in json.loads((out / "report.json").read_text())["findings"]}
    assert (findings["unsafe-file"]["verdict"], findings["unsafe-file"]["severity"]) == ("vulnerable", "critical")
    assert "system" in findings["unsafe-file"]["reason"]
    assert findings["clip-autoattack"]["verdict"] == "not-assessed"


def test_plain_pickled_tensors_load(tiny_clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "plain"
    shutil.copytree(tiny_clip, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model = HuggingFaceBackend().load(str(folder), CPU)
    same = HuggingFaceBackend().load(str(tiny_clip), CPU)
    torch.testing.assert_close(model.encode_texts(["a cat"]), same.encode_texts(["a cat"]))
    assert model.sha256 != same.sha256, "the fingerprint is of the file"


@pytest.mark.parametrize("damage", ["truncate", "other-shapes", "no-weights", "no-config", "no-tokenizer"])
def test_damaged_folders_are_model_errors(damage: str, tiny_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_clip, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other-shapes":
        config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 48'))
    elif damage == "no-weights":
        weights.unlink()
    elif damage == "no-config":
        config.unlink()
    else:
        for path in folder.glob("tokenizer*"):
            path.unlink()
    with pytest.raises(ModelError) as caught:
        HuggingFaceBackend().load(str(folder), CPU)
    assert caught.value.cure or "config" in caught.value.message


def test_unknown_folder_and_hub_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        HuggingFaceBackend().load(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(UsageError, match="knows no pretrained"):
        OpenCLIPBackend().load("ViT-B-32/nothing", CPU)
    assert HuggingFaceBackend().is_remote("openai/clip-vit-base-patch32")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_on_the_gpu_equal_those_on_the_cpu(tiny_clip: Path) -> None:
    cpu, gpu = (HuggingFaceBackend().load(str(tiny_clip), torch.device(name)) for name in ("cpu", "cuda"))
    image = cpu.preprocess(picture())[None]
    torch.testing.assert_close(gpu.encode_images(image.cuda()).cpu(), cpu.encode_images(image), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gpu.encode_texts(["a cat"]).cpu(), cpu.encode_texts(["a cat"]), atol=1e-4, rtol=1e-4)
