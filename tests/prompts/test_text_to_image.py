"""Prompts of text-to-image pipelines: each acts while it is active, leaves nothing behind, and says what is wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny_pipelines
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.errors import UnsafeFileError, UsageError
from vlaudit.prompts.design import Design
from vlaudit.prompts.image_to_image import ImageToImage
from vlaudit.prompts.lora import LoRA
from vlaudit.prompts.prompt_to_prompt import PromptToPrompt, align
from vlaudit.prompts.specs import parse_options, parse_prompt
from vlaudit.prompts.textual_inversion import TextualInversion
from vlaudit.records import Family

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.sdxl,
    "sd3": tiny_pipelines.sd3,
    "flux": tiny_pipelines.flux,
}
CAPTIONS, SEEDS = ["a photo of a dog", "the red cat"], [1, 2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        name: DiffusersBackend().load(str(make(tmp_path_factory.mktemp(name))), CPU) for name, make in MAKERS.items()
    }


@pytest.fixture(params=list(MAKERS))
def model(request: pytest.FixtureRequest, models: dict[str, Any]) -> Any:
    return models[request.param]


@pytest.fixture
def sd(models: dict[str, Any]) -> Any:
    return models["sd1"]


def draw(model: Any, prompt: Any = None, captions: list[str] = CAPTIONS, seeds: list[int] = SEEDS) -> torch.Tensor:
    images: torch.Tensor = (prompt or Design()).bind(model).generate(captions, seeds, steps=3).images
    return images


def parse(spec: str) -> Any:
    return parse_prompt(spec, Family.TEXT_TO_IMAGE)


def inversion(token: str = "<toy>", size: int = 2, sides: int = 1, **options: Any) -> TextualInversion:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(size, 32, generator=generator) for _ in range(sides)]
    return TextualInversion(vectors, token, **{"noun": "dog", **options})


def write_adapter(model: Any, folder: Path, text_side: bool = False) -> Path:
    """A LoRA file in diffusers' format with random weights, made on another copy of the model."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = DiffusersBackend().load(model.spec.partition(":")[2], CPU).pipe
    torch.manual_seed(1)
    layers = {}
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    denoiser = getattr(pipe, model.denoiser_name)
    denoiser.add_adapter(config)
    layers[f"{model.denoiser_name}_lora_layers"] = get_peft_model_state_dict(denoiser)
    layers[f"{model.denoiser_name}_lora_adapter_metadata"] = config.to_dict()  # where diffusers keeps the alpha
    if text_side:
        config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        pipe.text_encoder.add_adapter(config)
        layers["text_encoder_lora_layers"] = get_peft_model_state_dict(pipe.text_encoder)
        layers["text_encoder_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


# design and modifiers


def test_designs_word_the_caption() -> None:
    assert (
        parse("an oil painting of {} by Monet, soft light").wording("a dog")
        == "an oil painting of a dog by Monet, soft light"
    )
    slots = parse("design:adjective=moody,noun=photograph,artist=Claude Monet,lighting=soft")
    assert slots.wording("a dog") == "a moody photograph of a dog by Claude Monet, soft lighting"
    assert parse("design:adjective=eerie").wording("dog") == "eerie dog"
    assert parse("design:noun=oil painting").wording("{} set") == "an oil painting of {} set"
    assert parse("design:artist=Hals, the elder").wording("a dog") == "a dog by Hals, the elder"
    assert parse("{}").reference().wording("a dog") == "a dog"
    for bad in ("design:painting", "design:colour=red", "design:noun=", "{} and {}"):
        with pytest.raises(UsageError):
            parse(bad)


def test_modifiers_are_drawn_by_seed(tmp_path: Path, sd: Any) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("# styles\nin the snow\n\na painting of {}\nat night\n")
    prompt = parse(f"modifiers:{path}")
    drawn = [prompt.wording("a dog", seed) for seed in range(200)]
    assert set(drawn) == {"a dog, in the snow", "a painting of a dog", "a dog, at night"}
    assert drawn == [prompt.wording("a dog", seed) for seed in range(200)]
    assert [text.replace("dog", "cat") for text in drawn] == [prompt.wording("a cat", seed) for seed in range(200)]
    assert prompt.wording("a dog") in drawn
    target = prompt.bind(sd)
    assert target.wording(CAPTIONS, SEEDS) == [prompt.wording(c, s) for c, s in zip(CAPTIONS, SEEDS, strict=True)]
    literal = draw(sd, captions=target.wording(CAPTIONS, SEEDS))
    torch.testing.assert_close(draw(sd, prompt), literal, rtol=1e-3, atol=1e-4)
    path.write_text("\n")
    with pytest.raises(UsageError, match="at least one"):
        parse(f"modifiers:{path}")


def test_options_may_hold_commas() -> None:
    assert parse_options("a=x, y,b=1", "m", ("a", "b")) == {"a": "x, y", "b": "1"}
    with pytest.raises(UsageError, match="'c'"):
        parse_options("a=x,c=1", "m", ("a", "b"))


# textual inversion


def test_a_personal_token_acts_and_leaves_nothing_behind(model: Any) -> None:
    before = draw(model)
    prompt = inversion()
    target = prompt.bind(model)
    assert target.wording(CAPTIONS) == ["a photo of a <toy>", "the red cat"]
    after = target.generate(CAPTIONS, SEEDS, steps=3).images
    assert float((after[0] - before[0]).abs().max()) > 1e-3  # the caption that names the noun
    torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=1e-4)  # the one that does not
    assert torch.equal(draw(model), before)
    assert not model.knows_token("<toy>") and "<toy>" not in model.vocabulary
    with prompt.active(model), prompt.active(model):
        assert model.knows_token("<toy>") and len(model.tokenize("a <toy>")) == 2 + 1 + 2  # two vectors
    ids, plain = target.token_ids(["a dog"]), Design().bind(model).token_ids(["a dog"])
    assert (ids >= len(model.tokenizer)).sum() == 2 and ids.shape == plain.shape
    rows = target.token_embeddings(["a dog"])[0, 2:4]
    torch.testing.assert_close(rows, prompt.vectors[0])
    torch.testing.assert_close(
        target.text_features(["a <toy>"]), target.text_features(["a dog"], target.token_embeddings(["a dog"]))
    )
    assert model.pipe.text_encoder.get_input_embeddings().num_embeddings == len(model.tokenizer)


