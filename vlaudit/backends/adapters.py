"""Fine-tuned models as peft saves them: a folder with only what changed, and the name of the base model it changes.

The adapter (LoRA, arXiv:2106.09685, and its kin) is merged into its base when both are loaded: what is audited is the
model that results, at its own speed. ``base_model_name_or_path`` is a folder, relative to the adapter's or to the current
one, or a hub name.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from vlaudit.errors import ModelError, UsageError, foreign
from vlaudit.inspection.configs import read_config
from vlaudit.inspection.folder import ADAPTER_CONFIG, ModelFolder, find_folder

LEARNED_PROMPTS = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return os.path.lexists(folder / ADAPTER_CONFIG) and not os.path.lexists(folder / "config.json")


def base_of(folder: Path) -> str:
    """The base model that an adapter names, as ``hf:`` takes it. Raises ModelError, UsageError for a learned prompt."""
    config = read_config(folder / ADAPTER_CONFIG, "Save the adapter again with peft.")
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        raise ModelError(f"The adapter in '{folder}' does not say of what kind it is.", "Save it again with peft.")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The adapter in '{folder}' does not say which model it changes.",
            f"Write the model's folder or hub name into its {ADAPTER_CONFIG} as base_model_name_or_path.",
        )
    if kind in LEARNED_PROMPTS:
        raise UsageError(
            f"'{folder}' is a learned prompt, not a model.",
            f"Write hf:{base} --prompt {LEARNED_PROMPTS[kind]}:{folder}.",
        )
    beside = find_folder(str(folder / base))
    return str(beside.resolve()) if beside else base


def merge(model: Any, adapter: ModelFolder) -> Any:
    """The base model with the adapter merged into it. Raises ModelError where the two do not fit."""
    from peft import PeftConfig, PeftModel

    folder = str(adapter.path)
    with foreign(
        f"The adapter in '{folder}' cannot be merged into its base model",
        "It has to be made for that model, and saved with peft's save_pretrained.",
    ):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tensors that are lacking, which is an error below
            adapted = PeftModel(model, config)
            report = adapted.load_adapter(folder, "default")
        lacking = [*report.missing_keys, *report.unexpected_keys]
        if lacking:
            raise ValueError(f"{len(lacking)} tensors are lacking or left over, such as {lacking[0]}")
        return adapted.merge_and_unload(safe_merge=True)
