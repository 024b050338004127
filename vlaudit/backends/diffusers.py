"""``diffusers:REPO_OR_DIR``: text-to-image pipelines saved by diffusers (a ``model_index.json`` beside the parts' folders).

Nothing of a pipeline's own code runs: custom pipelines, modules from elsewhere and ``*.py`` files are refused, weights are
safetensors, or pickles that hold tensors only.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.backends.base import Backend, commit_of, hub_name, local_folder, placing, refuse_oversized
from vlaudit.backends.precision import in_precision
from vlaudit.cage import network
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, did_you_mean, first_line, foreign
from vlaudit.files import fingerprint, folder_files
from vlaudit.inspection.configs import SIDE, read_config
from vlaudit.inspection.folder import INDEX, Part, inspect_pipeline, part_class, read_index
from vlaudit.inspection.quantisation import refuse_lacking
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch

    from vlaudit.backends.diffusion import PipelineModel


class DiffusersBackend(Backend):
    """Stable Diffusion 1 and 2 (and their inpainting kind), SDXL, Stable Diffusion 3, Flux and aMUSEd pipelines; others are refused by name."""

    def is_remote(self, argument: str) -> bool:
        return local_folder(argument) is None

    def family(self, argument: str) -> Family:
        return Family.TEXT_TO_IMAGE

    def files(self, argument: str) -> list[Path]:
        folder = local_folder(argument)
        return folder_files(folder) if folder else []

    def load(self, argument: str, device: torch.device, how: Loading = PLAIN) -> PipelineModel:
        import torch

        half, revision = how.precision(device) != torch.float32, None
        folder = local_folder(argument)
        if folder is None:
            folder, revision = _download(argument, half)
        path, kind, sampling = folder, kind_of(folder), _sampling(folder)
        parts = inspect_pipeline(folder, half)
        held = [part.folder for part in parts.values() if part.folder]
        for part in held:
            if part.quantised:
                refuse_lacking(argument, part.quantised)
        spread = placing(max(held, key=lambda part: part.bytes), device, how, argument).get("device_map") == "auto"
        weights = [file for part in held for file in part.weights]

        def build(dtype: torch.dtype) -> PipelineModel:
            pipe = _open(argument, path, parts, dtype)
            if spread:  # diffusers alone does not say whether weights are missing, and does not spread what it is given
                pipe = _spread(argument, path, parts, dtype)
            with foreign(
                f"The parts of '{argument}' do not fit together",
                f"Compare its {INDEX} and the parts' config.json with the original's.",
            ):
                model = kind(f"diffusers:{argument}", pipe, folder_files(path), fingerprint(weights), device, sampling)
            model.revision = revision
            return model

        numbers = sum(part.elements for part in held)
        method = next((part.quantised for part in held if part.quantised), None)
        return in_precision(f"diffusers:{argument}", build, how.precision(device, _half(parts)), numbers, device,
                            replace(how, spread=spread or bool(method)))  # fmt: skip


def kind_of(folder: Path) -> type[PipelineModel]:
    """How a pipeline is read, by its class in ``model_index.json``. Raises ModelError for classes vlaudit cannot read."""
    from vlaudit.backends.diffusion_kinds import KINDS

    name = read_index(folder).get("_class_name")
    if not isinstance(name, str):
        raise ModelError(
            f"'{folder / INDEX}' names a custom pipeline ({name}), which would run code that comes with the model.",
            f"vlaudit reads diffusers' own pipelines only: {', '.join(KINDS)}.",
        )
    if name not in KINDS:
        raise ModelError(
            f"vlaudit cannot read the pipeline class '{name}' of '{folder}'.", did_you_mean(name, list(KINDS))
        )
    return KINDS[name]


def _open(argument: str, folder: Path, parts: dict[str, Part], dtype: torch.dtype) -> Any:
    """The pipeline. Its models are loaded one by one, to see that no weights are missing (they would be random)."""
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for log in (logging, transformers_logging):
        log.set_verbosity_error()  # texts that are cut are told once, by the target
        log.disable_progress_bar()
    loaded: dict[str, Any] = {name: None for name, value in read_index(folder).items() if value == [None, None]}
    with foreign(
        f"The pipeline '{argument}' could not be loaded",
        f"Check its {INDEX} and that the parts {', '.join(parts)} are whole.",
    ):
        for name, part in parts.items():
            if part.folder:
                kind, place = part_class(part.library, part.kind), part.folder.path
                refuse_oversized(part.folder, lambda kind=kind, place=place: _empty(kind, place))  # type: ignore[misc]
                loaded[name], report = kind.from_pretrained(
                    place, dtype=dtype, variant=part.variant, local_files_only=True,
                    use_safetensors=part.folder.safetensors, output_loading_info=True,
                )  # fmt: skip
                _check_complete(f"{argument}/{name}", report)
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **loaded)


def _spread(argument: str, folder: Path, parts: dict[str, Part], dtype: torch.dtype) -> Any:
    """The pipeline with its parts on several GPUs."""
    from diffusers import DiffusionPipeline

    marks = [part.variant for part in parts.values() if part.variant]
    with foreign(f"The pipeline '{argument}' could not be spread over the GPUs", "Use --device cuda:N with one of them."):
        return DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, device_map="balanced", variant=marks[0] if marks else None,
            use_safetensors=all(part.folder.safetensors for part in parts.values() if part.folder),
        )  # fmt: skip


def _empty(kind: Any, folder: Path) -> Any:
    """A part as its config describes it, without its weights."""
    if hasattr(kind, "load_config"):  # diffusers'
        return kind.from_config(kind.load_config(folder, local_files_only=True))
    return kind(kind.config_class.from_pretrained(folder, local_files_only=True))


def _check_complete(name: str, report: dict[str, Any]) -> None:
    wrong = sorted({*map(str, report["missing_keys"]), *(str(key) for key in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"The weights of '{name}' lack {len(wrong)} tensors, such as '{wrong[0]}'; they would be random.",
            "Save the whole pipeline again.",
        )


def _half(parts: dict[str, Part]) -> torch.dtype | None:
    """The precision that the denoiser's weights are stored in."""
    stored = [part.folder.stored for name, part in parts.items() if part.folder and name in ("unet", "transformer")]
    return stored[0] if stored else None