def test_the_same_picture_as_diffusers_own_loader(sd: Any, tmp_path: Path) -> None:
    prompt = inversion()
    prompt.save(tmp_path / "learned_embeds.safetensors")
    own = draw(sd, prompt)
    pipe = DiffusersBackend().load(sd.spec.partition(":")[2], CPU).pipe
    pipe.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    theirs = pipe(
        ["a photo of a <toy>"], generator=torch.Generator().manual_seed(1), num_inference_steps=3, output_type="pt"
    )
    torch.testing.assert_close(own[:1], theirs.images, rtol=1e-3, atol=1e-4)


def test_a_second_text_encoder_reads_its_own_vectors(models: dict[str, Any]) -> None:
    both = inversion(sides=2).bind(models["sdxl"]).encode(["a dog"]).tensors["prompt_embeds"]
    first = inversion(sides=1).bind(models["sdxl"]).encode(["a dog"]).tensors["prompt_embeds"]
    assert torch.allclose(both[..., :32], first[..., :32]) and not torch.allclose(both[..., 32:], first[..., 32:])


def test_token_files_round_trip_in_every_format(tmp_path: Path, sd: Any, models: dict[str, Any]) -> None:
    vector = torch.randn(2, 32)
    prompt = inversion(base_model=sd.sha256, members=["ab"])
    prompt.save(tmp_path / "own.safetensors")
    again = parse(f"textual-inversion:{tmp_path / 'own.safetensors'}")
    assert (again.token, again.noun, again.members, again.base_model) == ("<toy>", "dog", ["ab"], sd.sha256)
    assert torch.equal(again.vectors[0], prompt.vectors[0])
    with pytest.raises(UsageError, match="learned on another model"):
        again.bind(models["flux"])
    torch.save({"<toy>": vector[0]}, tmp_path / "learned_embeds.bin")
    torch.save({"string_to_param": {"*": vector}, "name": "toy-web"}, tmp_path / "web.pt")
    save_file({"emb_params": vector}, tmp_path / "web.safetensors")
    save_file({"clip_l": vector, "clip_g": vector.clone()}, tmp_path / "xl.safetensors")
    for name, token, sides in (("learned_embeds.bin", "<toy>", 1), ("web.pt", "toy-web", 1)):
        loaded = TextualInversion.load(tmp_path / name)
        assert loaded.token == token and len(loaded.vectors) == sides
    for name, sides in (("web.safetensors", 1), ("xl.safetensors", 2)):
        with pytest.raises(UsageError, match="which token"):
            TextualInversion.load(tmp_path / name)
        loaded = parse(f"textual-inversion:file={tmp_path / name},token=<x>,text={{}} in the style of <x>")
        assert len(loaded.vectors) == sides and loaded.wording("a dog") == "a dog in the style of <x>"
        assert loaded.reference().wording("a dog") == "a dog"


