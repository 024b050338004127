"""What the config files of a model or prompt folder ask of the library that reads them: code, the network, another folder,
or more than the weights beside them can hold. It is found before any library reads the folder.

Keys are looked for at any depth. The lists name what installed versions of transformers, diffusers, open_clip, timm and peft
act upon; an entry that none of them reads is let through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError
from vlaudit.files import Unreadable, read_json_object
from vlaudit.inspection.patterns import pattern_problem
from vlaudit.inspection.quantisation import quantisation_problem

CODE = frozenset({
    "trust_remote_code", "custom_pipeline", "custom_pipelines", "custom_generate", "custom_modules", "megatron_config",
})  # fmt: skip
"""Entries that ask for Python code of the folder, of the hub, or of a module that they name."""
ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "experts_implementation"})
HUB_DECODING = {"penalty_alpha": 0, "num_beam_groups": 1, "dola_layers": 0, "constraints": 0, "force_words_ids": 0}
"""Ways of generating whose code transformers 5 takes from the hub, and the value up to which each is off."""
CLASSES = frozenset({
    "tokenizer_class", "processor_class", "image_processor_type", "image_processor_class", "feature_extractor_type",
    "feature_extractor_class", "video_processor_type", "video_processor_class",
})  # fmt: skip
TIMM = frozenset({"timm_model_name", "architecture", "backbone"})
SOURCE = re.compile(r"\s*(hf[-_]hub|local-dir|https?|file|ftp|s3)\s*:", re.IGNORECASE)
TIMM_ARGUMENTS = frozenset({
    "act_layer", "block_size", "channels", "class_token", "depth", "depths", "dim", "dims", "do_pooling", "drop_path_rate",
    "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "final_norm", "fc_norm", "global_pool",
    "img_size", "in_chans", "inference_mode", "init_values", "layers", "mlp_ratio", "mlp_ratios", "no_embed_class", "norm_layer",
    "num_classes", "num_heads", "num_reg_tokens", "output_stride", "patch_size", "pool_type", "pos_embed", "pre_norm", "qk_norm",
    "qkv_bias", "ref_feat_shape", "reg_tokens", "rope_grid_indexing", "rope_grid_offset", "rope_mixed_mode", "rope_temperature",
    "swiglu_mlp", "use_abs_pos_emb", "use_fc_norm", "use_post_transformer_norm", "use_pre_transformer_norm", "use_rope_reg_tokens",
    "use_rot_pos_emb", "window_size",
})  # fmt: skip
"""What a config may hand to timm's models: their own sizes and switches, nothing that ``timm.create_model`` itself takes."""

COUNTED = re.compile(r"(^|_)(n_)?(layers?|blocks?|depths?|experts|stages|labels|queries)(_per_\w+)?$|^layers_")
COUNTS = 1024  # layers and the like that any model may have
PICTURE = re.compile(r"^(image_size|img_size|crop_size|size|height|width|resolution|sample_size)$")
SIDE = 16_384  # pixels; the largest side of a picture that a model may want
DEPTH = 200  # levels of nesting, far below where a library's own recursion ends


def read_config(path: Path, cure: str = "Save the model again with its own library.") -> dict[str, Any]:
    """The object in a JSON config. Raises ModelError in one sentence for a file that is not there, no regular file, or
    anything else than an object of ordinary depth."""
    try:
        content = read_json_object(path)
        if any(depth > DEPTH for _, _, _, depth in _entries(content)):
            raise Unreadable("is nested too deeply")
    except Unreadable as error:
        raise ModelError(f"'{path}' {error}.", cure) from error
    return content


def config_problems(content: object) -> list[str]:
    """What a config, as parsed JSON, asks for that its loader must not do: code to be run. Empty if nothing."""
    found: dict[str, None] = {}
    for key, value, _, _ in _entries(content):
        if key == "auto_map" and value:
            found["asks for Python files of the model folder to be run (auto_map); vlaudit never does"] = None
        elif problem := _code(key, value):
            found[problem] = None
    return list(found)


def refuse_requests(path: Path, content: object) -> None:
    """Raise ModelError where a config makes its loader run code, reach the hub or open another folder.

    ``auto_map`` beside a kind that the library knows does not: every loader is called without ``trust_remote_code``.
    """
    for key, value, owner, _ in _entries(content):
        problem = _code(key, value) or _elsewhere(path, key, value, owner)
        if problem:
            raise ModelError(
                f"'{path}' {problem}.",
                "Ask its author for a folder that is complete in itself, or take the entry out of a copy of it.",
            )