def _download(argument: str, half: bool) -> tuple[Path, str | None]:
    """A hub repository's pipeline and its commit, weights in safetensors only; its index is checked before anything else is
    fetched."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, revision = hub_name(argument)
    try:
        with network.hub():
            index = Path(hf_hub_download(name, INDEX, revision=revision))
            kind_of(index.parent)
            variants = ("fp16", None) if half else (None, "fp16")
            for variant in variants:
                try:
                    folder = Path(DiffusionPipeline.download(
                        name, variant=variant, use_safetensors=True, revision=commit_of(index.parent) or revision
                    ))  # fmt: skip
                    return folder, commit_of(folder)
                except (OSError, ValueError) as error:
                    if variant == variants[-1]:
                        raise error
        raise AssertionError
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"'{argument}' could not be downloaded: {first_line(error)}.",
            "Check the name and the network; vlaudit reads repositories with safetensors weights only.",
        ) from error


def _sampling(folder: Path) -> dict[str, float]:
    """Settings of ``sampling.json``, if there is one. Raises ModelError for what cannot be meant."""
    from vlaudit.backends.diffusion import SAMPLING_FILE

    path = folder / SAMPLING_FILE
    known = ("num_inference_steps", "guidance_scale", "resolution")
    settings = read_config(path, f"Known settings: {', '.join(known)}.") if os.path.lexists(path) else {}
    for name, value in settings.items():
        if name not in known:
            raise ModelError(f"'{path}' has the unknown setting '{name}'.", did_you_mean(name, list(known)))
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value < 0
            or (value < 1 and name != known[1])
            or value > SIDE
        ):
            raise ModelError(f"'{path}' sets {name} to {value!r}.", f"Give a positive number up to {SIDE:,}.")
    return settings
