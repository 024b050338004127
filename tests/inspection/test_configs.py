"""Configs that ask for code, the hub, another folder or more than there is: refused before any library reads them, in one
sentence; what is only unusual still loads."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.inspection.conftest import edit, load
from vlaudit.errors import ModelError, UsageError
from vlaudit.inspection.configs import config_problems, pattern_problem

Copy = Callable[[str], Path]
TEXT, VISION = "model_cfg__text_cfg__", "model_cfg__vision_cfg__"
OPEN_CLIP, CONFIG, WORDS = "open_clip_config.json", "config.json", "tokenizer_config.json"
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
DUAL = {"model_type": "vision-text-dual-encoder", "architectures": ["VisionTextDualEncoderModel"], "text_config": BERT}


def timm(**tower: object) -> dict[str, object]:
    return {**DUAL, "vision_config": {"model_type": "timm_wrapper", **tower}}


HOSTILE: dict[str, tuple[str, str, dict[str, object]]] = {
    # code
    "trust in tokenizer_kwargs": ("open_clip", OPEN_CLIP, {f"{TEXT}tokenizer_kwargs": {"trust_remote_code": True}}),
    "trust in the text config": ("open_clip", OPEN_CLIP, {f"{TEXT}trust_remote_code": True}),
    "trust deep below": ("clip", CONFIG, {"text_config__a": [{"b": {"trust_remote_code": 1}}]}),
    "trust of the tokenizer": ("clip", WORDS, {"trust_remote_code": True}),
    "trust of a pipeline": ("pipeline", "model_index.json", {"trust_remote_code": True}),
    "trust of a part": ("pipeline", "unet/config.json", {"trust_remote_code": True}),
    "trust of a part's tokenizer": ("pipeline", "tokenizer/tokenizer_config.json", {"trust_remote_code": "yes"}),
    "custom pipeline": ("pipeline", "model_index.json", {"custom_pipeline": "someone/pipeline"}),
    "custom pipelines": ("clip", CONFIG, {"custom_pipelines": {"a": {"impl": "code.Pipe"}}}),
    "custom class": ("pipeline", "model_index.json", {"_class_name": ["code", "Pipe"]}),
    "custom class of a part": ("pipeline", "vae/config.json", {"_class_name": ["code", "Part"]}),
    "foreign part": ("pipeline", "model_index.json", {"unet": ["os", "system"]}),
    "part that is a function": ("pipeline", "model_index.json", {"unet": ["transformers", "pipeline"]}),
    "part that is a pipeline": ("pipeline", "model_index.json", {"unet": ["diffusers", "DiffusionPipeline"]}),
    "part that chooses its class": ("pipeline", "model_index.json", {"tokenizer": ["transformers", "AutoTokenizer"]}),
    "megatron": ("adapter", "adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}),
    "attention from the hub": ("clip", CONFIG, {"attn_implementation": "someone/kernel"}),
    "attention of a part": ("generator", CONFIG, {"text_config___attn_implementation": {"": "someone/kernel:f"}}),
    "class by path": ("generator", "processor_config.json", {"processor_class": "code.Processor"}),
    "image processor by path": ("clip", "preprocessor_config.json", {"image_processor_type": "../code/Processor"}),
    "quantised by a package that fetches code": ("clip", CONFIG, {"quantization_config": {"quant_method": "fp8"}}),
    "quantised in no named way": ("generator", CONFIG, {"text_config__quantization_config": {"bits": 4}}),
    "what torchao would call": ("clip", CONFIG, {"quantization_config": {
        "quant_method": "torchao", "quant_type": {"default": {"_type": "quantize_", "_data": {}, "_version": 1}},
    }}),
    "kernels by path": ("clip", CONFIG, {"quantization_config": {"quant_method": "gptq", "bits": 4, "backend": "../code.so"}}),
    "quantised with an unknown entry": ("clip", CONFIG, {"quantization_config": {"quant_method": "awq", "loader": "x"}}),
    "quantised, with a pattern without end": ("pipeline", "unet/config.json", {"quantization_config": {
        "quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["(a+)+$"],
    }}),
    "unnamed options": ("clip", WORDS, {"init_inputs": ["/etc/passwd"]}),
    "code-like generation": ("generator", "generation_config.json", {"penalty_alpha": 0.6, "top_k": 4}),
    # the hub
    "text tower": ("open_clip", OPEN_CLIP, {f"{TEXT}hf_model_name": "someone/text"}),
    "vision tower": ("open_clip", OPEN_CLIP, {f"{VISION}timm_model_name": "hf-hub:someone/tower"}),
    "vision tower, oddly spelt": ("open_clip", OPEN_CLIP, {f"{VISION}timm_model_name": "HF_HUB:someone/tower"}),
    "timm wrapper": ("clip", CONFIG, timm(architecture="hf-hub:someone/tower")),
    "timm options": ("clip", CONFIG, timm(architecture="vit_tiny_patch16_224", model_args={"pretrained": True})),
    "timm weights": ("clip", CONFIG, timm(architecture="resnet18", model_args={"checkpoint_path": "/etc/passwd"})),
    "backbone": ("clip", CONFIG, {**DUAL, "vision_config": {"model_type": "detr", "backbone": "microsoft/resnet-50"}}),
    "pretrained backbone": ("clip", CONFIG, {"vision_config__use_pretrained_backbone": True}),
    "timm backbone": ("clip", CONFIG, {"vision_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}),
    "xlora": ("adapter", "adapter_config.json", {"peft_type": "XLORA", "adapters": {"0": "someone/adapter"}}),
    "audio tokenizer": ("generator", "processor_config.json", {"audio_tokenizer": {"audio_tokenizer_name_or_path": "a/b"}}),
    # other folders
    "timm folder": ("open_clip", OPEN_CLIP, {f"{VISION}timm_model_name": "local-dir:/somewhere"}),
    "weights above": ("clip", CONFIG, {"transformers_weights": "../other/model.safetensors"}),
    "vocabulary elsewhere": ("clip", WORDS, {"vocab_file": "/etc/passwd"}),
    "vocabulary above": ("clip", WORDS, {"vocab_file": "../secret.txt"}),
    "part above": ("pipeline", "model_index.json", {"../unet": ["diffusers", "UNet2DConditionModel"]}),
    "shadow": ("adapter", "adapter_config.json", {"shadow_model": "someone/model"}),
    # options
    "tokenizer option": ("open_clip", OPEN_CLIP, {f"{TEXT}tokenizer_kwargs": {"cache_dir": "/tmp/elsewhere"}}),
    "tokenizer subfolder": ("open_clip", OPEN_CLIP, {f"{TEXT}tokenizer_kwargs": {"subfolder": "../other"}}),
    "layer option": ("open_clip", OPEN_CLIP, {f"{VISION}norm_kwargs": {"device": "cuda"}}),
    "unknown option": ("open_clip", OPEN_CLIP, {f"{VISION}no_such_option": 1}),
    # sizes
    "a million layers": ("clip", CONFIG, {"text_config__num_hidden_layers": 10**6}),
    "a million layers, open_clip": ("open_clip", OPEN_CLIP, {f"{TEXT}layers": 10**6}),
    "a million stages": ("open_clip", OPEN_CLIP, {f"{VISION}layers": [1] * 10**6}),
    "a million layers, U-Net": ("pipeline", "unet/config.json", {"layers_per_block": 10**6}),
    "a vocabulary of 10^12": ("clip", CONFIG, {"text_config__vocab_size": 10**12}),
    "a vocabulary of 10^12, open_clip": ("open_clip", OPEN_CLIP, {f"{TEXT}vocab_size": 10**12}),
    "a vocabulary of 10^30": ("generator", CONFIG, {"text_config__vocab_size": 10**30}),
    "a vocabulary of 10^9, text encoder": ("pipeline", "text_encoder/config.json", {"vocab_size": 10**9}),
    "a wide model": ("open_clip", OPEN_CLIP, {f"{TEXT}width": 10**6}),
    "a long context": ("open_clip", OPEN_CLIP, {f"{TEXT}context_length": 10**6}),
    "pictures of 10^9": ("clip", CONFIG, {"vision_config__image_size": 10**9}),
    "pictures of 10^9, open_clip": ("open_clip", OPEN_CLIP, {f"{VISION}image_size": 10**9}),
    "pictures of 10^9, processor": ("clip", "preprocessor_config.json", {"size": {"shortest_edge": 10**9}}),
    "pictures of 10^9, sampling": ("pipeline", "sampling.json", {"resolution": 10**9}),
    "a billion labels": ("clip", CONFIG, {"num_labels": 10**9}),
    "a rank of 10^9": ("adapter", "adapter_config.json", {"r": 10**9}),
    "a rank of 10^9 for some": ("adapter", "adapter_config.json", {"rank_pattern": {"q_proj": 10**8}}),
    "layers over and over": ("adapter", "adapter_config.json", {"layer_replication": [[0, 10**6]]}),
    # patterns
    "pattern": ("adapter", "adapter_config.json", {"target_modules": "(a|a)*b"}),
    "nested pattern": ("adapter", "adapter_config.json", {"target_modules": "(.*)*x"}),
    "many stars": ("adapter", "adapter_config.json", {"target_modules": ".*" * 12 + "x"}),
    "many choices": ("adapter", "adapter_config.json", {"target_modules": "(.|.)" * 40 + "x"}),
    "pattern of ranks": ("adapter", "adapter_config.json", {"rank_pattern": {"(x+x+)+y": 4}}),
    "pattern of layers": ("adapter", "adapter_config.json", {"layers_pattern": ["(x+)+y"], "layers_to_transform": [1]}),
    "no pattern": ("adapter", "adapter_config.json", {"target_modules": "(("}),
    # junk
    "a list for an object": ("clip", CONFIG, {"text_config": [1, 2]}),
    "a text for a number": ("clip", CONFIG, {"vision_config__image_size": "large"}),
    "no size": ("clip", CONFIG, {"vision_config__patch_size": None}),
    "zero": ("open_clip", OPEN_CLIP, {f"{VISION}patch_size": 0}),
    "below zero": ("clip", CONFIG, {"text_config__hidden_size": -32}),
    "an object for a list": ("pipeline", "unet/config.json", {"block_out_channels": {"a": 1}}),
    "a list for a tower": ("open_clip", OPEN_CLIP, {"model_cfg__text_cfg": [1]}),
    "patterns that are no numbers": ("adapter", "adapter_config.json", {"alpha_pattern": {"q_proj": "x"}}),
    "modules that are numbers": ("adapter", "adapter_config.json", {"target_modules": [1, 2]}),
    "mean of pictures": ("clip", "preprocessor_config.json", {"image_mean": "bright"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configs_are_refused_in_one_sentence(name: str, copy: Copy, sockets: list[str]) -> None:
    kind, file, changes = HOSTILE[name]
    folder = copy(kind)
    mark = folder.parent / "code-ran"
    for code in ("code.py", "hubconf.py"):
        if kind != "pipeline":  # where a Python file is refused for itself
            (folder / code).write_text(f"open({str(mark)!r}, 'w')\n")
    edit(folder / file, **changes)
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load(kind, folder)
    assert time.monotonic() - start < 30
    assert "\n" not in str(caught.value) and caught.value.cure
    assert len(caught.value.message) < 600
    assert not mark.exists() and not sockets


TOKENIZER = """
open({mark!r}, "w").close()
from transformers import PreTrainedTokenizer
class T(PreTrainedTokenizer):
    pass
