"""``diffusers:REPO_OR_DIR``: text-to-image pipelines saved by diffusers (a ``model_index.json`` beside the parts' folders).

Nothing of a pipeline's own code runs: custom pipelines, modules from elsewhere and ``*.py`` files are refused, weights are
safetensors, or pickles that hold tensors only.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.backends.base import Backend, local_folder
from vlaudit.errors import ModelError, did_you_mean, first_line
from vlaudit.files import PICKLE_SUFFIXES, fingerprint
from vlaudit.inspection.checkpoints import refuse_code
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch

    from vlaudit.backends.diffusion import PipelineModel

INDEX = "model_index.json"
VARIANT = re.compile(r"\.(fp16|bf16)(?:-\d+-of-\d+)?\.safetensors$|\.safetensors\.index\.(fp16|bf16)\.json$")


class DiffusersBackend(Backend):
    """Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3 and Flux pipelines; others are refused by name."""

    def is_remote(self, argument: str) -> bool:
        return local_folder(argument) is None

    def family(self, argument: str) -> Family:
        return Family.TEXT_TO_IMAGE

    def files(self, argument: str) -> list[Path]:
        folder = local_folder(argument)
        return pipeline_files(folder) if folder else []

    def load(self, argument: str, device: torch.device) -> PipelineModel:
        """Load in float32 on the CPU; on CUDA in the checkpoint's half precision, or float16."""
        folder = local_folder(argument) or _download(argument, device)
        parts = read_index(folder)
        for name in parts:
            if not (folder / name).is_dir():
                raise ModelError(
                    f"The pipeline '{argument}' lacks the folder '{name}' that its {INDEX} names.",
                    f"Download it whole, or write [null, null] for '{name}' there.",
                )
        files = pipeline_files(folder)
        variant = _variant(files, device)
        weights = [path for path in _weights(folder, parts) if _is_variant(path, variant)]
        if not weights:
            raise ModelError(
                f"The pipeline '{argument}' holds no weights.", "It needs *.safetensors in its parts' folders."
            )
        refuse_code(weights)
        pipe = _open(argument, folder, parts, variant, weights, device)
        kind = kind_of(folder)
        try:
            return kind(f"diffusers:{argument}", pipe, files, fingerprint(weights), device, _sampling(folder))
        except (AttributeError, KeyError, TypeError) as error:
            raise ModelError(
                f"The parts of '{argument}' do not fit together: {first_line(error)}.",
                f"Compare its {INDEX} and the parts' config.json with the original's.",
            ) from error


def pipeline_files(folder: Path) -> list[Path]:
    """The regular files of a pipeline's folder and of its parts' folders; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def kind_of(folder: Path) -> type[PipelineModel]:
    """How a pipeline is read, by its class in ``model_index.json``. Raises ModelError for classes vlaudit cannot read."""
    from vlaudit.backends.diffusion_kinds import KINDS

    name = _json(folder / INDEX).get("_class_name")
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


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """The parts of a pipeline that are there: name to (library, class). Raises ModelError for code from elsewhere."""
    kind_of(folder)
    code = [path for path in pipeline_files(folder) if path.suffix in {".py", ".pyc", ".so"}]
    if code:
        raise ModelError(
            f"The pipeline '{folder}' comes with code ({code[0].relative_to(folder)}), which vlaudit never runs.",
            "Check that file, and audit a copy without it.",
        )
    parts = {}
    for name, value in _json(folder / INDEX).items():
        if not isinstance(value, list) or name.startswith("_"):
            continue
        if len(value) != 2 or Path(name).name != name:
            raise ModelError(f"'{folder / INDEX}' is damaged at '{name}'.", "Save the pipeline again with diffusers.")
        library, kind = value
        if library is None or kind is None:
            continue
        if not _trusted(str(library)):
            raise ModelError(
                f"'{folder / INDEX}' loads the part '{name}' with the foreign module '{library}', which vlaudit never runs.",
                "Parts must come from diffusers or transformers.",
            )
        parts[name] = (str(library), str(kind))
    return parts


def _trusted(library: str) -> bool:
    """Whether a part's library is diffusers, transformers, or one of diffusers' own pipeline folders."""
    import diffusers.pipelines

    own = {path.name for path in Path(diffusers.pipelines.__file__).parent.iterdir() if path.is_dir()}
    return library in {"diffusers", "transformers"} | own


def _weights(folder: Path, parts: dict[str, tuple[str, str]]) -> list[Path]:
    """The weight files of the parts: each part's safetensors, or its pickles where it has none."""
    found = []
    for name in parts:
        files = sorted(path for path in (folder / name).iterdir() if path.is_file())
        safe = [path for path in files if path.suffix == ".safetensors"]
        found += safe or [path for path in files if path.suffix in PICKLE_SUFFIXES]
    return found


