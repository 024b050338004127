"""A model folder, read before any library reads it: which files its loader will open, and whether it may.

Each ``inspect_*`` follows one library's own rule for the names of weights, indexes and configs. The weights that it finds are
the model: they alone are fingerprinted, and refused where they hold code. Whatever else lies in the folder (a trainer's
``rng_state.pth``, another library's weights) no loader opens; it is listed for the checks of files.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import ModelError, UsageError, first_line
from vlaudit.files import folder_files
from vlaudit.inspection.checkpoints import refuse_code
from vlaudit.inspection.configs import pattern_fault, read_config, refuse_counts, refuse_requests
from vlaudit.inspection.quantisation import quantisation_of

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
BORROWED = ("adapters", "arrow_config", "layer_replication", "megatron_config", "prompt_tuning_init_state_dict_path", "shadow_model")
INDEX = "model_index.json"
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
SMALL = 10_000  # what a number of an adapter's config may be, however small its weights
OPENED = {".json", ".jinja", ".txt", ".model", ".safetensors", ".bin", ".pth", ".tiktoken"}
"""Suffixes of what loaders open by name."""
BUILDING = ("config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
CONFIGS = (*BUILDING, "generation_config.json", "tokenizer_config.json", "audio_tokenizer_config.json", "special_tokens_map.json",
           "added_tokens.json", "chat_template.json", "scheduler_config.json")  # fmt: skip
"""Configs that transformers and diffusers read from a folder, by name; the first are what a model is built from."""
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
                     "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth",
                     "model.pth")  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "reduction_mask"}  # of open_clip's own tokenizers, all harmless
FLOATS = {"F32", "F16", "BF16"}
PACKED = 2  # numbers that a byte of quantised weights may hold, at 4 bits each; of fewer, building checks are lenient enough
LAYER_OPTIONS = {"eps", "elementwise_affine", "bias", "approximate"}


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was looked at: the files of its weights, and how many tensors and numbers they hold at most."""

    path: Path
    weights: list[Path]
    tensors: int
    elements: int
    precision: str | None = None  # that most of its numbers are stored in, as safetensors says it: F32, F16, BF16
    quantised: str | None = None  # the way in which its weights are, if they are

    @property
    def safetensors(self) -> bool:
        return self.weights[0].suffix == ".safetensors"

    @property
    def files(self) -> list[Path]:
        return folder_files(self.path)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weights)

    @property
    def stored(self) -> torch.dtype | None:
        """The precision of its weights, where they are no pickle and none of few bits."""
        import torch

        return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(self.precision or "")

    def names_begin(self, start: str) -> bool:
        """Whether a tensor of its first file of safetensors has such a name."""
        from safetensors import safe_open

        with safe_open(str(self.weights[0]), framework="np") as file:
            return any(name.startswith(start) for name in file.keys())  # noqa: SIM118 (not a mapping)

    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)


@dataclass(frozen=True)
class Part:
    """A part of a pipeline: its library and class, and its own folder where it has weights, with their variant."""

    library: str
    kind: str
    folder: ModelFolder | None = None
    variant: str | None = None


def find_folder(argument: str) -> Path | None:
    """The folder that an argument names; None where nothing of that name is on this disk.

    Raises UsageError for a file, and for what no folder can be called.
    """
    try:
        path = Path(argument).expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL; no such user
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UsageError(f"'{shorten(argument)}' cannot be opened ({why}).", "Give a model's folder.") from error
    if not stat.S_ISDIR(mode):
        raise UsageError(f"'{argument}' is a file, not a model's folder.", f"Give its folder: '{path.parent}'.")
    return path


def shorten(text: str) -> str:
    """A name from outside, short and printable enough to stand in a sentence."""
    printable = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return printable if len(printable) <= 120 else f"{printable[:117]}..."


def inspect_transformers(path: Path) -> ModelFolder:
    """A folder as transformers reads it. Raises ModelError, UnsafeFileError."""
    config = read_config(path / "config.json", "Give a folder written by save_pretrained; a pipeline of diffusers is diffusers:PATH.")
    _refuse_adapter(path)
    named = config.get("transformers_weights")
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        raise ModelError(f"'{path / 'config.json'}' names weights outside its folder (transformers_weights).", "Remove the entry.")
    names = [named] if named else ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                   "pytorch_model.bin.index.json"]  # fmt: skip
    return _inspected(path, names)


