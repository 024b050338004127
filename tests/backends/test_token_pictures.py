"""Pictures drawn as tokens: aMUSEd in diffusers, Janus in transformers. What is drawn is what their own calls draw, and what takes a denoiser
is lacking by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import generators, tiny_pipelines
from tests.tiny_pipelines import WORDS
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.prompts.design import Design
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family, Needs

CPU = torch.device("cpu")
CAPTIONS, SEEDS = ["a red cat", "the dog"], [1, 2]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"amused": tiny_pipelines.amused(tmp_path_factory.mktemp("amused")), "janus": generators.save("janus", tmp_path_factory.mktemp("janus"))}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {"amused": DiffusersBackend().load(str(folders["amused"]), CPU), "janus": HuggingFaceBackend().load(f"{folders['janus']}#drawing", CPU)}


@pytest.fixture(params=["amused", "janus"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_amused_draws_what_its_own_call_draws(models: dict[str, Any]) -> None:
    model = models["amused"]
    found = Design().bind(model).generate(CAPTIONS, SEEDS).images
    for row, (caption, seed) in enumerate(zip(CAPTIONS, SEEDS, strict=True)):
        own = model.pipe(caption, generator=torch.Generator().manual_seed(seed), output_type="pt", num_inference_steps=model.steps,
                         guidance_scale=model.guidance).images  # fmt: skip
        torch.testing.assert_close(found[row], own[0], atol=1e-5, rtol=1e-4)


def test_janus_draws_what_its_own_call_draws(models: dict[str, Any], folders: dict[str, Path]) -> None:
    from transformers import AutoProcessor, JanusForConditionalGeneration

    own, processor = (kind.from_pretrained(folders["janus"]) for kind in (JanusForConditionalGeneration, AutoProcessor))
    own.generation_config.generation_kwargs = {"boi_token_id": processor.tokenizer.convert_tokens_to_ids("<begin_of_image>")}
    found = Design().bind(models["janus"]).generate(CAPTIONS, SEEDS).images
    for row, (caption, seed) in enumerate(zip(CAPTIONS, SEEDS, strict=True)):
        turns = [{"role": "user", "content": [{"type": "text", "text": caption}]}]
        inputs = processor(text=processor.apply_chat_template(turns, add_generation_prompt=True), generation_mode="image", return_tensors="pt")
        torch.manual_seed(seed)
        drawn = own.decode_image_tokens(own.generate(**inputs, generation_mode="image", do_sample=True, guidance_scale=5))
        picture = processor.postprocess(list(drawn.float()), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found[row], picture / 255, atol=1.5 / 255, rtol=0)  # it cuts to 8 bits
    assert float((found[0] - found[1]).abs().max()) > 0.05


def test_a_picture_depends_on_its_caption_and_seed_alone(models: dict[str, Any], kind: str) -> None:
    target = Design().bind(models[kind])
    together = target.generate([*CAPTIONS, "a bird"], [1, 2, 3]).images
    state = torch.get_rng_state()
    alone = target.generate(["the dog"], [2]).images
    assert torch.equal(torch.get_rng_state(), state), "the global generator is as it was"
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)
    tokens = [target.generate(["the dog"], [seed], latents_only=True).images for seed in (2, 7)]
    assert not torch.equal(*tokens)
    side = models[kind].resolution
    assert together.shape == (3, 3, side, side) and together.min() >= 0 and together.max() <= 1


def test_tokens_decode_to_the_picture_and_passes_are_counted(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    target = Design().bind(model)
    tokens = target.generate(CAPTIONS, SEEDS, latents_only=True).images
    assert tokens.shape == (2, *model.latent_shape[1:]) and not tokens.is_floating_point()
    assert target.meter.queries == 2 * model.steps * 2 and target.meter.decoded == 0
    torch.testing.assert_close(model.decode(tokens), target.generate(CAPTIONS, SEEDS).images)


def test_first_steps_differ_by_text(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    scores = model.first_step(model.encode_texts(["a red cat", "the dog", "a red cat"]))
    torch.testing.assert_close(scores[0], scores[2], atol=1e-4, rtol=1e-3)
    assert float((scores[0] - scores[1]).abs().max()) > 1e-3


def test_what_takes_a_denoiser_is_lacking_by_name(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    assert Needs.GENERATED_PICTURES in model.capabilities
    assert not model.capabilities & {Needs.NOISE_PREDICTIONS, Needs.IMAGE_LATENTS, Needs.CROSS_ATTENTION}
    assert (Needs.TEXT_FEATURES in model.capabilities) == (kind == "amused")
    for call in (lambda: model.denoise(torch.zeros(1), 1, None), model.sampling_timesteps, lambda: model.encode_images(torch.zeros(1, 3, 8, 8)),
                 lambda: model.denoising_loss(torch.zeros(1), None, torch.Generator())):  # fmt: skip
        with pytest.raises(CapabilityError, match="draws pictures as tokens and has no"):
            call()
    with pytest.raises(UsageError):
        parse_prompt("prompt-to-prompt:edit=a painting of {},source={}", Family.TEXT_TO_IMAGE).bind(model)


def test_a_personal_token_acts_on_amused(models: dict[str, Any]) -> None:
    from vlaudit.prompts.textual_inversion import TextualInversion

    prompt = TextualInversion([torch.randn(2, 32, generator=torch.Generator().manual_seed(0))], "<toy>", noun="dog")
    plain, own = (one.bind(models["amused"]).generate(CAPTIONS, SEEDS).images for one in (Design(), prompt))
    assert float((plain[1] - own[1]).abs().max()) > 1e-3 and torch.allclose(plain[0], own[0], atol=1e-4)
    with pytest.raises(UsageError):
        prompt.bind(models["janus"])


def test_a_target_is_checked_and_timed(models: dict[str, Any], kind: str) -> None:
    class Captions:
        labels, examples, captions = (), (), tuple(WORDS[:6])

    target = Design().bind(models[kind])
    target.check(Captions())  # type: ignore[arg-type]
    speed = target.calibrate(Captions())  # type: ignore[arg-type]
    assert speed.forward > 0 and speed.decoded > 0 and (speed.text > 0) == (kind == "amused")


def test_memory_that_is_short_cuts_what_is_drawn(models: dict[str, Any], kind: str) -> None:
    model = models[kind]
    target = Design().bind(model)
    whole = target.generate([*CAPTIONS, "a bird"], [1, 2, 3]).images
    model.cut.most = 1
    try:
        torch.testing.assert_close(target.generate([*CAPTIONS, "a bird"], [1, 2, 3]).images, whole, atol=1e-5, rtol=1e-4)
    finally:
        model.cut.most = None


def test_who_does_not_draw_says_so(tiny_clip: Path, folders: dict[str, Path]) -> None:
    backend = HuggingFaceBackend()
    assert backend.family(f"{folders['janus']}#drawing") is Family.TEXT_TO_IMAGE and backend.family(str(folders["janus"])) is Family.GENERATION
    with pytest.raises(ModelError, match="does not draw"):
        backend.load(f"{tiny_clip}#drawing", CPU)
