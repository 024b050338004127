"""The diffusers backend: what we compute through the seam equals what each kind of pipeline computes, and what is broken,
foreign or lacking is said in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny_pipelines
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.errors import CapabilityError, ModelError, UnsafeFileError, UsageError
from vlaudit.families.text_to_image import REMEMBERED, TextToImageGenerator
from vlaudit.probe import Needs
from vlaudit.prompts.design import Design

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_pipelines.stable_diffusion,
    "sd2-v": lambda folder: tiny_pipelines.stable_diffusion(folder, "v_prediction"),
    "sd-sample": lambda folder: tiny_pipelines.stable_diffusion(folder, "sample"),
    "sdxl": tiny_pipelines.sdxl,
    "sd3": tiny_pipelines.sd3,
    "flux": tiny_pipelines.flux,
}
FLOW = {"sd3", "flux"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folder: Path) -> Any:
    return DiffusersBackend().load(str(folder), CPU)


@pytest.fixture
def target(folders: dict[str, Path], kind: str) -> TextToImageGenerator:
    return Design("a photo of {}").bind(load(folders[kind]))


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A Stable Diffusion folder to break."""
    return Path(shutil.copytree(folders["sd1"], tmp_path / "pipeline"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_loop_through_the_seam_draws_the_pipelines_latents(target: TextToImageGenerator, kind: str) -> None:
    """DDIM, Euler and flow-matching Euler are one update, x' = a' x0 + s' e, in our latents: whatever is wrong with the
    texts, the noise levels, the timesteps, the denoiser's call or the conversions shows here."""
    model, seeds, captions = target.model, [3, 4], ["a red cat", "the big dog"]
    timesteps = model.sampling_timesteps(4)
    with torch.no_grad():
        latents = model.noise(seeds)
        for step, t in enumerate(timesteps):
            prediction = target.denoise(latents, t, captions)
            if model.guided:
                nothing = target.denoise(latents, t, None)
                prediction = nothing + model.guidance * (prediction - nothing)
            clean, noise = model.to_sample(prediction, latents, t), model.to_noise(prediction, latents, t)
            if step + 1 < len(timesteps):
                a, s = model.noise_level(timesteps[step + 1])
            elif kind.startswith("sd-") or kind in {"sd1", "sd2-v"}:  # DDIM that ends at its least noisy level
                a, s = model.noise_level(torch.tensor(0))
            else:
                a, s = torch.tensor(1.0), torch.tensor(0.0)
            latents = a * clean + s * noise
    drawn = target.generate(captions, seeds, steps=4, latents_only=True)
    assert drawn.blocked == [False, False]
    torch.testing.assert_close(latents, drawn.images, rtol=2e-3, atol=2e-3 * float(drawn.images.abs().max()))


def test_a_picture_depends_on_its_caption_and_seed_alone(target: TextToImageGenerator) -> None:
    together = target.generate(["a cat", "a dog", "a bird"], [1, 2, 3], steps=3).images
    alone = target.generate(["a dog"], [2], steps=3).images
    other = target.generate(["a dog"], [5], steps=3).images
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(alone, other, atol=1e-3)
    assert together.shape[1:] == (3, target.model.resolution, target.model.resolution)
    assert together.min() >= 0 and together.max() <= 1


def test_decoded_latents_are_the_pipelines_pictures(target: TextToImageGenerator) -> None:
    latents = target.generate(["a cat"], [1], steps=2, latents_only=True).images
    assert latents.shape[1:] == target.model.latent_shape
    with torch.no_grad():
        picture = target.model.decode(latents)
    torch.testing.assert_close(picture, target.generate(["a cat"], [1], steps=2).images, rtol=1e-3, atol=1e-4)


def test_noise_is_added_as_the_scheduler_does(target: TextToImageGenerator, kind: str) -> None:
    model = target.model
    clean, noise = model.noise([1, 2]), model.noise([3, 4])
    timesteps = model.sampling_timesteps(4)[1:3]
    scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config)  # type: ignore[attr-defined]
    if kind in FLOW:
        scheduler.set_timesteps(**model._schedule(4))  # type: ignore[attr-defined]
        expected = scheduler.scale_noise(clean, timesteps, noise)
    elif kind == "sdxl":  # Euler's latents have the picture's scale; ours keep unit variance
        scheduler.set_timesteps(4)
        sigma = (1 / scheduler.alphas_cumprod[timesteps.long()] - 1).sqrt()[:, None, None, None]
        expected = scheduler.add_noise(clean, noise, timesteps) / (1 + sigma**2).sqrt()
    else:
        expected = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(model.add_noise(clean, noise, timesteps), expected, rtol=1e-4, atol=1e-5)


def test_every_prediction_type_converts_to_the_noise_it_means(target: TextToImageGenerator) -> None:
    model, t = target.model, torch.tensor([600, 200])
    clean, noise = model.noise([1, 2]), model.noise([3, 4])
    noisy = model.add_noise(clean, noise, t)
    a, s = (level[:, None, None, None] for level in model.noise_level(t))
    exact = {
        "epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean, "flow_prediction": noise - clean,
    }[model.prediction_type]  # fmt: skip
    torch.testing.assert_close(model.to_noise(exact, noisy, t), noise, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.to_sample(exact, noisy, t), clean, rtol=1e-3, atol=1e-4)


def test_images_are_encoded_deterministically_at_the_denoisers_scale(target: TextToImageGenerator) -> None:
    model = target.model
    pictures = torch.rand(2, 3, model.resolution, model.resolution, requires_grad=True)
    latents = model.encode_images(pictures)
    vae = model.pipe.vae  # type: ignore[attr-defined]
    raw = vae.encode(2 * pictures - 1).latent_dist.mode()
    expected = (raw - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    latents.sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def test_token_embeddings_stand_for_the_text_and_carry_gradients(target: TextToImageGenerator) -> None:
    embeddings = target.token_embeddings(["a red cat"])
    assert embeddings.shape[:2] == (1, target.model.context_length)
    same = target.encode(["a red cat"], embeddings=embeddings)
    for name, tensor in target.encode(["a red cat"]).tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    moved = embeddings.clone().requires_grad_()
    before = target.meter.gradient_steps
    target.denoise(
        target.model.noise([0]), 500, target.encode(["a red cat"], embeddings=moved)
    ).square().sum().backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0
    assert target.meter.gradient_steps == before + 1
    features = target.text_features(["a red cat", "the dog"])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(target.text_features(["a red cat"], embeddings), features[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    states, mask = target.text_states(["a red cat"])
    assert mask.sum() >= 8 and states.shape[:2] == mask.shape  # "<s> a photo of a red cat </s>"


def test_tokens_are_counted_neither_cut_nor_padded(target: TextToImageGenerator) -> None:
    texts = ["", "a red cat", "a red cat " * 60]
    counts = target.model.token_counts(texts)
    assert counts == [len(target.model.tokenize(text)) for text in texts]
    assert counts[0] < counts[1] < target.model.context_length < counts[2]
    assert target.model.token_counts([]) == []


def test_passes_are_counted(target: TextToImageGenerator) -> None:
    target.generate(["a cat", "a dog"], [1, 2], steps=3)
    assert target.meter.queries == 2 * 3 * (2 if target.model.guided else 1)
    before = target.meter.queries
    target.predict_noise(target.model.noise([7, 8]), target.model.sampling_timesteps()[0], None)
    assert target.meter.queries == before + 2


def test_conditionings_are_cached_by_text(folders: dict[str, Path]) -> None:
    target = Design().bind(load(folders["sd1"]))
    encoder = target.model.pipe.text_encoder  # type: ignore[attr-defined]
    reads: list[int] = []
    encoder.register_forward_pre_hook(lambda *_: reads.append(1))
    first = target.encode(["a cat", "a dog"])
    again = target.encode(["a dog", "a cat", "a dog"])
    assert len(reads) == 2  # each by itself, so that its last bits hang on no other
    assert torch.equal(again.tensors["prompt_embeds"], first.tensors["prompt_embeds"][[1, 0, 1]])
    target.generate(["a cat"] * 2, [0, 1], steps=1)
    target.generate(["a cat"] * 2, [2, 3], steps=1)
    assert len(reads) == 3  # the empty text, once
    many = target.encode([f"a cat {number}" for number in range(REMEMBERED + 5)])
    assert len(many) == REMEMBERED + 5 and len(target._encoded) == REMEMBERED


def test_ancestral_sampling_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = tiny_pipelines.stable_diffusion(tmp_path, scheduler="EulerAncestralDiscreteScheduler")
    target = Design().bind(load(folder))
    together = target.generate(["a cat", "a dog"], [1, 2], steps=3).images
    torch.testing.assert_close(together[1:], target.generate(["a dog"], [2], steps=3).images, rtol=1e-3, atol=1e-4)


def test_half_precision_keeps_text_gradients_in_float32(folders: dict[str, Path]) -> None:
    from vlaudit.backends.diffusion_kinds import StableDiffusionXL

    model = load(folders["sdxl"])
    half = StableDiffusionXL("half", model.pipe.to(torch.bfloat16), [], "", CPU, {})
    target = Design().bind(half)
    assert torch.isfinite(target.generate(["a cat"], [1], steps=2).images).all()
    embeddings = target.token_embeddings(["a cat"]).requires_grad_()
    conditioning = target.encode(["a cat"], embeddings=embeddings)
    conditioning.tensors["prompt_embeds"].square().sum().backward()
    assert embeddings.grad is not None and embeddings.grad.dtype == torch.float32
    assert half.pipe.text_encoder.dtype == torch.bfloat16
    assert half.decode(half.encode_images(torch.rand(1, 3, 16, 16))).dtype == torch.float32
    assert half.pipe.vae.dtype == torch.bfloat16


def test_reloading_draws_the_same_and_the_fingerprint_is_of_all_weights(copied: Path) -> None:
    model = load(copied)
    drawn = Design().bind(model).generate(["a cat"], [1], steps=2).images
    again = load(copied)
    assert again.sha256 == model.sha256
    assert torch.equal(Design().bind(again).generate(["a cat"], [1], steps=2).images, drawn)
    path = copied / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert load(copied).sha256 != model.sha256
    listed = {str(path.relative_to(copied)) for path in DiffusersBackend().files(str(copied))}
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"} <= listed


def test_sampling_settings_beside_the_pipeline_win(copied: Path) -> None:
    assert (load(copied).steps, load(copied).guidance) == (50, 7.5)
    (copied / "sampling.json").write_text(json.dumps({"num_inference_steps": 3, "guidance_scale": 1}))
    model = load(copied)
    assert (model.steps, model.guidance, model.guided) == (3, 1.0, False)
    target = Design().bind(model)
    target.generate(["a cat"], [1])
    assert target.meter.queries == 3
    for bad in ({"steps": 3}, {"num_inference_steps": 0}, {"guidance_scale": "high"}):
        (copied / "sampling.json").write_text(json.dumps(bad))
        with pytest.raises(ModelError, match="sampling"):
            load(copied)


def test_half_precision_variants_are_found(copied: Path) -> None:
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        plain = copied / part / f"{name}.safetensors"
        halves = {key: value.half() for key, value in load_file(plain).items()}
        save_file(halves, copied / part / f"{name}.fp16.safetensors", metadata={"format": "pt"})
    both = load(copied)
    for path in list(copied.rglob("*.safetensors")):
        if ".fp16." not in path.name:
            path.unlink()
    only = load(copied)
    assert only.denoiser.dtype == torch.float32 and only.sha256 != both.sha256
    first, second = (next(model.denoiser.parameters()) for model in (both, only))
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-3)


def _custom(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])


def _foreign(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["my_unet", "MyUNet"])


def _outside(folder: Path) -> None:
    edit(folder / "model_index.json", **{"../unet": ["diffusers", "UNet2DConditionModel"]})


def _code(folder: Path) -> None:
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit")


def _unknown(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="StableCascadeDecoderPipeline")


def _missing(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _no_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _bad_config(folder: Path) -> None:
    edit(folder / "unet" / "config.json", block_out_channels=[32])


def _cut(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _no_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _unet_gap(folder: Path) -> None:
    _drop(folder / "unet" / "diffusion_pytorch_model.safetensors")


def _text_gap(folder: Path) -> None:
    _drop(folder / "text_encoder" / "model.safetensors")


def _drop(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[3]]
    save_file(tensors, path, metadata={"format": "pt"})


def _part_class(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["diffusers", "NoSuchUNet"])


def _tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")


def _scheduler(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="dreams")


BROKEN = {
    _custom: "custom pipeline", _foreign: "my_unet", _outside: "damaged", _code: "my_unet.py", _unknown: "StableCascade",
    _missing: "vae", _no_index: "model_index", _no_json: "not JSON", _bad_config: "could not be loaded",
    _cut: "not a readable safetensors", _no_weights: "holds no weights", _tokenizer: "could not be loaded", _scheduler: "dreams",
    _unet_gap: "would be random", _text_gap: "would be random", _part_class: "NoSuchUNet",
}  # fmt: skip


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda function: function.__name__)
def test_broken_and_foreign_pipelines_are_refused_in_one_sentence(
    copied: Path, breakage: Callable[[Path], None]
) -> None:
    breakage(copied)
    with pytest.raises(ModelError, match=BROKEN[breakage]) as caught:
        load(copied)
    assert "\n" not in str(caught.value) and caught.value.cure


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_that_runs_code_is_not_opened_and_a_plain_one_is(copied: Path) -> None:
    safe = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(safe)
    safe.unlink()
    pickled = copied / "unet" / "diffusion_pytorch_model.bin"
    torch.save(weights, pickled)
    assert torch.isfinite(Design().bind(load(copied)).generate(["a cat"], [1], steps=1).images).all()
    pickled.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeFileError, match="exec"):
        load(copied)


def test_what_a_pipeline_lacks_is_no_capability(folders: dict[str, Path], copied: Path) -> None:
    whole = load(folders["sd1"]).capabilities
    assert {Needs.GENERATED_PICTURES, Needs.NOISE_PREDICTIONS, Needs.IMAGE_LATENTS, Needs.TEXT_FEATURES} <= whole
    edit(copied / "model_index.json", vae=[None, None])
    blind = load(copied)
    assert whole - blind.capabilities == {Needs.GENERATED_PICTURES, Needs.IMAGE_LATENTS}
    target = Design().bind(blind)
    assert target.denoise(blind.noise([0]), 10, ["a cat"]).shape == (1, 4, *blind.latent_shape[1:])
    edit(copied / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    mute = load(copied)
    assert mute.capabilities == {Needs.FILES}
    with pytest.raises(CapabilityError, match="text encoder"):
        Design().bind(mute).generate(["a cat"], [1])


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "nothing")
    assert DiffusersBackend().is_remote("org/name") and DiffusersBackend().files("org/name") == []
    with pytest.raises(ModelError, match="could not be downloaded"):
        DiffusersBackend().load("org/name", CPU)


def test_a_safety_checker_that_blacks_out_is_reported(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = CLIPConfig(vision_config={**tower, "image_size": 30, "patch_size": 15}, projection_dim=32)
    checker = StableDiffusionSafetyChecker(config)
    processor = CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    parts = {"safety_checker": checker, "feature_extractor": processor}
    for threshold, blocked in ((-2.0, True), (2.0, False)):  # of cosines: everything, nothing
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(2.0)
        folder = tiny_pipelines.stable_diffusion(tmp_path / str(blocked), **parts)
        drawn = Design().bind(load(folder)).generate(["a cat", "a dog"], [1, 2], steps=2)
        assert drawn.blocked == [blocked] * 2
        assert bool((drawn.images == 0).all()) is blocked


def test_hostile_texts(folders: dict[str, Path]) -> None:
    """Empty, far too long, or in another script: all drawn, and what was cut is told once."""
    target = Design().bind(load(folders["sd1"]))
    long = "a red cat " * 1000
    with pytest.warns(UserWarning, match=r"reads 16 tokens; the last 2986 "):
        drawn = target.generate(["", long, "красный кот 🐱 \u202e"], [1, 2, 3], steps=1)
    assert torch.isfinite(drawn.images).all() and len(drawn.images) == 3
    assert target.truncated == {long: 2986}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.generate([long, "a cat"], [4, 5], steps=1)
