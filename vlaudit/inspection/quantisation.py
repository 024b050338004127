"""Weights of few bits: what a ``quantization_config`` may say, and which package loads it.

It is data of whoever made the folder, and packages make objects of it by the names that it gives. So ways of quantising, their
keys and their values are closed lists: a number, a plain word, or a pattern for names of modules that surely ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from vlaudit.errors import ModelError
from vlaudit.inspection.patterns import pattern_problem

PACKAGES = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "torchao": {"torchao": "torchao"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
}
"""For each way: the modules that transformers asks for, and the packages that have them."""
_BITS = {"quant_method", "bits", "group_size", "desc_act", "sym", "format", "checkpoint_format", "true_sequential", "static_groups",
         "damp_percent", "lm_head", "act_group_aware", "pack_dtype"}  # fmt: skip
KEYS = {
    "bitsandbytes": {"quant_method", "load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "bnb_4bit_compute_dtype",
                     "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "llm_int8_threshold",
                     "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight", "llm_int8_skip_modules"},
    "torchao": {"quant_method", "quant_type", "default", "_type", "_data", "_version", "version", "modules_to_not_convert",
                "include_input_output_embeddings", "untie_embedding_weights", "quant_type_kwargs", "group_size", "granularity",
                "weight_dtype", "activation_dtype", "weight_granularity", "weight_scale_dtype", "weight_mapping_type", "mapping_type",
                "act_mapping_type", "layout", "use_hqq", "set_inductor_config", "dim", "axis", "block_size", "mm_config",
                "int4_packing_format", "int4_choose_qparams_algorithm", "intx_packing_format", "intx_choose_qparams_algorithm",
                "int8_packing_format", "packing_format", "kernel_preference", "activation_value_lb", "activation_value_ub",
                "emulate", "use_fast_accum", "pad_inner_dim", "weight_only_decode", "act_quant_scale"},
    "compressed-tensors": {"quant_method", "config_groups", "format", "global_compression_ratio", "ignore", "kv_cache_scheme",
                           "quantization_status", "version", "targets", "weights", "input_activations", "output_activations",
                           "num_bits", "type", "symmetric", "strategy", "group_size", "dynamic", "observer", "observer_kwargs",
                           "actorder", "block_structure", "scale_dtype", "zp_dtype", "sparsity_config", "transform_config"},
    "gptq": _BITS | {"tokenizer", "dataset", "meta", "model_seqlen", "block_name_to_quantize", "module_name_preceding_first_block",
                     "batch_size", "pad_token_id", "max_input_length", "cache_block_outputs", "use_cuda_fp16", "use_exllama",
                     "disable_exllama", "exllama_config", "modules_in_block_to_quantize", "version", "mse", "model_name_or_path",
                     "model_file_base_name", "is_marlin_format", "backend"},
    "awq": _BITS | {"zero_point", "q_group_size", "w_bit", "version", "backend", "modules_to_not_convert", "do_fuse", "meta"},
}  # fmt: skip
TYPES = frozenset({
    "torch.dtype", "Int8WeightOnlyConfig", "Int4WeightOnlyConfig", "IntxWeightOnlyConfig", "Float8WeightOnlyConfig",
    "Int8DynamicActivationInt8WeightConfig", "Int8DynamicActivationInt4WeightConfig", "Int8DynamicActivationIntxWeightConfig",
    "Int4DynamicActivationInt4WeightConfig", "Float8DynamicActivationFloat8WeightConfig", "Float8DynamicActivationInt4WeightConfig",
    "PerRow", "PerTensor", "PerGroup", "PerAxis", "PerToken", "PerBlock", "MappingType", "PlainLayout", "TensorCoreTiledLayout",
    "Float8MMConfig", "KernelPreference", "Int4PackingFormat", "Int4ChooseQParamsAlgorithm", "IntxPackingFormat",
    "IntxChooseQParamsAlgorithm", "Float8PackingFormat",
})  # fmt: skip
"""Classes that torchao may make of a config; it would call whatever its modules hold under a name."""
UNREAD = {"meta", "dataset", "tokenizer", "model_name_or_path", "model_file_base_name"}  # of how it was made: nothing that loads reads them
PATTERNS = {"llm_int8_skip_modules", "modules_to_not_convert", "ignore", "targets"}
NAMED = {"config_groups"}  # objects whose keys are names of their author's
WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")


def quantisation_problem(config: Any) -> str:
    """Why a model with this ``quantization_config`` is not loaded, as the rest of a sentence that its file's name begins; ""
    for one that may be loaded where its package is."""
    method = quantisation_of(config)
    if method is None:
        given = config.get("quant_method") if isinstance(config, dict) else None
        named = f"by {given[:40]!r}" if isinstance(given, str) else "in a way that it does not name"
        return f"is quantised {named}, which vlaudit does not load (it does {', '.join(PACKAGES)})"
    for key, items, owner in _entries(config, ""):
        if owner not in NAMED and key not in KEYS[method]:
            return f"has the unknown entry {key[:40]!r} in its quantization_config"
        for item in items:
            if key in PATTERNS and isinstance(item, str):
                if problem := pattern_problem(item.removeprefix("re:")):
                    return f"has a pattern in its quantization_config ({key}) that {problem}"
            elif isinstance(item, str) and (not WORD.fullmatch(item) or (key == "_type" and item not in TYPES)):
                return f"names {item[:80]!r} in its quantization_config ({key[:40]}), which may be code or a path"
    return ""


def quantisation_of(config: Any) -> str | None:
    """How a ``quantization_config`` says that weights are quantised, if it is one of the known ways."""
    if not isinstance(config, dict):
        return None
    if config.get("load_in_4bit") or config.get("load_in_8bit"):  # transformers looks at these first
        return "bitsandbytes"
    method = config.get("quant_method")
    return method if isinstance(method, str) and method in PACKAGES else None


def refuse_lacking(spec: str, method: str) -> None:
    """Raise ModelError where a package is not installed that loads such weights."""
    for module, package in PACKAGES[method].items():
        if find_spec(module) is None:
            raise ModelError(
                f"The weights of '{spec}' are quantised ({method}), and the package {package} is not installed.",
                f"Install it (pip install {package}), or give the model's plain weights.",
            )


def _entries(config: dict[str, Any], owner: str) -> Iterator[tuple[str, list[Any], str]]:
    """Each key at any depth with its values, those of lists among them, and the key of the object that it stands in."""
    for key, value in config.items():
        if key in UNREAD or value is None or value in ({}, []):
            continue
        items = _flat(value)
        yield str(key), [item for item in items if not isinstance(item, dict)], owner
        for item in items:
            if isinstance(item, dict):
                yield from _entries(item, str(key))


def _flat(value: Any) -> list[Any]:
    return [inner for item in value for inner in _flat(item)] if isinstance(value, list) else [value]