@pytest.mark.parametrize("content", [
    {"string_to_param": {"*": torch.ones(2, 32), "second": torch.ones(2, 32)}, "name": "toy"},
    {"string_to_param": {"*": torch.ones(2, 32)}, "name": "toy", "second": torch.ones(2, 32)},
    {"emb_params": torch.ones(2, 32), "second": torch.ones(2, 32)},
    {"clip_l": torch.ones(2, 32), "clip_g": torch.ones(2, 32), "second": torch.ones(2, 32)},
])  # fmt: skip
def test_a_token_file_with_more_than_its_format_holds_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "toy.pt")
    with pytest.raises(UsageError, match=r"holds more than .*: second"):
        TextualInversion.load(tmp_path / "toy.pt", token="<toy>")


def test_references_of_personal_tokens_say_the_noun() -> None:
    toy = inversion()
    assert toy.wording("Dogs and a DOG") == "Dogs and a <toy>"
    assert toy.wording("my <toy>") == "my <toy>" and toy.reference().wording("my <toy>") == "my dog"
    bare = inversion(noun=None)
    assert bare.wording("a bird") == "a bird, <toy>" and bare.reference().wording("a <toy> bird") == "a bird"
    booth = parse("lora:token=sks,noun=dog")
    assert booth.wording("a red dog") == "a red sks dog" and booth.wording("a sks dog") == "a sks dog"
    assert booth.reference().wording("a sks dog") == "a dog" and booth.reference().wording("my sks") == "my dog"


def test_tokens_and_files_that_do_not_fit(sd: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already a word"):
        inversion("cat").bind(sd)
    with pytest.raises(UsageError, match="16 wide"):
        TextualInversion([torch.randn(1, 16)], "<toy>").bind(sd)
    with pytest.raises(UsageError, match="at most"):
        inversion(size=15).bind(sd)
    with pytest.raises(UsageError, match="has a space"):
        inversion("my toy")
    with pytest.raises(UsageError, match="does not exist"):
        parse(f"textual-inversion:{tmp_path / 'none.bin'}")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no")
    with pytest.raises(UsageError, match="readable"):
        parse(f"textual-inversion:{bad}")
    save_file({"<toy>": torch.tensor([float("nan")] * 32)}, bad)
    with pytest.raises(UsageError, match="no token embeddings"):
        parse(f"textual-inversion:{bad}")
    evil = tmp_path / "learned_embeds.bin"
    evil.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeFileError, match="exec"):
        parse(f"textual-inversion:{evil}")
    with pytest.raises(UsageError, match="needs its file"):
        parse("textual-inversion:token=<toy>")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_fitting_a_token_lowers_the_denoising_loss(sd: Any) -> None:
    images = torch.zeros(4, 3, 16, 16)
    images[:, 0] = 1
    prompt = TextualInversion.fit(sd, images, token="<red>", noun="cat", size=2, steps=40, batch_size=4, rate=0.05)
    again = TextualInversion.fit(sd, images, token="<red>", noun="cat", size=2, steps=40, batch_size=4, rate=0.05)
    assert torch.equal(prompt.vectors[0], again.vectors[0]) and prompt.vectors[0].shape == (2, 32)
    assert prompt.wording("a photo of a cat") == "a photo of a <red>"

    def loss(bound: Any) -> float:
        generator = torch.Generator().manual_seed(5)
        latents = sd.encode_images(images).repeat(8, 1, 1, 1)
        with torch.no_grad(), bound.prompt.active(sd):
            return float(sd.denoising_loss(latents, bound.encode(["a photo of a cat"]).repeat(32), generator))

    assert loss(prompt.bind(sd)) < loss(prompt.reference().bind(sd))


# adapters


