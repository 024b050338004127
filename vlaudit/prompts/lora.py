"""LoRA adapters and DreamBooth (survey section 5.2, tagged there as complex control): a model fine-tuned on a concept.

Sources: Hu et al. 2021, "LoRA" (arXiv:2106.09685); Ruiz et al. 2022, "DreamBooth" (arXiv:2208.12242). By mechanism these
are weight changes, not prompts: an adapter can be taken off, which makes the reference; a fully fine-tuned pipeline cannot,
so its reference only leaves the personal token out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import ModelError, UsageError
from vlaudit.families.base import Prompt
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.files import PICKLE_SUFFIXES, Unreadable, parse_json, read_json_object, user_path
from vlaudit.inspection.checkpoints import load_torch_checkpoint
from vlaudit.inspection.configs import pattern_fault, refuse_requests
from vlaudit.inspection.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vlaudit.prompts.files import check_base_model, read_members, read_safetensors
from vlaudit.prompts.personal import Concept, WithoutConcept
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "token", "noun", "scale", "text")
UNDERSTOOD = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",  # applied here or by diffusers
    "peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",  # the tensors' names say it
    "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "megatron_core",
    "qalora_group_size", "ensure_weight_tying",  # of training, or of what is off
}  # fmt: skip
HARMLESS: dict[str, list[object]] = {"bias": ["none"], "init_lora_weights": [True, "gaussian", "eva", "orthogonal"]}  # others change the base model
OTHERS = {  # adapters of other kinds, by patterns in their tensors' names
    r"[._]hada_": "LoHa", r"[._]lokr_": "LoKr", r"\.lora_mid\.": "LoCon with a core tensor (Tucker)", r"\.on_input$|\.ia3_": "IA3",
    r"\.boft_": "BOFT", r"\.oft_": "OFT", r"\.[ab]1\.weight$": "GLoRA", r"^bundle_emb": "LoRA with token embeddings (pivotal tuning)",
    r"\.lora_embedding_": "LoRA with token embeddings", r"\.diff(_b)?$": "LoRA with whole weight differences", r"\.hra_": "HRA", r"\.vera_": "VeRA",
}  # fmt: skip
DOWN = re.compile(r"(lora_A|lora_down|lora\.down|_lora\.down|lora_linear_layer\.down)(?=\.weight$)")
UP = {"lora_A": "lora_B", "lora_down": "lora_up", "lora.down": "lora.up", "_lora.down": "_lora.up", "lora_linear_layer.down": "lora_linear_layer.up"}
PEFT_DEFAULT = 8  # of r and lora_alpha, where a config leaves them out
PARTS = {  # how the names of a part's modules begin, for adapters that name modules without their part
    "unet": ("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding"),
    "transformer": ("transformer_blocks", "single_transformer_blocks", "x_embedder", "context_embedder", "proj_out"),
    "text_encoder": ("text_model", "encoder", "embeddings", "final_layer_norm"),
}


class LoRA(TextToImagePrompt):
    """A LoRA adapter, with the personal token that its captions use, if any.

    Without a file: a pipeline that was fully fine-tuned on the token."""

    method = "lora"
    learned = True

    def __init__(self, path: Path | None, *, scale: float = 1.0, token: str | None = None, noun: str | None = None,
                 text: str | None = None) -> None:  # fmt: skip
        if path is None and token is None:
            raise UsageError(
                "The prompt 'lora' needs a file or a token.", "Write lora:FILE, or lora:token=sks,noun=dog."
            )
        if (noun or text) and token is None:
            raise UsageError("The prompt 'lora' has a noun or a text, but no token.", "Add token=…, such as token=sks.")
        self.path = path
        self.scale = scale
        self.token, self.noun = token, noun
        self.concept = Concept(token, noun, before_noun=True, template=text) if token else None
        self._source: dict[str, Tensor] | None = None
        metadata: dict[str, str] = {}
        if path is not None:
            self._source, metadata = read_adapter(path)
        self.base_model = metadata.get("base_model") or None
        self.members = read_members(metadata, path) if path else []
        self.id = f"lora-{path.stem if path else token}" + (f"-{scale:g}" if scale != 1 else "")

    @classmethod
    def parse(cls, argument: str) -> LoRA:
        """``lora:FILE_OR_DIR``, or ``lora:file=…,scale=0.8,token=sks,noun=dog``; ``lora:token=sks,noun=dog`` for a
        pipeline that is fine-tuned itself."""
        options = parse_options(argument, cls.method, OPTIONS)
        try:
            scale = float(options.get("scale", "1"))
        except ValueError as error:
            raise UsageError(
                f"'{options['scale']}' is no scale of an adapter.", "Give a number, such as 0.8."
            ) from error
        path = user_path(options["file"]) if options.get("file") else None
        return cls(path, scale=scale, token=options.get("token"), noun=options.get("noun"), text=options.get("text"))

    @classmethod
    def load(cls, path: Path, **options: Any) -> LoRA:
        return cls(path, **options)

    @property
    def text(self) -> str:
        what = f"LoRA adapter at scale {self.scale:g}" if self.path else "fine-tuned pipeline"
        return f"{what}, with '{self.concept.phrase}'" if self.concept else what

    def reference(self) -> Prompt:
        return WithoutConcept(self.concept) if self.concept else super().reference()

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self.concept.put(caption) if self.concept else caption

    def check(self, model: TextToImageModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        if self.token and not model.text_of(model.tokenize(self.token)).strip():
            raise UsageError(
                f"The tokenizer of '{model.spec}' does not know the token '{self.token}': it reads it as any unknown word.",
                "Name the token that the pipeline or its adapter was trained with.",
            )
        if self._source is not None and self.path is not None:
            model.load_adapter(self._name, self._source, self.path)

    @property
    def _name(self) -> str:
        return f"vlaudit_{self.sha256()}"

    def active(self, model: TextToImageModel) -> AbstractContextManager[None]:
        return model.adapter(self._name, self.scale) if self.path else nullcontext()

    @classmethod
    def fit(cls, model: TextToImageModel, path: Path, images: Tensor, captions: Sequence[str], *, rank: int = 4,
            steps: int = 200, batch_size: int = 4, rate: float = 1e-3, seed: int = 0, token: str | None = None,
            noun: str | None = None, members: Sequence[str] = (),
            progress: Callable[[int, float], None] | None = None) -> LoRA:  # fmt: skip
        """Learn an adapter of the denoiser's attention with the denoising loss and write it to ``path`` (safetensors,
        diffusers' naming). Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; captions: one for each. With a token this is DreamBooth without its prior loss.
        """
        import torch
        from safetensors.torch import save_file

        concept = Concept(token, noun, before_noun=True) if token else None
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            clean = torch.cat([model.encode_images(batch) for batch in images.split(16)])
            texts = model.encode_texts([concept.put(caption) if concept else caption for caption in captions])
        with model.adapter_training(rank, seed) as tensors:
            optimizer = torch.optim.AdamW(tensors.values(), lr=rate)
            for step in range(steps):
                batch = torch.randint(len(images), (batch_size,), generator=generator).tolist()
                loss = model.denoising_loss(clean[batch], texts.rows(batch), generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if progress:
                    progress(step, float(loss.detach()))
            metadata = {"format": "pt", "base_model": model.sha256, "members": json.dumps(list(members))}
            content = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
            save_file(content, str(path), metadata=metadata)
        return cls(path, token=token, noun=noun)


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An adapter's tensors in diffusers' or kohya's naming, each module's alpha multiplied in, and its metadata. Raises
    UsageError."""
    if not os.path.exists(path):
        raise UsageError(f"The adapter '{path}' does not exist.", "Check the path after 'lora:'.")
    if not path.is_dir():
        return _read_file(path)
    parts = [folder for folder in (path / name for name in PARTS) if (folder / ADAPTER_CONFIG).is_file()]
    if (path / ADAPTER_CONFIG).is_file() or parts:
        tensors: dict[str, Tensor] = {}
        for folder in parts or [path]:
            tensors |= _read_peft(folder, folder.name if parts else None)
        return tensors, {}
    found = sorted(p for p in path.iterdir() if p.suffix in {".safetensors", *PICKLE_SUFFIXES} and p.is_file())
    named = [file for file in found if file.stem == "pytorch_lora_weights"] or found
    if len(named) != 1:
        raise UsageError(
            f"The folder '{path}' holds {len(named) or 'no'} adapter files.",
            "Name one file, or give a folder with pytorch_lora_weights.safetensors or adapter_config.json.",
        )
    return _read_file(named[0])


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An adapter's tensors, the alpha of each module multiplied in, so that no loader has to know it; and its metadata."""
    import torch

    metadata: dict[str, str] = {}
    if path.suffix in PICKLE_SUFFIXES and os.path.isfile(path):
        content = load_torch_checkpoint(path)
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise UsageError(f"'{path}' is not an adapter's state dict.", "See docs/prompt-files.md.")
        tensors = {str(name): value for name, value in content.items()}
    else:
        tensors, metadata = read_safetensors(path)
    _check_names(tensors, path)
    try:
        own = parse_json(metadata.get("lora_adapter_metadata") or "{}")  # the peft config of each part, as diffusers keeps it
    except Unreadable as error:
        raise UsageError(f"The metadata of '{path}' {error}.", "Save the adapter again with diffusers.") from error
    if not isinstance(own, dict):
        raise UsageError(f"The metadata of '{path}' is no object.", "Save the adapter again with diffusers.")
    configs: dict[str, dict[str, Any]] = {}
    for name, value in own.items():
        configs.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = value
    for config in configs.values():
        _check_config(path, config)
        _check_numbers(path, config)
    alphas = {name.removesuffix(".alpha"): float(tensors.pop(name)) for name in [*tensors] if name.endswith(".alpha")}
    for name, found in [(name, DOWN.search(name)) for name in tensors]:
        if found is None:
            continue
        module = name[: found.start()].rstrip(".")
        up, rank = name[: found.start()] + UP[found[1]] + name[found.end() :], tensors[name].shape[0]
        part, _, within = module.partition(".")
        if module in alphas:
            tensors[up] = tensors[up].float() * (alphas[module] / rank)
        elif part in configs:
            tensors[up] = tensors[up].float() * _strength(configs[part], within, rank, path)
    return tensors, metadata