"""


@pytest.mark.parametrize("kind", ["clip", "open_clip", "generator"])
def test_code_that_an_auto_map_names_is_not_run(kind: str, copy: Copy, sockets: list[str]) -> None:
    """Without a question on the terminal either, which transformers asks where nobody told it not to trust."""
    folder = copy(kind)
    mark = folder.parent / "code-ran"
    (folder / "tok.py").write_text(TOKENIZER.format(mark=str(mark)))
    edit(folder / WORDS, tokenizer_class="T", auto_map={"AutoTokenizer": ["tok.T", None]})
    if kind != "open_clip":
        edit(folder / CONFIG, auto_map={"AutoConfig": "tok.T", "AutoModel": "tok.T"})
    try:
        load(kind, folder)
    except ModelError as error:
        assert "\n" not in str(error)
    assert not mark.exists() and not sockets


HARMLESS: dict[str, tuple[str, str, dict[str, object]]] = {
    "where it came from": ("clip", CONFIG, {"_name_or_path": "openai/clip-vit-base-patch32", "transformers_version": "4.1"}),
    "code beside a known kind": ("clip", CONFIG, {"auto_map": {"AutoModel": "modeling.Model"}}),
    "no trust": ("clip", CONFIG, {"trust_remote_code": False, "quantization_config": None, "custom_pipelines": {}}),
    "its author's disk": ("clip", WORDS, {
        "special_tokens_map_file": "/home/author/special_tokens_map.json", "tokenizer_file": "/home/author/tokenizer.json",
        "name_or_path": "someone/tokenizer",
    }),
    "long positions": ("generator", CONFIG, {"text_config__rope_theta": 5_000_000.0}),
    "plain attention": ("clip", CONFIG, {"attn_implementation": "sdpa"}),
    "old decoding": ("generator", "generation_config.json", {"num_beam_groups": 1, "penalty_alpha": None}),
    "a tokenizer that lies in the folder": ("open_clip", OPEN_CLIP, {
        f"{TEXT}hf_tokenizer_name": "timm/ViT-B-16-SigLIP", f"{TEXT}tokenizer_kwargs": {"clean": "canonicalize"},
    }),
    "what timm would weigh": ("open_clip", OPEN_CLIP, {f"{VISION}timm_model_pretrained": False, f"{TEXT}hf_model_name": None}),
    "how it was trained": ("adapter", "adapter_config.json", {"auto_mapping": {"parent_library": "code"}, "revision": "main"}),
    "notes": ("pipeline", "model_index.json", {"_name_or_path": "runwayml/stable-diffusion-v1-5"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_entries_of_common_configs_load(name: str, copy: Copy, sockets: list[str]) -> None:
    kind, file, changes = HARMLESS[name]
    folder = copy(kind)
    before = load(kind, folder).sha256
    edit(folder / file, **changes)
    assert load(kind, folder).sha256 == before
    assert not sockets


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "EVA02-B-16"])
def test_open_clips_own_configs_are_understood(name: str, tmp_path: Path) -> None:
    """Real layouts of the hub, whose weights are another's: what is refused is the size, not an entry."""
    import open_clip
    from safetensors.torch import save_file

    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / OPEN_CLIP).write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"a": torch.zeros(2)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="describes a model of"):
        load("open_clip", tmp_path)