def test_an_adapter_acts_only_while_active(model: Any, tmp_path: Path) -> None:
    before = draw(model)
    path = write_adapter(model, tmp_path)
    prompt = LoRA(path)
    target = prompt.bind(model)
    assert torch.equal(draw(model), before)  # loaded, and off
    adapted = target.generate(CAPTIONS, SEEDS, steps=3).images
    assert float((adapted - before).abs().max()) > 5e-4
    assert torch.equal(draw(model), before)
    half = draw(model, LoRA(path, scale=0.5))
    assert 0 < float((half - before).abs().mean()) < float((adapted - before).abs().mean())
    torch.testing.assert_close(draw(model, LoRA(path, scale=0.0)), before, rtol=1e-3, atol=1e-4)
    other = DiffusersBackend().load(model.spec.partition(":")[2], CPU).pipe
    other.load_lora_weights(str(tmp_path), weight_name=path.name)
    model_with_theirs = type(model)(model.spec, other, [], "", CPU, {"resolution": 16})
    torch.testing.assert_close(draw(model_with_theirs), adapted, rtol=1e-3, atol=1e-4)
    prediction = target.denoise(model.noise([0]), 500, ["a dog"])
    assert not prediction.requires_grad and target.meter.gradient_steps == 0
    with prompt.active(model):
        inside = draw(model)  # another prompt within: the adapter is still on
    torch.testing.assert_close(inside, adapted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_fitting_an_adapter_lowers_the_denoising_loss(models: dict[str, Any], name: str, tmp_path: Path) -> None:
    model = models[name]
    before = draw(model)
    images = torch.zeros(2, 3, 16, 16)
    images[:, 0] = 1
    options: dict[str, Any] = {"steps": 12, "rate": 0.02, "token": "monet", "noun": "dog", "members": ["ab"]}
    prompt = LoRA.fit(model, tmp_path / "a.safetensors", images, ["a photo of a dog"] * 2, **options)
    assert torch.equal(draw(model), before)  # the training left nothing behind
    assert prompt.members == ["ab"] and prompt.base_model == model.sha256
    LoRA.fit(model, tmp_path / "b.safetensors", images, ["a photo of a dog"] * 2, **options)
    first, again = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert first and all(torch.equal(value, again[name]) for name, value in first.items())

    def loss(bound: Any) -> float:
        generator = torch.Generator().manual_seed(5)
        latents = model.encode_images(images).repeat(16, 1, 1, 1)
        with torch.no_grad(), bound.prompt.active(model):
            return float(model.denoising_loss(latents, bound.encode(["a photo of a dog"]).repeat(32), generator))

    assert loss(prompt.bind(model)) < loss(prompt.reference().bind(model))
    assert torch.equal(draw(model), before)


def test_an_adapter_may_change_the_text_side_too(sd: Any, tmp_path: Path) -> None:
    plain = Design().bind(sd).encode(["a dog"])
    target = LoRA(write_adapter(sd, tmp_path, text_side=True)).bind(sd)
    assert not torch.allclose(
        target.encode(["a dog"]).tensors["prompt_embeds"], plain.tensors["prompt_embeds"], atol=1e-4
    )
    assert torch.equal(Design().bind(sd).encode(["a dog"]).tensors["prompt_embeds"], plain.tensors["prompt_embeds"])
    embeddings = target.token_embeddings(["a dog"])
    assert torch.allclose(
        target.encode(["a dog"], embeddings=embeddings).tensors["prompt_embeds"],
        target.encode(["a dog"]).tensors["prompt_embeds"], atol=1e-5,
    )  # fmt: skip


def test_peft_folders_are_read_with_their_alpha(sd: Any, tmp_path: Path) -> None:
    written = write_adapter(sd, tmp_path / "diffusers")
    expected = draw(sd, LoRA(written))
    folder = tmp_path / "peft"
    folder.mkdir()
    tensors = {f"base_model.model.{key.removeprefix('unet.')}": value for key, value in load_file(written).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    torch.testing.assert_close(draw(sd, parse(f"lora:{folder}")), expected, rtol=1e-3, atol=1e-4)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    assert not torch.allclose(draw(sd, parse(f"lora:{folder}")), expected, atol=1e-3)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        parse(f"lora:{folder}")


PEFT: dict[str, dict[str, Any]] = {
    "alpha of some": {"alpha_pattern": {"attn2.to_q": 64, "attn2.to_k": 1}},
    "rank of some": {"rank_pattern": {"attn2.to_q": 9, "up_blocks.*to_k": 2}},
    "both": {"rank_pattern": {"to_q": 8}, "alpha_pattern": {"to_q": 3, "attn1.to_v": 40}},
    "both, rank-stabilised": {"rank_pattern": {"to_q": 8}, "alpha_pattern": {"to_v": 9}, "use_rslora": True},
    "magnitudes": {"use_dora": True, "rank_pattern": {"to_q": 8}, "alpha_pattern": {"to_v": 9}},
    "convolutions": {"target_modules": ["conv1", "to_q"], "rank_pattern": {"conv1": 6}, "alpha_pattern": {"conv1": 30}},
}


@pytest.mark.parametrize("name", PEFT)
def test_each_module_of_a_peft_adapter_has_its_own_rank_and_alpha(name: str, sd: Any, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, PeftModel, get_peft_model

    def unet() -> Any:
        return UNet2DConditionModel.from_pretrained(Path(sd.spec.partition(":")[2]) / "unet").eval()

    torch.manual_seed(0)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 5, 32)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v"], **PEFT[name]})
    tuned = get_peft_model(unet(), config)
    for key, value in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.1)
    tuned.save_pretrained(str(tmp_path))
    with torch.no_grad():
        plain, wanted = unet()(*inputs).sample, PeftModel.from_pretrained(unet(), tmp_path).eval()(*inputs).sample
        prompt = parse(f"lora:{tmp_path}")
        prompt.bind(sd)
        with prompt.active(sd):
            found = sd.denoiser(*inputs).sample
    assert (wanted - plain).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, atol=2e-3 * float((wanted - plain).abs().max()) + 1e-5, rtol=1e-3)


