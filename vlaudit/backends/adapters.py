"""Fine-tuned models as peft saves them: a folder with only what changed, and the name of the base model it changes.

The adapter (LoRA, arXiv:2106.09685, and its kin) is merged into its base when both are loaded: what is audited is the
model that results, at its own speed. ``base_model_name_or_path`` is a folder, relative to the adapter's or to the current
one, or a hub name.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError, UsageError, first_line

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LEARNED_PROMPTS = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The base model that an adapter names, as ``hf:`` takes it. Raises ModelError, UsageError for a learned prompt."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, base = str(config["peft_type"]), config.get("base_model_name_or_path")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"The adapter in '{folder}' has no readable {CONFIG}.", "Save it again with peft.") from error
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The adapter in '{folder}' does not say which model it changes.",
            f"Write the model's folder or hub name into its {CONFIG} as base_model_name_or_path.",
        )
    if kind in LEARNED_PROMPTS:
        raise UsageError(
            f"'{folder}' is a learned prompt, not a model.",
            f"Write hf:{base} --prompt {LEARNED_PROMPTS[kind]}:{folder}.",
        )
    beside = folder / base
    return str(beside.resolve()) if beside.is_dir() else base


def adapter_weights(folder: Path) -> Path:
    """The weights of an adapter. Raises ModelError where there are none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(f"The adapter in '{folder}' lacks {WEIGHTS[0]}.", "Save it again with peft.")


def merge(model: Any, folder: Path) -> Any:
    """The base model with the adapter merged into it. Raises ModelError where the two do not fit."""
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(folder))
        if getattr(config, "megatron_config", None):
            raise ValueError("it asks for a module of Megatron to be imported")
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tensors that are lacking, which is an error below
            adapted = PeftModel(model, config)
            report = adapted.load_adapter(str(folder), "default")
        lacking = [*report.missing_keys, *report.unexpected_keys]
        if lacking:
            raise ValueError(f"{len(lacking)} tensors are lacking or left over, such as {lacking[0]}")
        return adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever peft raises at a config or tensors that it did not write
        raise ModelError(
            f"The adapter in '{folder}' cannot be merged into its base model: {first_line(error)}.",
            "It has to be made for that model, and saved with peft's save_pretrained.",
        ) from error