def test_what_a_config_asks_for_is_named_at_any_depth() -> None:
    assert config_problems({"model_type": "clip", "trust_remote_code": False, "a": [{"b": {}}]}) == []
    for content in (
        {"auto_map": {"AutoModel": "code.Model"}},
        {"a": [{"b": {"trust_remote_code": True}}]},
        [{"custom_pipeline": "someone/pipeline"}],
        {"_class_name": ["code", "Pipe"]},
        {"text_config": {"attn_implementation": "someone/kernel"}},
    ):
        (problem,) = config_problems(content)
        assert problem.startswith("asks for")
    assert config_problems("auto_map") == config_problems(None) == []


JUNK: dict[str, bytes] = {
    "empty": b"", "no JSON": b"{", "a list": b"[1]", "not UTF-8": b'{"a": "\xff"}', "half a pair": b'{"a": "\\ud800"}',
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000, "rather deep": b'{"a":' * 400 + b"1" + b"}" * 400,
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    "place",
    [("clip", CONFIG), ("clip", WORDS), ("open_clip", OPEN_CLIP), ("pipeline", "model_index.json"),
     ("pipeline", "unet/config.json"), ("adapter", "adapter_config.json"), ("generator", "generation_config.json")],
    ids="/".join,
)  # fmt: skip
def test_junk_in_the_place_of_a_config_is_one_sentence(place: tuple[str, str], junk: str, copy: Copy) -> None:
    kind, file = place
    folder = copy(kind)
    (folder / file).write_bytes(JUNK[junk])
    with pytest.raises(ModelError) as caught:
        load(kind, folder)
    assert Path(file).name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["clip", "open_clip", "pipeline"])