def test_what_a_peft_config_says_and_vlaudit_cannot_apply_is_refused_by_name(sd: Any, tmp_path: Path) -> None:
    """Also where diffusers keeps the config in the metadata of its own file, from which it would be obeyed."""
    written = write_adapter(sd, tmp_path / "diffusers")
    whole, folder = load_file(written), tmp_path / "peft"
    folder.mkdir()
    save_file({f"base_model.model.{key.removeprefix('unet.')}": value for key, value in whole.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    parse(f"lora:{folder}")
    for key, value in {
        "lora_bias": True, "bias": "all", "fan_in_fan_out": True, "modules_to_save": ["conv_in"], "init_lora_weights": "pissa",
        "target_parameters": ["a"], "layer_replication": [[0, 2]], "use_qalora": True, "newest_option": {"a": 1},
        "megatron_config": {"a": 1}, "alpha_pattern": {"(a|a)*b": 3}, "rank_pattern": {"to_q": 0}, "target_modules": "(.*)*x",
    }.items():  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps({**plain, key: value}))
        with pytest.raises(UsageError, match=key):
            parse(f"lora:{folder}")
        own = {f"unet.{name}": each for name, each in {**plain, key: value}.items()}
        save_file(whole, written, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(own)})
        with pytest.raises(UsageError, match=key):
            parse(f"lora:{written}")
    for change in ({"r": 3}, {"rank_pattern": {"to_q": 8}}, {"r": "4"}, {"lora_alpha": [8]}, {"peft_type": "LOHA"}):
        (folder / "adapter_config.json").write_text(json.dumps({**plain, **change}))
        with pytest.raises(UsageError) as caught:
            parse(f"lora:{folder}")
        assert caught.value.cure
    for junk in ("[1]", "{", "[" * 9000):
        save_file(whole, written, metadata={"format": "pt", "lora_adapter_metadata": junk})
        with pytest.raises(UsageError, match="metadata"):
            parse(f"lora:{written}")


def test_broken_adapters_are_one_sentence_and_change_nothing(sd: Any, models: dict[str, Any], tmp_path: Path) -> None:
    before = draw(sd)
    path = write_adapter(sd, tmp_path)
    whole = load_file(path)
    key = next(name for name in whole if "lora_B" in name)
    broken = {
        "shape": {**whole, key: torch.zeros(3, 4)},
        "modules": {name.replace("attn1", "attn9").replace("attn2", "attn9"): value for name, value in whole.items()},
        "weights": {"unet.conv_in.weight": torch.zeros(1)},
        "elsewhere": {name.replace("unet.", "transformer."): value for name, value in whole.items()},
    }
    for name, tensors in broken.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(UsageError) as caught:
            LoRA(tmp_path / f"{name}.safetensors").bind(sd)
        assert "\n" not in str(caught.value) and caught.value.cure and name in str(caught.value)
        assert torch.equal(draw(sd), before)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="readable"):
        LoRA(path)
    with pytest.raises(UsageError, match="does not exist"):
        parse(f"lora:{tmp_path / 'nothing'}")
    with pytest.raises(UsageError, match="no scale"):
        parse(f"lora:file={path},scale=big")
    with pytest.raises(UsageError, match="no token"):
        parse("lora:file=x,noun=dog")
    with pytest.raises(UsageError, match="a file or a token"):
        LoRA(None)
    evil = tmp_path / "evil.bin"
    evil.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeFileError, match="exec"):
        LoRA(evil)
    other = write_adapter(models["flux"], tmp_path / "flux")
    with pytest.raises(UsageError):
        LoRA(other).bind(sd)
    assert torch.equal(draw(sd), before)