def refuse_counts(path: Path, content: object, tensors: int) -> None:
    """Raise ModelError where a config names more layers, or larger pictures, than can be meant: building them would not end.

    tensors: how many the weights hold; every layer has one at least.
    """
    limit = max(tensors, COUNTS)
    for key, value, owner, _ in _entries(content):
        values = value if isinstance(value, list) else [value]
        largest = max((number for number in values if isinstance(number, int | float)), default=0)
        count = max(len(values), largest if COUNTED.search(key) else 0)
        if count > limit:
            raise ModelError(
                f"'{path}' wants {count:.12g} of '{key}', but its weights hold {tensors:,} tensors.",
                "Compare the config with the original's.",
            )
        if largest > SIDE and (PICTURE.match(key) or (key == "shortest_edge" and len(owner) == 1)):
            raise ModelError(
                f"'{path}' wants pictures of {largest:.12g} pixels a side ({key}).",
                f"vlaudit shows pictures of up to {SIDE:,} pixels a side.",
            )


def pattern_fault(config: Mapping[str, Any]) -> str:
    """What is wrong with the patterns of a peft config, which are matched against the names of all modules, as the rest of a
    sentence that the file's name begins; "" if nothing."""
    for key in ("rank_pattern", "alpha_pattern"):
        table = config.get(key) or {}
        if not isinstance(table, dict) or not all(isinstance(n, int | float) and 0 < n < 1e9 for n in table.values()):
            return f"has a {key} that does not give each pattern a number above 0"
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern",
                "target_parameters"):  # fmt: skip
        value = config.get(key) or []
        for pattern in [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else [None]:
            problem = pattern_problem(pattern) if isinstance(pattern, str) else "is no text"
            if problem:
                return f"has a pattern in {key} that {problem}"
    return ""


def _entries(content: object) -> Iterator[tuple[str, Any, Mapping[str, Any], int]]:
    """Every key of a parsed JSON value at any depth, with its value, the object that it stands in, and the depth."""
    stack: list[tuple[object, int]] = [(content, 1)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield str(key), inner, value, depth
                if isinstance(inner, dict | list):
                    stack.append((inner, depth + 1))
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value if isinstance(inner, dict | list)]


def _code(key: str, value: Any) -> str:
    """How a config asks for code to be run, as the rest of a sentence that its name begins; "" if it does not."""
    if key in CODE and value:
        return f"asks for Python code from elsewhere to be run ({key}); vlaudit never does"
    if key == "_class_name" and isinstance(value, list):
        return f"asks for Python files of the model folder to be run ({key} {value}); vlaudit never does"
    if key in ATTENTION and any("/" in str(name) for name in (value.values() if isinstance(value, dict) else [value])):
        return f"asks for compiled code from the hub to be run ({key}); vlaudit never does"
    return ""


def _elsewhere(path: Path, key: str, value: Any, owner: Mapping[str, Any]) -> str:
    """How a config sends its loader to the hub, another folder or another package; "" if it does not."""
    if key == "hf_model_name" and value:
        return f"takes its text tower from the hub (hf_model_name {str(value)[:80]!r})"
    if key in TIMM and isinstance(value, str):
        kind = owner.get("model_type")
        if any(mark in value for mark in ":/\\") or (key == "backbone" and value and kind != "timm_backbone"):
            return f"takes a part of the model from elsewhere ({key} {value[:80]!r})"
    if isinstance(value, str) and key.endswith("model_name") and SOURCE.match(value):
        return f"takes a part of the model from elsewhere ({key} {value[:80]!r})"
    if key in {"use_pretrained_backbone", "backbone_kwargs", "audio_tokenizer", "audio_tokenizer_name_or_path"} and value:
        return f"takes a part of the model from elsewhere ({key})"
    if key == "quantization_config" and value:
        return quantisation_problem(value)
    if key == "model_args" and value:
        foreign = sorted(set(value) - TIMM_ARGUMENTS) if isinstance(value, dict) else ["a list"]
        return f"hands unknown options to timm (model_args: {', '.join(map(str, foreign[:3]))})" if foreign else ""
    if key in CLASSES and isinstance(value, str) and value and not value.isidentifier():
        return f"names something that is no class of its library ({key} {value[:80]!r})"
    if key == "init_inputs" and value:
        return "hands unnamed options to its tokenizer (init_inputs)"
    if key in HUB_DECODING and _above(value, HUB_DECODING[key]):
        return f"asks for a way of generating that lies on the hub ({key})"
    if key.endswith("_file") and key != "special_tokens_map_file" and isinstance(value, str) and _outside(path, value):
        return f"names a file outside its folder ({key} {value[:80]!r})"
    return ""


def _above(value: Any, off: int) -> bool:
    return value > off if isinstance(value, int | float) else bool(value)


def _outside(path: Path, value: str) -> bool:
    """Whether the name of a file leads out of the config's folder to something that exists, or climbs out of it."""
    if ".." in Path(value).parts or SOURCE.match(value):
        return True
    return os.path.isabs(value) and os.path.lexists(value) and not Path(value).is_relative_to(path.parent.absolute())
