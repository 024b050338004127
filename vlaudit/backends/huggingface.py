"""Checkpoints of transformers, ``hf:REPO_OR_DIR``: the config says the family, whose own module loads them. ``#matching`` behind it asks a
matcher that fuses for the score of its matching head, ``#drawing`` an any-to-any model for pictures.

A folder that peft wrote (an adapter) is loaded with the base model that it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.backends.adapters import base_of, is_adapter
from vlaudit.backends.base import Backend, commit_of, download, local_folder
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError
from vlaudit.files import folder_files
from vlaudit.inspection.configs import read_config
from vlaudit.inspection.folder import ADAPTER_CONFIG, inspect_adapter, inspect_transformers
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch

    from vlaudit.families.base import Model

MATCHING = {"clip", "siglip", "siglip2", "align", "vision-text-dual-encoder", "flava", "bridgetower"}
RETRIEVAL = {"BlipForImageTextRetrieval", "Blip2ForImageTextRetrieval"}  # of kinds whose other classes generate
SCORES = {"contrastive", "matching"}  # of a matcher that fuses picture and text
DRAWING, DRAWERS = "drawing", {"janus"}  # any-to-any models, of which one is asked to draw
SAVED = "Give a folder written by save_pretrained; a pipeline of diffusers is diffusers:PATH."


class HuggingFaceBackend(Backend):
    """``hf:…``"""

    def is_remote(self, argument: str) -> bool:
        argument, _ = _scored(argument)
        return local_folder(argument) is None or self.borrows(argument) is not None

    def borrows(self, argument: str) -> str | None:
        argument, _ = _scored(argument)
        folder = local_folder(argument)
        if folder is None or not is_adapter(folder):
            return None
        try:
            base = base_of(folder)
            return base if local_folder(base) is None else None
        except ModelError:  # a damaged adapter, of which loading will say so
            return None

    def family(self, argument: str) -> Family:
        argument, asked = _scored(argument)
        folder = local_folder(argument) or download(argument, ["config.json", ADAPTER_CONFIG])
        if is_adapter(folder):
            base = base_of(folder)
            folder = local_folder(base) or download(base, ["config.json"])
        return _family(argument, read_config(folder / "config.json", SAVED), asked)

    def files(self, argument: str) -> list[Path]:
        folder = local_folder(_scored(argument)[0])
        if folder is None:
            return []
        found = folder_files(folder)
        try:
            base = local_folder(base_of(folder)) if is_adapter(folder) else None
        except ModelError:  # loading will say so; the adapter's own files can be looked at
            base = None
        return [*(folder_files(base) if base else []), *found]

    def load(self, argument: str, device: torch.device, how: Loading = PLAIN) -> Model:
        name, score = _scored(argument)
        folder, adapter = local_folder(name), None
        revision = None
        if folder is None:
            folder = download(name)
            revision = commit_of(folder)
        if is_adapter(folder):
            adapter = inspect_adapter(folder)
            base = base_of(folder)
            folder = local_folder(base) or download(base)
        inspected = inspect_transformers(folder)
        model: Model
        config = read_config(folder / "config.json", SAVED)
        family = _family(argument, config, score)
        if family is Family.TEXT_TO_IMAGE:
            from vlaudit.backends.transformers_drawing import load_drawer

            model = load_drawer(argument, inspected, device, adapter, how)
        elif family is Family.GENERATION:
            if score:
                raise ModelError(f"'{argument}' is of image-text-to-text generation and has no {score} score.", "Leave the '#' out.")
            from vlaudit.backends.transformers_checks import load_generator

            model = load_generator(argument, inspected, device, adapter, how)
        else:
            from vlaudit.backends.transformers_fusing import kind_of
            from vlaudit.backends.transformers_matching import TransformersModel, load_matcher
            from vlaudit.backends.transformers_naflex import NaFlexModel

            plain = NaFlexModel if config.get("model_type") == "siglip2" else TransformersModel
            model = load_matcher(argument, inspected, device, adapter, how, kind_of(config, argument, score) or plain)
        model.revision = revision
        return model


def _scored(argument: str) -> tuple[str, str]:
    """A folder or repository, and the score that stands behind a ``#``, if any."""
    name, mark, score = argument.rpartition("#")
    return (name, score) if mark and score in {*SCORES, DRAWING} else (argument, "")


def _family(argument: str, config: dict[str, object], asked: str = "") -> Family:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind, named = str(config.get("model_type", "")), config.get("architectures")
    if asked == DRAWING:
        if kind not in DRAWERS:
            raise ModelError(f"'{argument}' is a '{kind}' model, which does not draw.", f"Kinds that do: {', '.join(DRAWERS)}; pipelines are diffusers:PATH.")
        return Family.TEXT_TO_IMAGE
    if kind in MATCHING or (isinstance(named, list) and any(name in RETRIEVAL for name in named if isinstance(name, str))):
        return Family.MATCHING
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return Family.GENERATION
    raise ModelError(
        f"'{argument}' is a '{kind}' model, which is neither of image-text matching nor of image-text-to-text generation.",
        f"Matching kinds: {', '.join(sorted({*MATCHING, *RETRIEVAL}))}; generation: what AutoModelForImageTextToText knows.",
    )