# attention and pictures


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_edits_keep_the_sources_attention(models: dict[str, Any], name: str) -> None:
    """For a swapped word the edit's cross-attention is the source's own, layer by layer."""
    model = models[name]
    prompt = parse("prompt-to-prompt:edit=a blue {},source=a red {},cross=1,self=0")
    target = prompt.bind(model)
    latents = model.noise([3])
    maps: list[torch.Tensor] = []

    def record(found: torch.Tensor, cross: bool, _timesteps: torch.Tensor) -> torch.Tensor:
        if cross:
            maps.append(found)
        return found

    plain = Design("{}").bind(model)
    with torch.no_grad(), model.attention(record):
        plain.denoise(latents, 700, ["a red dog"])
    recorded, position = list(maps), iter(range(len(maps)))
    with torch.no_grad(), model.attention(lambda found, cross, _: recorded[next(position)] if cross else found):
        expected = plain.denoise(latents, 700, ["a blue dog"])
    uncontrolled = plain.denoise(latents, 700, ["a blue dog"])
    assert len(recorded) >= 2 and not torch.allclose(expected, uncontrolled, atol=1e-5)
    torch.testing.assert_close(target.denoise(latents, 700, ["dog"]), expected, rtol=1e-3, atol=1e-5)
    late = parse("prompt-to-prompt:edit=a blue {},source=a red {},cross=0.2,self=0").bind(model)
    torch.testing.assert_close(late.denoise(latents, 700, ["dog"]), uncontrolled, rtol=1e-3, atol=1e-5)


def test_edits_without_control_or_change_are_plain_pictures(sd: Any) -> None:
    before = draw(sd)
    unchanged = PromptToPrompt("{}", cross=1, self_=1)
    torch.testing.assert_close(draw(sd, unchanged), before, rtol=1e-3, atol=1e-4)
    edited, free = "a painting of {}", PromptToPrompt("a painting of {}", cross=0, self_=0)
    plain = draw(sd, Design(edited))
    torch.testing.assert_close(draw(sd, free), plain, rtol=1e-3, atol=1e-4)
    held = PromptToPrompt(edited, cross=0.8, self_=0.4)
    pictures = draw(sd, held)
    assert float((pictures - plain).abs().max()) > 1e-3
    torch.testing.assert_close(draw(sd, held, CAPTIONS[1:], SEEDS[1:]), pictures[1:], rtol=1e-3, atol=1e-4)
    assert torch.equal(draw(sd), before)  # its processors are gone
    start = sd.noise(SEEDS), sd.sampling_timesteps()[0], None
    nothing = Design().bind(sd).predict_noise(*start)
    torch.testing.assert_close(held.bind(sd).predict_noise(*start), nothing, rtol=1e-3, atol=1e-4)


def test_texts_are_aligned_by_their_tokens() -> None:
    swapped, shared = align([0, 5, 6, 9], [0, 5, 7, 9], 6)
    assert torch.equal(swapped, torch.eye(6)) and shared.tolist() == [1] * 6
    added, shared = align([0, 5, 9], [0, 4, 5, 9], 6)
    assert shared.tolist() == [1, 0, 1, 1, 1, 1]
    assert added[1, 2] == 1 and added[2, 3] == 1 and added[:, 1].sum() == 0
    longer, _ = align([0, 5, 9], [0, 6, 7, 9], 4)
    assert longer[1, 1:3].tolist() == [0.5, 0.5]
    cut, shared = align(list(range(9)), list(range(9)), 4)
    assert torch.equal(cut, torch.eye(4)) and shared.tolist() == [1] * 4


def test_edits_need_a_unet_and_valid_shares(models: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="U-Net"):
        PromptToPrompt("a painting of {}").bind(models["sd3"])
    for bad in ("prompt-to-prompt:source={}", "prompt-to-prompt:edit={},cross=2", "prompt-to-prompt:edit={},self=much"):
        with pytest.raises(UsageError):
            parse(bad)


