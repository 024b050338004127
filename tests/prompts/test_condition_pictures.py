"""ControlNets, inpainting and Custom Diffusion: what is drawn is what diffusers' own classes draw from the same seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny_pipelines
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.families.text_to_image import Conditioning
from vlaudit.prompts.controlnet import ControlNet
from vlaudit.prompts.custom_diffusion import CustomDiffusion
from vlaudit.prompts.design import Design
from vlaudit.prompts.inpainting import Inpainting
from vlaudit.prompts.lora import LoRA
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family

CPU = torch.device("cpu")
CAPTIONS, SEEDS = ["a photo of a dog", "the red cat"], [1, 2]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.sdxl,
    "sd3": lambda folder: tiny_pipelines.sd3(folder, layers=2, channels=16),  # the last takes nothing of a ControlNet
    "flux": tiny_pipelines.flux,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def exact_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws the VAE's latents of a given picture at random; the mode is what is compared."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: DiffusersBackend().load(str(make(tmp_path_factory.mktemp(name))), CPU) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sd(models: dict[str, Any]) -> Any:
    return models["sd1"]


def picture(path: Path, side: int, seed: int = 0, name: str = "picture.png") -> Path:
    pixels = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path / name)
    return path / name


def mask(path: Path, side: int) -> Path:
    image = Image.new("L", (side, side))
    image.paste(255, (0, 0, side // 2, side))
    image.save(path / "mask.png")
    return path / "mask.png"


def save_control(model: Any, kind: str, folder: Path) -> Path:
    """A random ControlNet of a pipeline's kind, none of whose layers is zero."""
    from diffusers import ControlNetModel, FluxControlNetModel, SD3ControlNetModel

    torch.manual_seed(1)
    if kind == "sd3":
        own = model.denoiser.config
        net: Any = SD3ControlNetModel(
            sample_size=8, patch_size=1, in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=own.joint_attention_dim, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
        )  # fmt: skip
    elif kind == "flux":
        net = FluxControlNetModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
        )  # fmt: skip
    else:
        net = ControlNetModel.from_unet(model.denoiser, conditioning_embedding_out_channels=(16, 32))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder)
    return folder


def draw(model: Any, prompt: Any = None, **options: Any) -> torch.Tensor:
    images: torch.Tensor = (prompt or Design()).bind(model).generate(CAPTIONS, SEEDS, steps=3, **options).images
    return images


def parse(spec: str) -> Any:
    return parse_prompt(spec, Family.TEXT_TO_IMAGE)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def test_a_controlnet_draws_what_diffusers_own_pipeline_draws(models: dict[str, Any], kind: str, tmp_path: Path) -> None:
    import diffusers
    from torchvision.transforms.functional import to_tensor

    model = models[kind]
    net = save_control(model, kind, tmp_path / "net")
    seen = picture(tmp_path, model.resolution)
    before = draw(model)
    mine = draw(model, parse(f"controlnet:file={net},picture={seen},scale=0.8"))
    name = {"sd1": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline",
            "sd3": "StableDiffusion3ControlNetPipeline", "flux": "FluxControlNetPipeline"}[kind]  # fmt: skip
    kind_of = getattr(diffusers, model._controls._kind)
    more = {"requires_safety_checker": False} if kind == "sd1" else {}
    own = getattr(diffusers, name)(**model.pipe.components, controlnet=kind_of.from_pretrained(net), **more)
    own.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn(model.latent_shape, generator=generator) for generator in generators()])
    shown = to_tensor(Image.open(seen))[None].expand(2, -1, -1, -1)
    call = {"image": shown} if kind in ("sd1", "sdxl") else {"control_image": 2 * shown - 1}
    theirs = own(CAPTIONS, latents=model._pack(noise), num_inference_steps=3, guidance_scale=model.guidance, output_type="pt",
                 height=model.resolution, width=model.resolution, controlnet_conditioning_scale=0.8, **call).images  # fmt: skip
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert float((mine - before).abs().max()) > 1e-3
    assert torch.equal(draw(model), before)  # it leaves nothing behind


def test_a_controlnet_with_layers_for_pixels_reads_them_as_the_pipeline_scales_them(models: dict[str, Any], tmp_path: Path) -> None:
    """Those of XLabs for Flux read the picture itself and not its latents."""
    from types import SimpleNamespace

    from torchvision.transforms.functional import to_tensor

    model, seen = models["flux"], Image.open(picture(tmp_path, 16))
    expected = model.pipe.image_processor.preprocess(seen)
    found = model._controls._condition(SimpleNamespace(input_hint_block=object()), to_tensor(seen)[None])
    torch.testing.assert_close(found, expected)