def inspect_open_clip(path: Path) -> tuple[ModelFolder, dict[str, Any]]:
    """A folder as open_clip's ``local-dir:`` reads it, and its config. Raises ModelError, UnsafeFileError."""
    file = path / "open_clip_config.json"
    config = read_config(file, "Is this an open_clip folder? Others are hf:PATH.")
    model = config.get("model_cfg")
    if not isinstance(model, dict):
        raise ModelError(f"'{file}' has no 'model_cfg'.", "Save the model with open_clip's own tools.")
    for part in ("text_cfg", "vision_cfg"):
        if not isinstance(model.get(part), dict):
            raise ModelError(f"'{file}' has no '{part}' that is an object.", "Save the model with open_clip's own tools.")
    refuse_requests(file, config)
    text = model["text_cfg"]
    options = {"tokenizer_kwargs": TOKENIZER_OPTIONS, "act_kwargs": LAYER_OPTIONS, "norm_kwargs": LAYER_OPTIONS}
    for tower in [value for value in model.values() if isinstance(value, dict)]:
        for name, known in options.items():
            given = tower.get(name) or {}
            foreign = sorted(set(given) - known) if isinstance(given, dict) else ["something that is no object"]
            if foreign:
                raise ModelError(
                    f"'{file}' hands the unknown option {foreign[0]!r} to its loader ({name}).",
                    f"Known: {', '.join(sorted(known))}.",
                )
    names = [name for name in OPEN_CLIP_WEIGHTS if os.path.lexists(path / name)]
    if not names:
        suffixes = (".safetensors", ".bin", ".pth", ".pt")
        names = [other.name for suffix in suffixes for other in sorted(path.glob(f"*{suffix}"))]
        if len(names) > 1:
            raise ModelError(f"'{path}' holds several weight files: {', '.join(names[:3])}.",
                             f"Call the one that is meant {OPEN_CLIP_WEIGHTS[0]}.")  # fmt: skip
    folder = _inspected(path, names or [OPEN_CLIP_WEIGHTS[0]])
    refuse_counts(file, config, folder.tensors)
    if folder.safetensors and folder.names_begin("text_model.") and os.path.lexists(path / "config.json"):
        raise ModelError(f"The weights in '{path}' are laid out for transformers.", f"Write hf:{path}.")
    tokenizer = text.get("hf_tokenizer_name")
    if tokenizer and not folder.has_tokenizer():
        raise ModelError(
            f"'{file}' names a tokenizer on the hub ({shorten(str(tokenizer))}), and the folder has none.",
            "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder.",
        )
    return folder, config


def inspect_adapter(path: Path) -> ModelFolder:
    """A folder that peft wrote. Raises ModelError, UnsafeFileError."""
    file = path / ADAPTER_CONFIG
    config = read_config(file, "Save the adapter again with peft.")
    for key in BORROWED:
        if config.get(key):
            raise ModelError(
                f"'{file}' is made of what lies elsewhere, or of its base's own layers ({key}).",
                "Merge it into its base with peft, and give the model that results.",
            )
    if fault := pattern_fault(config):
        raise ModelError(f"'{file}' {fault}.", "Name the modules one by one.")
    folder = _inspected(path, ADAPTER_WEIGHTS)
    for key, value in [*config.items(), *(config.get("rank_pattern") or {}).items()]:
        if isinstance(value, int | float) and value > max(folder.elements, SMALL):
            raise ModelError(f"'{file}' sets {key} to {value:.12g}; its weights hold {folder.elements:,} numbers.",
                             "Save the adapter again with peft.")  # fmt: skip
    return folder