def test_a_tokenizer_that_panics_is_one_sentence(kind: str, copy: Copy) -> None:
    """A pattern that its library in Rust gives up on raises what is no Exception."""
    folder = copy(kind)
    file = folder / ("tokenizer/tokenizer.json" if kind == "pipeline" else "tokenizer.json")
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$x"}, "behavior": "Isolated", "invert": False}
    edit(file, pre_tokenizer=pattern)
    model = load(kind, folder)
    with pytest.raises(ModelError, match="retry-limit") as caught:
        model.tokenize("a" * 3000)
    assert "\n" not in str(caught.value)


PATTERNS = {
    ".*language_model.*\\.(q_proj|k_proj|v_proj|o_proj)|.*multi_modal_projector\\.linear_[12]": True,
    "^(?!.*(vision|audio)).*(?:q_proj|k_proj).*$": True,
    "(?:.*?(?:vision|image).*?(?:attn|attention).*?(?:qkv|proj).*?)|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn))": True,
    "model\\.layers\\.\\d+\\.mlp\\.(gate|up|down)_proj": True,
    "(.*\\.)?attn2?\\.to_[qkv]": True,
    "(a+)+$": False, "(a|a)*$": False, "(a*){30}b": False, "(.|.)" * 30 + "x": False, ".*.*.*.*.*.*.*.*x": False,
    "(a?){40}a{40}": False, "(.*)\\1+x": False, "x" * 10_000: False, "(" * 3000: False,
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern[:40])
def test_patterns_that_may_not_end_are_told_from_those_of_real_adapters(pattern: str) -> None:
    assert (pattern_problem(pattern) == "") is PATTERNS[pattern]


def test_what_passes_as_a_pattern_ends() -> None:
    name = "base_model.model.model.language_model.layers.31.self_attn.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.q_proj"
    for pattern, fine in PATTERNS.items():
        if fine:
            start = time.monotonic()
            re.fullmatch(pattern, name)
            assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", ["a" * 5000, "folder/" * 900, "clip\0", "./\0", "~" + "a" * 5000])
def test_names_that_no_folder_has(name: str) -> None:
    from vlaudit.plugins import plugin

    for kind, argument in (("hf", name), ("diffusers", name), ("open_clip", f"local-dir:{name}")):
        backend = plugin("backends", kind)()
        with pytest.raises(UsageError) as caught:
            backend.is_remote(argument)
            backend.files(argument)
            backend.load(argument, torch.device("cpu"))
        assert "\n" not in str(caught.value) and os.linesep not in str(caught.value)