def _variant(files: list[Path], device: torch.device) -> str | None:
    """The half-precision variant to load: where there is nothing else, or on CUDA."""
    marks = {match[1] or match[2]: path for path in files if (match := VARIANT.search(path.name))}
    plain = [path for path in files if path.suffix == ".safetensors" and not VARIANT.search(path.name)]
    if not marks or (plain and device.type != "cuda"):
        return None
    return "bf16" if "bf16" in marks else "fp16"


def _is_variant(path: Path, variant: str | None) -> bool:
    """Whether a weight file belongs to the chosen variant, or there is no other for its part."""
    match = VARIANT.search(path.name)
    if variant is None:
        return match is None
    siblings = [other for other in path.parent.glob("*.safetensors") if f".{variant}." in other.name]
    return not siblings or (match is not None and variant in match.groups())


def _open(argument: str, folder: Path, parts: dict[str, tuple[str, str]], variant: str | None, weights: list[Path],
          device: torch.device) -> Any:  # fmt: skip
    """The pipeline. Its models are loaded one by one, to see that no weights are missing (they would be random)."""
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for log in (logging, transformers_logging):
        log.set_verbosity_error()  # texts that are cut are told once, by the target
        log.disable_progress_bar()
    dtype = torch.float32
    if device.type == "cuda":
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(variant or "", _half(weights))
    loaded: dict[str, Any] = {name: None for name, value in _json(folder / INDEX).items() if value == [None, None]}
    try:
        for name, (library, kind) in parts.items():
            mine = [path for path in weights if path.parent == folder / name]
            if mine:
                marked = any(VARIANT.search(path.name) for path in mine)
                loaded[name], report = _class(library, kind).from_pretrained(
                    folder / name, dtype=dtype, variant=variant if marked else None, local_files_only=True,
                    use_safetensors=mine[0].suffix == ".safetensors", output_loading_info=True,
                )  # fmt: skip
                _check_complete(f"{argument}/{name}", report)
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **loaded)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise ModelError(
            f"The pipeline '{argument}' could not be loaded: {first_line(error)}.",
            f"Check its {INDEX} and that the parts {', '.join(parts)} are whole.",
        ) from error


def _class(library: str, kind: str) -> Any:
    """The class of a part, from one of the libraries that ``read_index`` lets pass."""
    own = library in {"diffusers", "transformers"}
    return getattr(importlib.import_module(library if own else f"diffusers.pipelines.{library}"), kind)


def _check_complete(name: str, report: dict[str, Any]) -> None:
    wrong = sorted({*map(str, report["missing_keys"]), *(str(key) for key in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"The weights of '{name}' lack {len(wrong)} tensors, such as '{wrong[0]}'; they would be random.",
            "Save the whole pipeline again.",
        )


def _half(weights: list[Path]) -> torch.dtype:
    """bfloat16 where the checkpoint's weights are, else float16."""
    import torch
    from safetensors import safe_open

    for path in weights:
        if path.suffix == ".safetensors" and "text" not in path.parent.name:
            with safe_open(str(path), framework="pt") as file:
                kinds = {file.get_slice(name).get_dtype() for name in list(file.keys())[:8]}
            if "BF16" in kinds:
                return torch.bfloat16
    return torch.float16


def _download(argument: str, device: torch.device) -> Path:
    """A hub repository's pipeline, weights in safetensors only; its index is checked before anything else is fetched."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        kind_of(Path(hf_hub_download(argument, INDEX)).parent)
        variants = ("fp16", None) if device.type == "cuda" else (None, "fp16")
        for variant in variants:
            try:
                return Path(DiffusionPipeline.download(argument, variant=variant, use_safetensors=True))
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
    settings = _json(path) if path.is_file() else {}
    known = ("num_inference_steps", "guidance_scale", "resolution")
    for name, value in settings.items():
        if name not in known:
            raise ModelError(f"'{path}' has the unknown setting '{name}'.", did_you_mean(name, list(known)))
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value < 0
            or (value < 1 and name != known[1])
        ):
            raise ModelError(f"'{path}' sets {name} to {value!r}.", "Give a positive number.")
    return settings


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{path}' is missing or not JSON.", "Is this a folder saved by a diffusers pipeline's save_pretrained?"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"'{path}' is not a JSON object.", "Save the pipeline again with diffusers.")
    return value