def inspect_pipeline(path: Path, half: bool) -> dict[str, Part]:
    """The parts of a pipeline as diffusers reads them; ``half``: half precision where there is a choice.
    Raises ModelError, UnsafeFileError."""
    code = [file for file in folder_files(path) if file.suffix in {".py", ".pyc", ".so"}]
    if code:
        raise ModelError(
            f"The pipeline '{path}' comes with code ({code[0].relative_to(path)}), which vlaudit never runs.",
            "Check that file, and audit a copy without it.",
        )
    _check_opened(path)
    index = read_index(path)
    refuse_requests(path / INDEX, index)
    parts: dict[str, Part] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or Path(name).name != name:
            raise ModelError(f"'{path / INDEX}' is damaged at '{name}'.", "Save the pipeline again with diffusers.")
        if None in value:
            continue
        library, kind = map(str, value)
        weights = _part_weights(path, name, library, kind)
        folder = path / name
        if not folder.is_dir():
            raise ModelError(
                f"The pipeline '{path}' lacks the folder '{name}' that its {INDEX} names.",
                f"Download it whole, or write [null, null] for '{name}' there.",
            )
        if not folder.resolve().is_relative_to(path.resolve()):
            raise ModelError(f"'{folder}' is a link out of its pipeline's folder.", "Put the part itself there.")
        if weights is None:
            _check_opened(folder)
            _check_configs(folder, 0)
            parts[name] = Part(library, kind)
            continue
        if weights == "model":
            _refuse_adapter(folder)
            if read_config(folder / "config.json").get("transformers_weights"):
                raise ModelError(f"'{folder / 'config.json'}' renames its weights (transformers_weights).", "Remove the entry.")
        variant, names = _variant(folder, weights, half)
        parts[name] = Part(library, kind, _inspected(folder, names), variant)
    if not any(part.folder for part in parts.values()):
        raise ModelError(f"The pipeline '{path}' holds no weights.", "It needs *.safetensors in its parts' folders.")
    return parts


def inspect_part(path: Path, half: bool) -> tuple[ModelFolder, str | None]:
    """A model of diffusers in a folder of its own, such as a ControlNet, and the variant of its weights to load. Raises ModelError,
    UnsafeFileError."""
    variant, names = _variant(path, DIFFUSERS_WEIGHTS, half)
    return _inspected(path, names), variant


def _refuse_adapter(path: Path) -> None:
    if os.path.lexists(path / ADAPTER_CONFIG):
        raise ModelError(
            f"'{path}' holds a model and an adapter ({ADAPTER_CONFIG}), which transformers would mix.",
            "Move the adapter into a folder of its own, which names this one as its base.",
        )


def read_index(path: Path) -> dict[str, Any]:
    """The ``model_index.json`` of a pipeline. Raises ModelError."""
    return read_config(path / INDEX, "Is this a folder saved by a diffusers pipeline's save_pretrained?")


def part_class(library: str, kind: str) -> Any:
    """A class of diffusers, of one of its pipelines' folders, or of transformers; None where there is none."""
    import importlib

    own = library in {"diffusers", "transformers"}
    return getattr(importlib.import_module(library if own else f"diffusers.pipelines.{library}"), kind, None)


def _part_weights(path: Path, name: str, library: str, kind: str) -> str | None:
    """How the weight files of a part are called, without suffix; None for one without weights. Raises ModelError for what is
    no part of diffusers or transformers."""
    import diffusers
    import transformers

    own = {folder.name for folder in Path(diffusers.pipelines.__path__[0]).iterdir() if folder.is_dir()}
    if library not in {"diffusers", "transformers"} | own:
        raise ModelError(
            f"'{path / INDEX}' loads the part '{name}' with the foreign module '{shorten(library)}', which vlaudit never runs.",
            "Parts must come from diffusers or transformers.",
        )
    found = part_class(library, kind)
    models = {DIFFUSERS_WEIGHTS: diffusers.ModelMixin, "model": transformers.PreTrainedModel}
    for stem, base in models.items():
        if isinstance(found, type) and issubclass(found, base):
            return stem
    plain = (diffusers.SchedulerMixin, transformers.PreTrainedTokenizerBase, transformers.ImageProcessingMixin,
             transformers.FeatureExtractionMixin, transformers.ProcessorMixin)  # fmt: skip
    if not isinstance(found, type) or not issubclass(found, plain):
        raise ModelError(f"'{path / INDEX}' loads the part '{name}' with '{shorten(kind)}', which is no model, tokenizer, scheduler "
                         "or processor.", "Save the pipeline again with diffusers.")  # fmt: skip
    return None


def _variant(folder: Path, stem: str, half: bool) -> tuple[str | None, list[str]]:
    """The variant of a part's weights to load, and the names they may have: half precision on request or for want of others."""
    order: list[str | None] = ["bf16", "fp16", None] if half else [None, "fp16", "bf16"]
    pickled = stem.replace("model", "pytorch_model") if stem == "model" else stem
    for suffix, base in ((".safetensors", stem), (".bin", pickled)):
        for variant in order:
            mark = f".{variant}" if variant else ""
            single, index = f"{base}{mark}{suffix}", f"{base}{suffix}.index{mark}.json"
            names = [single, index] if stem == "model" else [index, single]
            if any(os.path.lexists(folder / name) for name in names):
                return variant, names
    return None, [f"{stem}.safetensors"]


