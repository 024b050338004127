"""Precision: what is asked for is loaded, all that comes out is float32, and what it costs is measured and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import generators, tiny_pipelines
from vlaudit.backends import base, precision
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.backends.transformers_checks import Measured, close
from vlaudit.backends.transformers_reader import noise
from vlaudit.device import Loading, pick_device
from vlaudit.errors import ModelError, UsageError
from vlaudit.families.generation import Conversation, LearnedPrefix, Turn
from vlaudit.families.matching import SoftTokens
from vlaudit.inspection.folder import ModelFolder
from vlaudit.prompts.template import Template
from vlaudit.records import Needs
from vlaudit.zoo import folder as zoo

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return generators.save("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("sd"))


def test_auto_halves_generators_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    how = Loading()
    assert how.precision(CPU, torch.bfloat16) == torch.float32
    assert [how.precision(CUDA, stored) for stored in (torch.float16, torch.bfloat16)] == [torch.float16, torch.bfloat16]
    assert how.precision(CUDA, torch.bfloat16, halves=False) == torch.float32
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert how.precision(CUDA, torch.float32) == how.precision(CUDA) == expected
    assert Loading("fp32").precision(CUDA, torch.bfloat16) == torch.float32
    assert Loading("fp16").precision(CPU, halves=False) == torch.float16


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("backend", ["hf", "open_clip"])
def test_matchers_keep_scale_and_gradients(backend: str, dtype: Any, tiny_clip: Path) -> None:
    own, argument = (HuggingFaceBackend(), str(tiny_clip)) if backend == "hf" else (OpenCLIPBackend(), f"local-dir:{zoo('flagship')}")
    plain, model = own.load(argument, CPU), own.load(argument, CPU, Loading(dtype))
    assert plain.dtype == "float32" and not plain.remarks
    assert model.dtype == {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert next(model._model.parameters()).dtype.itemsize == 2
    (remark,) = model.remarks
    assert "probabilities of texts differ" in remark and "gradients point the same way" in remark
    assert model.logit_scale == plain.logit_scale  # 100 is 98.9 in bfloat16
    pixels = torch.rand(2, 3, model.resolution, model.resolution, requires_grad=True)
    logits = Template("{}").bind(model).classifier(["a cat", "a dog"])(pixels)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum() - logits[:, 1].sum(), pixels)
    assert logits.dtype == gradient.dtype == torch.float32 and gradient.abs().max() > 0
    table = model.token_embeddings([1, 2])
    assert table.dtype == torch.float32
    sequence = model.tokenize("a cat")
    soft = SoftTokens(model.token_embeddings(sequence.ids[1:2]).requires_grad_(), [[1]])
    torch.testing.assert_close(model.encode_tokens([sequence], soft), model.encode_tokens([sequence]))  # its own, put in by hand
    assert model.encode_tokens([sequence], soft).requires_grad


def test_what_a_model_computes_itself_is_not_rounded() -> None:
    """Rotary frequencies in 16 bits turn positions into others."""
    module = torch.nn.Linear(2, 2)
    module.register_buffer("frequencies", torch.tensor([1.001]), persistent=False)
    module.register_buffer("mean", torch.tensor([1.001]))
    precision.cast(module, torch.bfloat16)
    assert module.weight.dtype == module.mean.dtype == torch.bfloat16
    assert module.frequencies.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_generators_do_in_16_bits_what_they_do_in_32(dtype: Any, llava: Path) -> None:
    plain, model = HuggingFaceBackend().load(str(llava), CPU), HuggingFaceBackend().load(str(llava), CPU, Loading(dtype))
    assert Measured.of(model) == Measured.of(plain)
    assert len(model.remarks) == 1 and "probabilities of an answer's tokens differ" in model.remarks[0]
    picture = model.preprocess(noise(50, 40))
    talk = Conversation((Turn("user", (picture, "what is this")),))
    (table,), (expected,) = (each.token_log_probs([talk], ["a cat"]) for each in (model, plain))
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, expected, atol=0.05, rtol=0.05)
    keys = model.keys_values([2, 5])
    assert keys.dtype == model.token_embeddings([2]).dtype == model.attention([talk], ["a cat"])[0].dtype == torch.float32
    learned = Conversation(talk.turns, LearnedPrefix(keys_values=keys.requires_grad_()))
    (gradient,) = torch.autograd.grad(model.log_likelihood([learned], [["a cat"]]).sum(), keys)
    assert gradient.dtype == torch.float32 and gradient.abs().max() > 0
    assert len(model.generate([talk])) == 1


def test_a_wrong_distribution_is_told_from_a_rounded_one() -> None:
    logits = torch.randn(1, 3, 50, generator=torch.Generator().manual_seed(0)) * 3
    rounded = logits.bfloat16().float().log_softmax(-1)
    assert close(rounded, logits, exact=False) and not close(rounded, logits)
    assert not close((logits + 0.3 * torch.randn_like(logits) * 3).log_softmax(-1), logits, exact=False)
    assert not close(torch.full_like(logits, torch.nan), logits, exact=False)


@pytest.mark.parametrize("trained", [False, True])
def test_gradients_that_are_not_finite_are_said(trained: bool, tmp_path: Path) -> None:
    """BLIP-2's learned queries begin at zero, where its layer norms (eps 1e-12) overflow float16."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    folder = generators.save("blip-2", tmp_path)
    if trained:
        weights = load_file(folder / "model.safetensors")
        for name, tensor in weights.items():
            if name == "query_tokens" or (name.startswith("vision_model") and tensor.dim() > 1):
                tensor.normal_(std=0.2)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    plain, model = HuggingFaceBackend().load(str(folder), CPU), HuggingFaceBackend().load(str(folder), CPU, Loading("fp16"))
    assert Needs.PIXEL_GRADIENTS in plain.capabilities and not plain.remarks
    assert (Needs.PIXEL_GRADIENTS in model.capabilities) is trained
    said = [remark for remark in model.remarks if "are not finite" in remark or "has no pixel gradients" in remark]
    assert len(said) == (0 if trained else 2)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_pipelines_are_compared_too(dtype: Any, pipeline: Path) -> None:
    model = DiffusersBackend().load(str(pipeline), CPU, Loading(dtype))
    assert next(model.denoiser.parameters()).dtype.itemsize == 2
    assert "predicted noise and pictures differ" in model.remarks[0]
    coded = model.encode_texts(["a cat"])
    predicted = model.denoise(torch.randn(1, *model.latent_shape), 500, coded)
    assert predicted.dtype == model.decode(predicted).dtype == next(iter(coded.tensors.values())).dtype == torch.float32