def test_a_picture_to_start_from(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(path)
    before = draw(model)
    start = model.preprocess(Image.open(path))
    with torch.no_grad():
        start = model.decode(model.encode_images(start[None]))
    near, far = (parse(f"image-to-image:file={path},strength={strength}") for strength in (0.05, 0.95))
    close, wide = draw(model, near), draw(model, far)
    assert (close - start).abs().mean() < (wide - start).abs().mean()
    assert not torch.allclose(close, before, atol=1e-2)
    torch.testing.assert_close(draw(model, far, CAPTIONS[1:], SEEDS[1:]), wide[1:], rtol=1e-3, atol=1e-4)
    assert torch.equal(draw(model), before)
    assert near.reference().wording("a dog") == "a dog" and near.sha256()
    for bad in (
        f"image-to-image:file={path},strength=0",
        f"image-to-image:file={path},strength=x",
        "image-to-image:strength=1",
    ):
        with pytest.raises(UsageError):
            parse(bad)
    with pytest.raises(UsageError, match="does not exist"):
        ImageToImage(tmp_path / "none.png")


def test_prompts_fit_their_own_family_only(tiny_clip: Path, sd: Any) -> None:
    from vlaudit.backends.huggingface import HuggingFaceBackend

    matcher = HuggingFaceBackend().load(str(tiny_clip), CPU)
    with pytest.raises(UsageError, match="text-to-image"):
        Design().bind(matcher)
    with pytest.raises(UsageError, match="text-to-image"):
        parse_prompt("a photo of a {}", Family.MATCHING).bind(sd)


def kohya(model: Any, alphas: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file as kohya's scripts write it, each module with a rank and an alpha of its own; and the change of each weight."""
    torch.manual_seed(0)
    tensors, changes = {}, {}
    parts = (("unet", "lora_unet_", ("to_q", "to_k", "to_v", "to_out.0")), ("text_encoder", "lora_te_text_model_", ("_proj", "fc1", "fc2")))
    pipe = DiffusersBackend().load(model.spec.partition(":")[2], CPU).pipe
    for part, prefix, ends in parts:
        for number, (name, layer) in enumerate(getattr(pipe, part).named_modules()):
            if not isinstance(layer, torch.nn.Linear) or not name.endswith(ends):
                continue
            rank, alpha = number % 3 + 2, float(number % 5 + 1)
            down, up = 0.1 * torch.randn(rank, layer.in_features), 0.1 * torch.randn(layer.out_features, rank)
            own = prefix + name.replace(".", "_")
            tensors |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up} | ({f"{own}.alpha": torch.tensor(alpha)} if alphas else {})
            changes[f"{part}.{name}"] = up @ down * (alpha / rank if alphas else 1)
    return tensors, changes


def applied(model: Any, prompt: Any) -> dict[str, torch.Tensor]:
    """What an adapter changes each weight by while it is active."""
    from peft.tuners.lora import LoraLayer

    with prompt.active(model):
        return {
            f"{part}.{name}": layer.get_delta_weight(active).detach()
            for part in ("unet", "text_encoder")
            for name, layer in getattr(model.pipe, part).named_modules() if isinstance(layer, LoraLayer)
            for active in layer.active_adapters if active in layer.lora_A
        }  # fmt: skip


@pytest.mark.parametrize("alphas", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_each_module_of_a_kohya_file_has_its_own_rank_and_alpha(alphas: bool, half: bool, sd: Any, tmp_path: Path) -> None:
    tensors, changes = kohya(sd, alphas)
    save_file({name: value.half() if half else value for name, value in tensors.items()}, tmp_path / "x.safetensors")
    prompt = parse(f"lora:{tmp_path / 'x.safetensors'}")
    model = DiffusersBackend().load(sd.spec.partition(":")[2], CPU)
    prompt.bind(model)
    found = applied(model, prompt)
    assert found.keys() == changes.keys() and len(found) > 40
    for name, change in changes.items():
        torch.testing.assert_close(found[name], change, atol=5e-4 if half else 1e-6, rtol=1e-2 if half else 1e-5, msg=name)


def test_a_kohya_file_of_flux_changes_each_part_of_a_joined_layer(models: dict[str, Any], tmp_path: Path) -> None:
    """Its layers are named and joined as in the model's first release: one stands for queries, keys and values."""
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(0)
    tensors, changes, block = {}, {}, "transformer_blocks.0.attn"
    joined = [
        ("double_blocks_0_img_attn_qkv", 3, 2.0, [f"{block}.to_q", f"{block}.to_k", f"{block}.to_v"], 32),
        ("double_blocks_0_txt_attn_qkv", 2, 4.0, [f"{block}.add_q_proj", f"{block}.add_k_proj", f"{block}.add_v_proj"], 32),
        ("double_blocks_0_img_attn_proj", 2, 1.0, [f"{block}.to_out.0"], 32),
        ("single_blocks_0_linear2", 4, 3.0, ["single_transformer_blocks.0.proj_out"], 160),
    ]
    for name, rank, alpha, modules, width in joined:
        down, up = 0.1 * torch.randn(rank, width), 0.1 * torch.randn(32 * len(modules), rank)
        own = f"lora_unet_{name}"
        tensors |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up, f"{own}.alpha": torch.tensor(alpha)}
        changes |= dict(zip(modules, (up @ down * (alpha / rank)).split(32), strict=True))
    save_file(tensors, tmp_path / "x.safetensors")
    model = DiffusersBackend().load(models["flux"].spec.partition(":")[2], CPU)
    prompt = parse(f"lora:{tmp_path / 'x.safetensors'}")
    prompt.bind(model)
    with prompt.active(model):
        layers = {name: layer for name, layer in model.denoiser.named_modules() if isinstance(layer, LoraLayer)}
        assert layers.keys() == changes.keys()
        for name, change in changes.items():
            found = layers[name].get_delta_weight(layers[name].active_adapters[0]).detach()
            torch.testing.assert_close(found, change, atol=1e-6, rtol=1e-5, msg=name)


def test_the_alphas_that_diffusers_keeps_in_its_metadata_are_those_of_each_module(sd: Any, tmp_path: Path) -> None:
    whole = load_file(write_adapter(sd, tmp_path))
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn2.to_q": 2, "to_v": 40}, "use_rslora": True}
    metadata = {f"unet.{key}": value for key, value in config.items()}
    save_file(whole, tmp_path / "x.safetensors", metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    prompt = parse(f"lora:{tmp_path / 'x.safetensors'}")
    model = DiffusersBackend().load(sd.spec.partition(":")[2], CPU)
    prompt.bind(model)
    for name, change in applied(model, prompt).items():
        alpha = 2 if name.endswith("attn2.to_q") else 40 if name.endswith("to_v") else 8
        wanted = whole[f"{name}.lora_B.weight"] @ whole[f"{name}.lora_A.weight"] * (alpha / 4**0.5)
        torch.testing.assert_close(change, wanted, atol=1e-5, rtol=1e-4)


def test_a_peft_config_without_alpha_has_that_of_peft(sd: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    from vlaudit.prompts.lora import PEFT_DEFAULT

    assert LoraConfig().lora_alpha == LoraConfig().r == PEFT_DEFAULT
    whole = {f"base_model.model.{key.removeprefix('unet.')}": value for key, value in load_file(write_adapter(sd, tmp_path / "d")).items()}
    save_file(whole, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    prompt = parse(f"lora:{tmp_path}")
    model = DiffusersBackend().load(sd.spec.partition(":")[2], CPU)
    prompt.bind(model)
    name, change = next(iter(applied(model, prompt).items()))
    inner = f"base_model.model.{name.removeprefix('unet.')}"
    torch.testing.assert_close(change, whole[f"{inner}.lora_B.weight"] @ whole[f"{inner}.lora_A.weight"] * 2, atol=1e-5, rtol=1e-4)
    for alpha in (None, 0, True):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": alpha}))
        with pytest.raises(UsageError, match="no number above 0"):
            parse(f"lora:{tmp_path}")


def test_adapters_of_other_kinds_and_parts_of_adapters_are_refused_by_name(sd: Any, tmp_path: Path) -> None:
    tensors, _ = kohya(sd)
    first = next(iter(tensors)).rpartition(".lora_down")[0]
    one = torch.ones(2, 2)
    file = tmp_path / "x.safetensors"
    for change, said in (
        ({f"{first}.hada_w1_a": one}, "LoHa"), ({f"{first}.lokr_w1": one}, "LoKr"), ({f"{first}.lora_mid.weight": one}, "LoCon"),
        ({f"{first}.oft_blocks": one}, "OFT"), ({f"{first}.diff": one}, "differences"), ({"bundle_emb.x.string_to_param.*": one}, "pivotal"),
        ({f"{first}.lora_up.weight": None}, "one half"), ({f"{first}.alpha": torch.tensor(float("nan"))}, "alpha"),
        ({f"{first}.lora_down.weight": tensors[f"{first}.lora_down.weight"] * float("inf")}, "not finite"),
        ({"lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": one,
          "lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": one}, "1 modules that this pipeline does not have"),
        ({f"{first}.lora_down.weight": torch.ones(tensors[f"{first}.lora_down.weight"].shape[0], 17)}, "does not fit"),
    ):  # fmt: skip
        save_file({name: value.clone() for name, value in (tensors | change).items() if value is not None}, file)
        with pytest.raises(UsageError, match=said):
            parse(f"lora:{file}").bind(sd)
    save_file({f"diffusion_model.{first}.lora_A.weight": one, f"diffusion_model.{first}.lora_B.weight": one.clone()}, file)
    parse(f"lora:{file}")  # "diffusion" is no whole weight difference