def _inspected(path: Path, names: Sequence[str]) -> ModelFolder:
    """The folder with the first of the weight files that is there, an index standing for its shards."""
    _check_opened(path)
    name = next((name for name in names if os.path.lexists(path / name)), None)
    if name is None:
        theirs = any(os.path.lexists(path / name) for name in OPEN_CLIP_WEIGHTS[:4])
        cure = f"They are open_clip's: write open_clip:local-dir:{path}." if theirs else f"It needs {names[0]} beside its config."
        raise ModelError(f"The folder '{path}' holds no weights that its loader reads.", cure)
    weights = _shards(path / name) if name.endswith(".json") else [path / name]
    for file in weights:
        _check_regular(file)
    refuse_code(weights)
    sizes = [_size(file) for file in weights]
    tensors, kinds = sum(size[0] for size in sizes), sum((size[1] for size in sizes), Counter())
    _check_configs(path, tensors)
    elements, precision = kinds.total(), max(FLOATS & kinds.keys(), key=lambda kind: kinds[kind], default=None)
    config = read_config(path / "config.json") if os.path.lexists(path / "config.json") else {}
    quantised = quantisation_of(config.get("quantization_config"))
    if quantised:
        elements = PACKED * sum(file.stat().st_size for file in weights)
    return ModelFolder(path, weights, tensors, elements, precision, quantised)


def _shards(index: Path) -> list[Path]:
    """The files that an index of sharded weights names. Raises ModelError."""
    table = read_config(index).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) and all(isinstance(v, str) for v in table.values()) else set()
    if not names:
        raise ModelError(f"'{index}' names no files of weights.", "Save the model again.")
    for name in sorted(names):
        if not name or Path(name).name != name or "\\" in name:
            raise ModelError(f"'{index}' names weights outside its folder ('{shorten(name)}').", "Put them beside it.")
    return [index.parent / name for name in sorted(names)]


def _check_opened(path: Path) -> None:
    """Refuse pipes, devices, and links out of the folder, in the place of what a loader opens."""
    for folder in (path, path / "additional_chat_templates"):
        try:
            entries = sorted(folder.iterdir())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelError(f"The folder '{folder}' cannot be read ({error.strerror}).", "Check its permissions.") from error
        for file in entries:
            if file.suffix in OPENED and not file.is_dir():
                _check_regular(file)


def _check_regular(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise ModelError(f"'{shorten(str(file))}' cannot be opened ({why}).", "Check that the folder is complete.") from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"'{file}' is not a regular file.", "Put the file itself there.")
    if file.is_symlink() and not file.resolve().is_relative_to(_root(file.parent.resolve())):
        raise ModelError(f"'{file}' is a link out of its folder.", "Put the file itself there.")


def _root(folder: Path) -> Path:
    """Where the links of a folder may lead: into itself, or for a snapshot of the hub's cache into its repository's blobs."""
    for above in folder.parents:
        if above.name == "snapshots":
            return above.parent / "blobs"
    return folder


def _size(weights: Path) -> tuple[int, Counter[str]]:
    """The tensors in a file of weights, and the numbers of each precision; of a pickle the most that it can hold. Raises
    ModelError."""
    if weights.suffix != ".safetensors":
        tensors = 0
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(weights) as archive:
            tensors = len(archive.namelist())
        return tensors, Counter({"": weights.stat().st_size})
    from math import prod

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(weights), framework="np") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not a mapping)
            shapes = [(part.get_dtype(), prod(part.get_shape())) for part in slices]
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"'{weights}' is not a readable safetensors file ({first_line(error)}).", "Download it again.") from error
    numbers: Counter[str] = Counter()
    for kind, count in shapes:
        numbers[kind] += count
    return len(shapes), numbers


def _check_configs(path: Path, tensors: int) -> None:
    """Refuse what the configs of transformers and diffusers ask for."""
    for name in CONFIGS:
        if os.path.lexists(path / name):
            content = read_config(path / name)
            refuse_requests(path / name, content)
            if name in BUILDING:
                refuse_counts(path / name, content, tensors)