def _check_names(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise UsageError for what is no LoRA adapter, by its kind where it is known, or a part of one."""
    import torch

    for mark, kind in OTHERS.items():
        if other := next((name for name in tensors if re.search(mark, name)), None):
            raise UsageError(f"'{path}' is an adapter of the kind {kind}, of which '{other}' is a part; only LoRA is read.",
                             "Merge the adapter into its pipeline.")  # fmt: skip
    if not tensors or not all("lora" in name.lower() or name.endswith((".alpha", ".dora_scale")) for name in tensors):
        raise UsageError(f"'{path}' holds weights that are not a LoRA adapter's.", "See docs/prompt-files.md.")
    for name, value in tensors.items():
        if value.numel() == 0 or not bool(torch.isfinite(value).all()) or (name.endswith(".alpha") and (value.numel() != 1 or float(value) <= 0)):
            raise UsageError(f"'{name}' in '{path}' is empty, not finite or no alpha above 0.", "The adapter is damaged: save it again.")
    downs = {name[: found.start()] + UP[found[1]] + name[found.end() :] for name in tensors if (found := DOWN.search(name))}
    ups = {name for name in tensors if re.search(r"(lora_B|lora_up|lora\.up|_lora\.up|lora_linear_layer\.up)\.weight$", name)}
    if lone := sorted(downs ^ ups):
        raise UsageError(f"'{path}' holds one half of '{lone[0]}' and not the other.", "The adapter is damaged: save it again.")


def _read_peft(folder: Path, part: str | None) -> dict[str, Tensor]:
    """A peft adapter's tensors in diffusers' naming, each module's own alpha multiplied in. Raises UsageError."""
    path = folder / ADAPTER_CONFIG
    config = _read_config(path)
    found = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UsageError(f"The adapter '{folder}' lacks {ADAPTER_WEIGHTS[0]}.", "Save the adapter again with peft.")
    source, _ = _read_file(found)
    tensors = {}
    for name, value in source.items():
        module = name.removeprefix("base_model.model.")
        owner, _, kind = module.partition(".lora_")
        if not kind.startswith(("A.", "B.", "magnitude_vector")) or (kind[1:] == ".weight" and value.dim() < 2):
            raise UsageError(f"'{found}' holds '{name}', which vlaudit cannot apply.", "Merge the adapter into its pipeline.")
        rank = _own(config.get("rank_pattern"), owner, config.get("r", PEFT_DEFAULT))
        if value.dim() > 1 and value.shape[0 if kind == "A.weight" else 1] != rank and kind in {"A.weight", "B.weight"}:
            raise UsageError(f"'{found}' gives '{owner}' another rank than {rank:g}, which its {ADAPTER_CONFIG} says.",
                             "Save the adapter again with peft.")  # fmt: skip
        if kind.startswith("B."):
            value = value * _strength(config, owner, rank, path)
        home = part or next((key for key, starts in PARTS.items() if module.startswith(starts)), "unet")
        tensors[f"{home}.{module}"] = value
    return tensors


def _read_config(path: Path) -> dict[str, Any]:
    """A peft config whose every entry is understood, or changes nothing. Raises UsageError."""
    try:
        config = read_json_object(path)
    except Unreadable as error:
        raise UsageError(f"'{path}' is damaged: it {error}.", "Save the adapter again with peft.") from error
    if config.get("peft_type") != "LORA":
        raise UsageError(f"'{path}' is of the kind {str(config.get('peft_type'))[:40]!r}, not LORA.", "Only LoRA adapters are read.")
    _check_numbers(path, config)
    _check_config(path, config)
    return config


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    for number in (config.get("r", PEFT_DEFAULT), config.get("lora_alpha", PEFT_DEFAULT)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
            raise UsageError(f"'{path}' is damaged: its r or lora_alpha is no number above 0.", "Save the adapter again with peft.")


def _strength(config: dict[str, Any], module: str, rank: float, path: Path) -> float:
    """What a module's product is multiplied by, as peft does. Raises UsageError where its tensor has another rank than the config says."""
    said = _own(config.get("rank_pattern"), module, config.get("r", PEFT_DEFAULT))
    if said != rank:
        raise UsageError(f"'{path}' gives '{module}' another rank than its config, which says {said:g}.", "Save the adapter again.")
    alpha = _own(config.get("alpha_pattern"), module, config.get("lora_alpha", PEFT_DEFAULT))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Raise UsageError for entries of a peft config that ask for what they may not, or change what is applied unknown to us."""
    try:
        refuse_requests(path, config)
    except ModelError as error:
        raise UsageError(error.message, error.cure) from error
    if fault := pattern_fault(config):
        raise UsageError(f"'{path}' {fault}.", "Save the adapter again with peft.")
    for key, value in config.items():
        if value and key not in UNDERSTOOD and value not in HARMLESS.get(key, ()):
            raise UsageError(f"'{path}' sets {key}, which vlaudit cannot apply.", "Merge the adapter into its pipeline with peft.")


def _own(pattern: dict[str, float] | None, module: str, default: float) -> float:
    """A module's own number: that of the first pattern that its name ends with, as peft reads them."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)
