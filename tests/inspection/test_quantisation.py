"""Quantised folders: what their configs may say, and which package is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.inspection.conftest import edit
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.errors import ModelError
from vlaudit.inspection import quantisation
from vlaudit.inspection.folder import inspect_transformers
from vlaudit.inspection.quantisation import quantisation_of, quantisation_problem

REAL: dict[str, dict[str, Any]] = {
    "bitsandbytes": {
        "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": ["lm_head", "multi_modal_projector"],
        "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
    },
    "torchao": {
        "include_input_output_embeddings": False, "modules_to_not_convert": None, "quant_method": "torchao",
        "quant_type": {"default": {
            "_type": "Int8WeightOnlyConfig", "_version": 2,
            "_data": {"granularity": {"_data": {"dim": -1}, "_type": "PerRow", "_version": 1}, "group_size": None},
        }},
        "untie_embedding_weights": False,
    },
    "compressed-tensors": {
        "config_groups": {"group_0": {
            "input_activations": None, "output_activations": None, "targets": ["Linear"],
            "weights": {
                "actorder": None, "block_structure": None, "dynamic": False, "group_size": 128, "num_bits": 4,
                "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int",
            },
        }},
        "format": "pack-quantized", "global_compression_ratio": None, "ignore": ["lm_head", "re:.*vision_tower.*"],
        "kv_cache_scheme": None, "moe_sparsity_config": None, "quant_method": "compressed-tensors",
        "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {}, "version": "0.20.1",
    },
    "gptq": {
        "batch_size": 1, "bits": 4, "block_name_to_quantize": "model.layers", "checkpoint_format": "gptq", "damp_percent": 0.1,
        "dataset": "c4", "desc_act": False, "group_size": 128, "lm_head": False, "quant_method": "gptq", "sym": True,
        "meta": {"quantizer": ["gptqmodel:1.4"], "uri": "https://github.com/modelcloud/gptqmodel"},
        "modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.v_proj"], ["mlp.down_proj"]], "pack_dtype": "int32",
    },
    "awq": {
        "bits": 4, "group_size": 128, "modules_to_not_convert": ["visual"], "quant_method": "awq", "version": "gemm",
        "zero_point": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("method", REAL)
def test_configs_as_people_have_them_are_let_through(method: str) -> None:
    assert quantisation_of(REAL[method]) == method
    assert quantisation_problem(REAL[method]) == ""


@pytest.mark.parametrize("value", ["a/b", "os.system('x')", "hf:x", "x" * 65, "..\\x"])
def test_what_may_be_code_or_a_path_is_named(value: str) -> None:
    for method, key in (("gptq", "backend"), ("awq", "version"), ("bitsandbytes", "bnb_4bit_compute_dtype")):
        assert value[:80] in quantisation_problem(REAL[method] | {key: value}).replace("\\\\", "\\")


def test_only_data_classes_of_torchao_are_made() -> None:
    config = json.loads(json.dumps(REAL["torchao"]).replace("PerRow", "autoquant"))
    assert "'autoquant'" in quantisation_problem(config)


def test_flags_that_transformers_looks_at_first_count() -> None:
    """A config may say one way and load another."""
    assert quantisation_of({"quant_method": "awq", "load_in_4bit": True}) == "bitsandbytes"
    assert "unknown entry" in quantisation_problem(REAL["awq"] | {"load_in_4bit": True})


def test_the_package_is_named_where_it_is_not_installed(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    for kind in ("clip", "generator"):
        folder = copy(kind)
        edit(folder / "config.json", quantization_config=REAL["gptq"])
        with pytest.raises(ModelError, match=r"quantised \(gptq\), and the package optimum is not installed"):
            HuggingFaceBackend().load(str(folder), torch.device("cpu"))


def test_packed_weights_hold_more_numbers_than_they_count(copy: Callable[[str], Path]) -> None:
    """A model of 4 bits is not refused as larger than its weights; the precision is that of what is not packed."""
    folder = copy("clip")
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    plain = inspect_transformers(folder)
    assert (plain.precision, plain.quantised) == ("F32", None)
    assert plain.elements == sum(tensor.numel() for tensor in weights.values())
    packed = {
        name: torch.zeros(tensor.numel() // 2, dtype=torch.uint8) if tensor.dim() > 1 else tensor.half()
        for name, tensor in weights.items()
    }
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", quantization_config=REAL["bitsandbytes"])
    quantised = inspect_transformers(folder)
    assert (quantised.precision, quantised.quantised) == ("F16", "bitsandbytes")
    assert quantised.elements >= plain.elements


@pytest.mark.skipif(quantisation.find_spec("torchao") is None, reason="needs torchao")
def test_a_quantised_generator_answers(tmp_path: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForImageTextToText, TorchAoConfig

    from tests import generators
    from vlaudit.records import Needs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain, folder = generators.save("llava", tmp_path / "plain"), tmp_path / "int8"
    how = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    AutoModelForImageTextToText.from_pretrained(plain, quantization_config=how, dtype=torch.float32).save_pretrained(folder)
    for file in plain.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    model = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
    assert model.dtype == "float32, weights quantised (torchao)"
    assert Needs.TOKEN_LOGITS in model.capabilities