def test_predictions_are_conditioned_as_pictures_are(sd: Any, tmp_path: Path) -> None:
    target = parse(f"controlnet:file={save_control(sd, 'sd1', tmp_path / 'net')},picture={picture(tmp_path, sd.resolution)}").bind(sd)
    captions, timesteps = CAPTIONS, sd.sampling_timesteps(3)
    with torch.no_grad():
        latents = sd.noise(SEEDS)
        for step, t in enumerate(timesteps):
            text, nothing = target.denoise(latents, t, captions), target.denoise(latents, t, None)
            prediction = nothing + sd.guidance * (text - nothing)
            clean, noise = sd.to_sample(prediction, latents, t), sd.to_noise(prediction, latents, t)
            a, s = sd.noise_level(timesteps[step + 1] if step + 1 < len(timesteps) else torch.tensor(0))
            latents = a * clean + s * noise
    drawn = target.generate(captions, SEEDS, steps=3, latents_only=True).images
    torch.testing.assert_close(latents, drawn, rtol=2e-3, atol=2e-3 * float(drawn.abs().max()))


def test_a_controlnet_is_learned_saved_and_read_again(sd: Any, tmp_path: Path) -> None:
    side = sd.resolution
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(3))
    seen, folder = picture(tmp_path, side), tmp_path / "learned"
    prompt = ControlNet.fit(sd, folder, images, 1 - images, ["a cat"] * 4, seen, steps=4, rate=1e-2, batch_size=2, members=["ab"])
    assert float((draw(sd, prompt) - draw(sd)).abs().max()) > 1e-4
    again = parse(f"controlnet:file={folder},picture={seen}")
    assert again.members == ["ab"] and again.base_model == sd.sha256 and again.sha256() == prompt.sha256()
    twin = ControlNet.fit(sd, tmp_path / "twin", images, 1 - images, ["a cat"] * 4, seen, steps=4, rate=1e-2, batch_size=2)
    first, second = (load_file(path / "diffusion_pytorch_model.safetensors") for path in (folder, tmp_path / "twin"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert again.reference().wording("a dog") == "a dog"
    assert again.sha256() != ControlNet(folder, picture(tmp_path, side, 9, "other.png")).sha256() and twin.members == []


def test_a_controlnet_that_does_not_fit_is_refused_in_words(models: dict[str, Any], tmp_path: Path) -> None:
    sd = models["sd1"]
    net, seen = save_control(sd, "sd1", tmp_path / "net"), picture(tmp_path, sd.resolution)
    prompt = parse(f"controlnet:file={net},picture={seen}")
    with pytest.raises(UsageError, match="has the cross_attention_dim 32"):
        prompt.bind(models["sdxl"])
    with pytest.raises(UsageError, match="takes a FluxControlNetModel"):
        prompt.bind(models["flux"])
    with pytest.raises(UsageError, match=r"condition picture .* is 8 by 8 pixels, but .* draws 16 by 16"):
        parse(f"controlnet:file={net},picture={picture(tmp_path, 8, name='small.png')}").bind(sd)
    weights = load_file(net / "diffusion_pytorch_model.safetensors")
    save_file(dict(list(weights.items())[1:]), net / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match="lack or have besides 1 tensors"):
        parse(f"controlnet:file={net},picture={seen}").bind(DiffusersBackend().load(sd.spec.partition(":")[2], CPU))
    for spec, said in ((f"file={net}", "needs a condition picture"), (f"file={tmp_path / 'none'},picture={seen}", "not a folder"),
                       (f"file={net},picture={seen},scale=x", "no number"), (f"picture={seen}", "needs the folder")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse(f"controlnet:{spec}")
    with pytest.raises(CapabilityError, match="on a U-Net only"):
        models["flux"].fresh_control("x", 0)


def test_inpainting_draws_what_diffusers_own_pipeline_draws(models: dict[str, Any], kind: str, tmp_path: Path) -> None:
    from diffusers import AutoPipelineForInpainting

    model = models[kind]
    seen, where = picture(tmp_path, model.resolution), mask(tmp_path, model.resolution)
    before = draw(model)
    mine = draw(model, parse(f"inpainting:file={seen},mask={where},strength=0.7"))
    own = AutoPipelineForInpainting.from_pipe(model.pipe)
    theirs = own(CAPTIONS, image=[Image.open(seen)] * 2, mask_image=[Image.open(where)] * 2, strength=0.7, num_inference_steps=3,
                 guidance_scale=model.guidance, generator=generators(), output_type="pt", height=model.resolution,
                 width=model.resolution).images  # fmt: skip
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    assert float((mine - before).abs().max()) > 1e-3 and torch.equal(draw(model), before)


def test_a_denoiser_trained_for_inpainting_reads_what_is_kept(tmp_path: Path) -> None:
    """Drawn pictures are the pipeline's own, and single predictions make the same latents."""
    model = DiffusersBackend().load(str(tiny_pipelines.inpainter(tmp_path / "pipe")), CPU)
    seen, where = picture(tmp_path, model.resolution), mask(tmp_path, model.resolution)
    target, plain = parse(f"inpainting:file={seen},mask={where}").bind(model), Design().bind(model)
    noise = torch.stack([torch.randn(model.latent_shape, generator=generator) for generator in generators()])
    call = {"num_inference_steps": 3, "guidance_scale": model.guidance, "output_type": "latent", "latents": noise}
    theirs = model.pipe(CAPTIONS, image=[Image.open(seen)] * 2, mask_image=[Image.open(where)] * 2, **call).images
    torch.testing.assert_close(target.generate(CAPTIONS, SEEDS, steps=3, latents_only=True).images, theirs, atol=1e-4, rtol=1e-3)
    grey, white = Image.new("RGB", (16, 16), (128, 128, 128)), Image.new("L", (16, 16), 255)
    whole = model.pipe(CAPTIONS, image=[grey] * 2, mask_image=[white] * 2, **call).images
    torch.testing.assert_close(plain.generate(CAPTIONS, SEEDS, steps=3, latents_only=True).images, whole, atol=1e-4, rtol=1e-3)
    for one, end in ((target, theirs), (plain, whole)):
        timesteps = model.sampling_timesteps(3)
        with torch.no_grad():
            latents = model.noise(SEEDS)
            for step, t in enumerate(timesteps):
                text, nothing = one.denoise(latents, t, CAPTIONS), one.denoise(latents, t, None)
                prediction = nothing + model.guidance * (text - nothing)
                clean, left = model.to_sample(prediction, latents, t), model.to_noise(prediction, latents, t)
                a, s = model.noise_level(timesteps[step + 1] if step + 1 < len(timesteps) else torch.tensor(0))
                latents = a * clean + s * left
        torch.testing.assert_close(latents, end, rtol=2e-3, atol=2e-3 * float(end.abs().max()))


def test_inpainting_that_cannot_be_meant_is_refused_in_words(sd: Any, tmp_path: Path) -> None:
    seen, where = picture(tmp_path, sd.resolution), mask(tmp_path, sd.resolution)
    with pytest.raises(UsageError, match=r"mask .* is 8 by 8 pixels"):
        parse(f"inpainting:file={seen},mask={mask(tmp_path, 8)}").bind(sd)
    Image.new("L", (16, 16)).save(where)
    with pytest.raises(UsageError, match="dark everywhere"):
        parse(f"inpainting:file={seen},mask={where}")
    with pytest.raises(UsageError, match="needs a mask"):
        parse(f"inpainting:{seen}")


def custom(model: Any, folder: Path, seed: int = 5) -> Path:
    """A folder as diffusers' training of Custom Diffusion writes it, by diffusers' own processors."""
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

    torch.manual_seed(seed)
    state: dict[str, Any] = {}
    for name in model.denoiser.attn_processors:
        layer = model.denoiser.get_submodule(name.removesuffix(".processor"))
        if name.endswith("attn1.processor"):
            state[name] = {}  # as it was
            continue
        shape = {"hidden_size": layer.to_k.out_features, "cross_attention_dim": layer.to_k.in_features}
        one = CustomDiffusionAttnProcessor(train_kv=True, train_q_out=True, **shape)
        state |= {f"{name}.{key}": value for key, value in one.state_dict().items()}
    folder.mkdir()
    torch.save(state, folder / "pytorch_custom_diffusion_weights.bin")
    torch.save({"<new1>": torch.randn(32)}, folder / "<new1>.bin")
    return folder


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_custom_diffusion_draws_what_diffusers_own_loader_draws(models: dict[str, Any], kind: str, tmp_path: Path) -> None:
    model = models[kind]
    folder = custom(model, tmp_path / "cat")
    prompt = parse(f"custom-diffusion:file={folder},noun=dog")
    assert prompt.wording("a photo of a dog") == "a photo of a <new1> dog"
    before = draw(model)
    mine = draw(model, prompt)
    assert torch.equal(draw(model), before)
    other = DiffusersBackend().load(model.spec.partition(":")[2], CPU)
    other.pipe.unet.load_attn_procs(folder, weight_name="pytorch_custom_diffusion_weights.bin", _pipeline=other.pipe)
    with other.added_token("<new1>", [torch.load(folder / "<new1>.bin")["<new1>"][None]]):
        texts = other.encode_texts(prompt.bind(model).wording(CAPTIONS))
        theirs = other.sample(texts, SEEDS, nothing=other.encode_nothing(), steps=3).images
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert float((mine - before).abs().max()) > 1e-3


def test_custom_diffusion_is_learned_saved_and_read_again(sd: Any, tmp_path: Path) -> None:
    images = torch.rand(4, 3, sd.resolution, sd.resolution, generator=torch.Generator().manual_seed(3))
    own = {name: value.clone() for name, value in sd.denoiser.state_dict().items()}
    prompt = CustomDiffusion.fit(sd, images, token="<mine>", noun="dog", steps=4, batch_size=2, rate=1e-2, members=["ab"])
    assert all(torch.equal(value, own[name]) for name, value in sd.denoiser.state_dict().items()), "the pipeline is as it was"
    prompt.save(tmp_path / "mine")
    again = parse(f"custom-diffusion:file={tmp_path / 'mine'},noun=dog")
    assert again.members == ["ab"] and again.token == "<mine>" and len(again.weights) == len(prompt.weights) > 0
    torch.testing.assert_close(draw(sd, again), draw(sd, prompt))
    assert float((draw(sd, again) - draw(sd)).abs().max()) > 1e-4
    assert again.reference().wording("a <mine> dog") == "a dog"
    delta = {"unet": again.weights, "modifier_token": {"<mine>": again.vectors["<mine>"][0]}}
    torch.save(delta, tmp_path / "delta.bin")
    torch.testing.assert_close(draw(sd, parse(f"custom-diffusion:file={tmp_path / 'delta.bin'},noun=dog")), draw(sd, again))
    with pytest.raises(UsageError, match="another model"):
        again.bind(DiffusersBackend().load(str(tiny_pipelines.sdxl(tmp_path / "sdxl")), CPU))


def test_custom_diffusion_goes_with_an_adapter_that_another_prompt_left(models: dict[str, Any], tmp_path: Path) -> None:
    sd = DiffusersBackend().load(models["sd1"].spec.partition(":")[2], CPU)
    prompt = CustomDiffusion.load(custom(sd, tmp_path / "cat"), noun="dog")
    before = draw(sd, prompt)
    images = torch.rand(2, 3, sd.resolution, sd.resolution)
    LoRA.fit(sd, tmp_path / "lora.safetensors", images, ["a cat"] * 2, steps=1).bind(sd)
    torch.testing.assert_close(draw(sd, prompt), before)


def test_custom_diffusion_that_does_not_fit_is_refused_in_words(models: dict[str, Any], tmp_path: Path) -> None:
    sd = models["sd1"]
    folder = custom(sd, tmp_path / "cat")
    state = torch.load(folder / "pytorch_custom_diffusion_weights.bin")
    weights = {name: value for name, value in state.items() if "attn2" in name}
    with pytest.raises(UsageError, match="no cross-attention layers"):
        parse(f"custom-diffusion:{folder}").bind(models["flux"])
    torch.save({"<new2>": torch.randn(32)}, folder / "<new2>.bin")
    with pytest.raises(UsageError, match="2 personal tokens"):
        parse(f"custom-diffusion:{folder}")
    assert parse(f"custom-diffusion:file={folder},token=<new2>").token == "<new2>"
    torch.save({"dog": torch.randn(32)}, folder / "<new2>.bin")
    with pytest.raises(UsageError, match="already a word"):
        parse(f"custom-diffusion:file={folder},token=<new1>").bind(sd)
    (folder / "<new2>.bin").unlink()
    for content, said in (({**weights, "down_blocks.0.conv.weight": torch.ones(1)}, "holds more than"),
                          ({key: value[:-1].contiguous() for key, value in weights.items()}, r"is \(\d+, \d+\), and \("),
                          ({key: value * float("nan") for key, value in weights.items()}, "finite numbers")):  # fmt: skip
        save_file(content, folder / "pytorch_custom_diffusion_weights.safetensors")
        with pytest.raises(UsageError, match=said):
            parse(f"custom-diffusion:{folder}").bind(sd)


def test_conditioning_rows_survive_a_cut(sd: Any, tmp_path: Path) -> None:
    """A batch in parts sees the condition as a whole one does."""
    target = ControlNet(save_control(sd, "sd1", tmp_path / "net"), picture(tmp_path, sd.resolution)).bind(sd)
    latents, read = sd.noise(range(5)), Conditioning.cat([target.encode(["a cat"])] * 5)
    whole = target.denoise(latents, 500, read)
    sd.cut.most = 2
    try:
        torch.testing.assert_close(target.denoise(latents, 500, read), whole, atol=1e-5, rtol=1e-4)
    finally:
        sd.cut.most = None


def test_a_prompt_names_all_its_files(tmp_path: Path) -> None:
    seen, where = picture(tmp_path, 16), mask(tmp_path, 16)
    prompt = Inpainting(seen, where)
    assert prompt.info().sha256 != Inpainting(picture(tmp_path, 16, 3, "b.png"), where).info().sha256