def test_a_model_that_16_bits_break_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_clip / "model.safetensors")
    name = "vision_model.post_layernorm.weight"
    weights[name] = weights[name] * 1e5  # finite in float32 and bfloat16, infinite in float16
    for file in tiny_clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert HuggingFaceBackend().load(str(tmp_path), CPU).dtype == "float32"
    with pytest.raises(ModelError, match=r"yields NaN in float16\. Use --dtype fp32"):
        HuggingFaceBackend().load(str(tmp_path), CPU, Loading("fp16"))


@pytest.mark.parametrize("shift", [0.1, 0.4])
def test_a_large_difference_is_refused(shift: float, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path) -> None:
    found = iter([torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5 - shift, 0.5 + shift]])])
    monkeypatch.setattr(precision, "outputs", lambda model: precision.Outputs("outputs", next(found)))
    if shift > precision.LARGEST:
        with pytest.raises(ModelError, match=r"differ from those in float32 by up to 0\.4\. Use --dtype fp32"):
            HuggingFaceBackend().load(str(tiny_clip), CPU, Loading("bf16"))
    else:
        assert HuggingFaceBackend().load(str(tiny_clip), CPU, Loading("bf16")).remarks


@pytest.mark.parametrize(("values", "gradients", "kept"), [
    ([0.501, 0.499], [1.0, 0.01], True), ([0.52, 0.48], [1.0, 0.0], False), ([0.5, 0.5], [1.0, 0.2], False),
    ([float("nan"), 0.5], [1.0, 0.0], False),
])  # fmt: skip
def test_products_are_rounded_on_a_gpu_only_where_that_changes_next_to_nothing(
    values: list[float], gradients: list[float], kept: bool, monkeypatch: pytest.MonkeyPatch, tiny_clip: Path
) -> None:
    found = iter([
        precision.Outputs("outputs", torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])),
        precision.Outputs("outputs", torch.tensor([values]), torch.tensor([gradients])),
    ])  # fmt: skip
    asked: list[str] = []

    def outputs(model: Any) -> precision.Outputs:
        asked.append(model.cut.products)
        return next(found)

    monkeypatch.setattr(precision, "outputs", outputs)
    model = HuggingFaceBackend().load(str(tiny_clip), CPU)
    assert not asked and model.dtype == "float32"  # a processor has no TF32
    precision.round_products(model)
    assert asked == ["highest", "high"]
    assert model.cut.products == ("high" if kept else "highest")
    assert model.dtype == ("float32 (products in TF32)" if kept else "float32")
    assert ("with products in TF32" if kept else "without TF32") in model.remarks[-1]


def test_what_does_not_fit_in_float32_is_said_not_compared(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "room", lambda device: 1000)
    model = HuggingFaceBackend().load(str(tiny_clip), CPU, Loading("bf16"))
    assert "was not compared with float32" in model.remarks[0]


def test_weights_are_spread_where_asked_or_where_one_gpu_does_not_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    folder = ModelFolder(tmp_path, [tmp_path / "model.safetensors"], 1, 250)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for free, how, expected in (
        (5000, Loading(), {}), (5000, Loading(spread=True), {"device_map": "auto"}), (500, Loading(), {"device_map": "auto"}),
    ):  # fmt: skip
        monkeypatch.setattr(base, "room", lambda device, free=free: free)
        assert base.placing(folder, CUDA, how, "hf:x") == expected
        assert base.placing(folder, CPU, how, "hf:x") == {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert base.placing(folder, CUDA, Loading(spread=True), "hf:x") == {}


def test_a_model_that_its_loader_placed_stays_there() -> None:
    class Spread(torch.nn.Linear):
        hf_device_map = {"": 0}  # noqa: RUF012

        def to(self, *_: object) -> Any:
            raise AssertionError("moved")

    assert base.placed(Spread(1, 1), CPU).training is False


def test_attention_is_fused_where_nobody_asks_for_its_weights(llava: Path) -> None:
    model = HuggingFaceBackend().load(str(llava), CPU)
    assert isinstance(model, object) and model._model.config._attn_implementation == "sdpa"
    assert Needs.ATTENTION in model.capabilities


def test_all_gpus_need_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda:all' is not available"):
        pick_device("cuda:all")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:all") == torch.device("cuda")
