"""Pipelines where memory is short: a decode that does not fit repeats no sampling, tiles come before failure, models take turns on a GPU;
and pipelines of a few steps draw with any scheduler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests import tiny_pipelines
from vlaudit.backends import diffusion
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.cage import memory
from vlaudit.errors import CapabilityError, VlauditWarning
from vlaudit.families import passes
from vlaudit.families.text_to_image import TextToImageGenerator
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family

torch.set_num_threads(1)
CPU = torch.device("cpu")
CAPTIONS = ["a red cat", "the big dog", "a bird", "a small blue cat"]


def load(folder: Path) -> Any:
    return DiffusersBackend().load(str(folder), CPU)


def under(model: Any) -> TextToImageGenerator:
    target = parse_prompt("{}", Family.TEXT_TO_IMAGE).bind(model)
    assert isinstance(target, TextToImageGenerator)
    return target


class Checker(torch.nn.Module):
    """A safety checker that blacks out the second picture it is shown, as the real ones do."""

    def forward(self, images: Any, clip_input: Tensor) -> tuple[Any, list[bool]]:
        images = images.copy() if hasattr(images, "copy") else images.clone()
        images[1] = 0
        return images, [number == 1 for number in range(len(images))]


def test_a_decode_that_runs_out_of_memory_is_halved_and_nothing_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes out is what the pipeline's own call gives, its safety checker included."""
    model = load(tiny_pipelines.stable_diffusion(tmp_path))
    pipe, vae, sizes = model.pipe, model.pipe.vae, list[int]()
    monkeypatch.setattr(
        pipe, "run_safety_checker", lambda images, *_: Checker()(images, images), raising=True
    )  # what it asks CLIP's processor for is not at issue
    target = under(model)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    embeds, nothing = target.encode(CAPTIONS).tensors["prompt_embeds"], target.null().repeat(4).tensors["prompt_embeds"]
    own = pipe(prompt_embeds=embeds, negative_prompt_embeds=nothing, generator=generators, latents=model.noise(range(4)),
               num_inference_steps=2, guidance_scale=model.guidance, height=16, width=16, output_type="pt")  # fmt: skip
    plain = type(vae)._decode

    def decode(self: Any, latents: Tensor, *rest: Any, **more: Any) -> Any:
        if len(latents) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(latents))
        return plain(self, latents, *rest, **more)

    monkeypatch.setattr(type(vae), "_decode", decode)
    target.generate(CAPTIONS, range(4), steps=2)  # kinds of passes are measured
    before, _ = model.passes, sizes.clear()
    drawn = target.generate(CAPTIONS, range(4), steps=2)
    assert sizes == [1] * 4 and model.passes - before == 4 * 2 * 2
    assert drawn.blocked == [False, True, False, False] == own.nsfw_content_detected
    torch.testing.assert_close(drawn.images, own.images, rtol=1e-4, atol=1e-4)


def test_a_picture_that_does_not_fit_is_decoded_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_pipelines.stable_diffusion(tmp_path))
    latents = model.noise(range(4)).repeat(1, 1, 3, 3)
    model.latent_shape = tuple(latents.shape[1:])
    monkeypatch.setattr(diffusion, "SMALLEST_TILE", 8)
    with torch.no_grad():
        whole = model.decode(latents)
        monkeypatch.setattr(passes, "SMALL", 0)
        monkeypatch.setattr(memory, "room", lambda: 200_000)
        model.cut._costs.clear()
        with pytest.warns(VlauditWarning, match="in tiles"):
            tiles = model.decode(latents)
    assert model.pipe.vae.use_tiling and model.pipe.vae.tile_latent_min_size == 12
    assert tiles.shape == whole.shape
    assert 0 < float((tiles - whole).abs().mean()) < 0.1
    with torch.no_grad():
        model.encode_images(whole)  # is not warned of again, and does not fail


@pytest.mark.parametrize(("free", "placed"), [(10**9, "whole"), (None, "by turns"), (1000, "whole")])
def test_models_take_turns_on_a_gpu_that_cannot_hold_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, placed: str) -> None:
    pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(tiny_pipelines.stable_diffusion(tmp_path))
    sizes = [sum(p.nbytes for p in getattr(pipe, name).parameters()) for name in ("unet", "vae", "text_encoder")]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free or int(max(sizes) / diffusion.SHARE) + 8, 1 << 40))
    called: list[str] = []
    monkeypatch.setattr(type(pipe), "to", lambda self, device: called.append("whole"))
    monkeypatch.setattr(type(pipe), "enable_model_cpu_offload", lambda self, device: called.append("by turns"))
    assert diffusion._place(pipe, torch.device("cuda")) is (placed == "by turns")
    assert called == [placed]


def test_models_that_take_turns_give_no_gradient_across_them(tmp_path: Path) -> None:
    model = load(tiny_pipelines.stable_diffusion(tmp_path))
    model.offloaded, target = True, under(model)
    embeddings = target.token_embeddings(CAPTIONS).requires_grad_()
    read = target.encode(CAPTIONS, embeddings=embeddings)
    with pytest.raises(CapabilityError, match="does not fit on"):
        target.denoise(model.noise(range(4)), 500.0, read)
    assert torch.isfinite(target.denoise(model.noise(range(4)), 500.0, CAPTIONS)).all()


SCHEDULERS = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
              "LCMScheduler", "TCDScheduler"]  # fmt: skip


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_few_steps_with_any_scheduler(stable: Path, scheduler: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stable, tmp_path / "pipeline"))
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing", "steps_offset": 1}
    getattr(diffusers, scheduler)(**settings).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", scheduler]}))
    (folder / "sampling.json").write_text(json.dumps({"num_inference_steps": 4, "guidance_scale": 0.0}))
    _draws_few_steps(load(folder))


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_few_steps_of_other_kinds(kind: str, tmp_path: Path) -> None:
    folder = getattr(tiny_pipelines, kind)(tmp_path)
    (folder / "sampling.json").write_text(json.dumps({"num_inference_steps": 4, "guidance_scale": 0.0, "resolution": 16}))
    _draws_few_steps(load(folder))


def _draws_few_steps(model: Any) -> None:
    assert (model.steps, model.guidance, model.guided) == (4, 0.0, False)
    target = under(model)
    for steps in (1, 2, 8, None):
        before = target.meter.queries
        drawn = target.generate(CAPTIONS, range(4), steps=steps)
        assert target.meter.queries - before == 4 * (steps or 4)
        assert torch.isfinite(drawn.images).all() and drawn.images.std() > 0 and drawn.blocked == [False] * 4
        alone = target.generate(CAPTIONS[2:3], [2], steps=steps)
        torch.testing.assert_close(drawn.images[2:3], alone.images, rtol=1e-3, atol=1e-4)
        first = model.sampling_timesteps(steps)[0]
        assert torch.isfinite(target.predict_noise(model.noise([1]), first, CAPTIONS[:1])).all()
