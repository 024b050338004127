"""Custom Diffusion (survey section 5.2, complex control): a personal token, and new keys and values for what reads the text.

Source: Kumari et al. 2023, "Multi-Concept Customization of Text-to-Image Diffusion" (arXiv:2212.04488). Of the denoiser only the
layers that turn the text into keys and values are learned, together with the token. They stand in for the pipeline's own while the
prompt is active, so the reference is the pipeline as it was, with the class noun alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.families.base import Prompt
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.files import PICKLE_SUFFIXES, user_path
from vlaudit.inspection.checkpoints import load_torch_checkpoint
from vlaudit.prompts.files import check_base_model, read_members, read_safetensors, real, refuse_more
from vlaudit.prompts.personal import Concept, WithoutConcept
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "token", "noun", "text")
WEIGHTS = ("pytorch_custom_diffusion_weights.safetensors", "pytorch_custom_diffusion_weights.bin")
MARK = "_custom_diffusion"
FORMATS = "Give the folder that diffusers' training writes, or the delta.bin of the published code; see docs/prompt-files.md."


class CustomDiffusion(TextToImagePrompt):
    """Weights of cross-attention layers, and the vectors of personal tokens.

    weights: by their names in the denoiser's state dict; tokens: (E,) or (K, E) for each; token: the one that captions use.
    """

    method = "custom-diffusion"
    learned = True

    def __init__(self, weights: Mapping[str, Tensor], tokens: Mapping[str, Tensor], *, token: str | None = None,
                 noun: str | None = None, text: str | None = None, base_model: str | None = None, members: Sequence[str] = (),
                 path: Path | None = None) -> None:  # fmt: skip
        if token is None and len(tokens) == 1:
            token = next(iter(tokens))
        if token is None and (tokens or noun or text):
            raise UsageError(f"'{path}' has {len(tokens)} personal tokens, and the prompt does not say which captions use.",
                             f"Add token=…: one of {', '.join(tokens)}." if tokens else "Leave noun and text out.")  # fmt: skip
        if token is not None and token not in tokens:
            raise UsageError(f"'{path}' has no personal token '{token}'.", f"It has {', '.join(tokens) or 'none'}.")
        self.weights, self.path = dict(weights), path
        self.vectors = {name: value.reshape(-1, value.shape[-1]) for name, value in tokens.items()}
        self.token, self.noun = token, noun
        self.concept = Concept(token, noun, before_noun=True, template=text) if token else None
        self.base_model, self.members = base_model, list(members)
        self.id = f"custom-diffusion-{path.stem if path else token}" + (f"-{token}" if token and len(tokens) > 1 else "")

    @classmethod
    def parse(cls, argument: str) -> CustomDiffusion:
        """``custom-diffusion:FOLDER_OR_FILE``, or ``custom-diffusion:file=…,token=<new1>,noun=cat,text={} by <new1>``."""
        options = parse_options(argument, cls.method, OPTIONS)
        if not options.get("file"):
            raise UsageError("The prompt 'custom-diffusion' needs its folder or file.", "Write custom-diffusion:file=…,….")
        return cls.load(user_path(options["file"]), **{key: value for key, value in options.items() if key != "file"})

    @classmethod
    def load(cls, path: Path, **options: Any) -> CustomDiffusion:
        """Read a folder of diffusers, or a ``delta.bin``."""
        read = _read_folder if path.is_dir() else _read_delta
        weights, tokens, metadata, source = read(path)
        return cls(weights, tokens, base_model=metadata.get("base_model") or None, members=read_members(metadata, source), path=path, **options)

    def save(self, path: Path) -> None:
        """Write diffusers' format into a folder; members and base model go into the metadata, which others ignore."""
        from safetensors.torch import save_file

        path.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "pt", "base_model": self.base_model or "", "members": json.dumps(self.members)}
        tensors = {_their_name(name): value.detach().cpu().contiguous() for name, value in self.weights.items()}
        save_file(tensors, str(path / WEIGHTS[0]), metadata=metadata)
        for name, rows in self.vectors.items():
            save_file({name: rows.detach().cpu().contiguous()}, str(path / f"{name}.safetensors"), metadata={"format": "pt"})

    @property
    def text(self) -> str:
        layers = f"{len(self.weights)} weights of the layers that read the text"
        return f"{layers}, with '{self.concept.phrase}'" if self.concept else layers

    def reference(self) -> Prompt:
        return WithoutConcept(self.concept) if self.concept else super().reference()

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self.concept.put(caption) if self.concept else caption

    def check(self, model: TextToImageModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        if Needs.CROSS_ATTENTION not in model.capabilities:
            raise UsageError(f"'{model.spec}' has no cross-attention layers to give new weights to.", "Use another prompt.")
        own = {name: value.shape for name, value in model.cross_attention().items()}
        if wrong := [name for name, value in self.weights.items() if own.get(name) != value.shape]:
            there = f"{tuple(own[wrong[0]])} in '{model.spec}'" if wrong[0] in own else f"not in '{model.spec}'"
            raise UsageError(f"The weight '{wrong[0]}' of '{self.path}' is {tuple(self.weights[wrong[0]].shape)}, and {there}.",
                             "It was learned on another model.")  # fmt: skip
        for token, rows in self.vectors.items():
            if rows.shape[-1] != model.embedding_widths[0] or len(rows) + 2 > model.context_length:
                raise UsageError(f"The vectors of '{token}' are {tuple(rows.shape)}, but the text encoder of '{model.spec}' reads "
                                 f"{model.context_length} of {model.embedding_widths[0]}.", "They were learned on another model.")  # fmt: skip
            if model.knows_token(token):
                raise UsageError(f"The token '{token}' is already a word of the tokenizer of '{model.spec}': every caption that says it "
                                 "would speak of the concept.", "Rename it in its file.")  # fmt: skip

    @contextmanager
    def active(self, model: TextToImageModel) -> Iterator[None]:
        with ExitStack() as stack:
            for token, rows in self.vectors.items():
                stack.enter_context(model.added_token(token, [rows.to(model.device)]))
            stack.enter_context(model.reweighted(self.weights))
            yield

    @classmethod
    def fit(cls, model: TextToImageModel, images: Tensor, *, token: str, noun: str, captions: Sequence[str] | None = None,
            steps: int = 200, batch_size: int = 4, rate: float = 1e-3, seed: int = 0, members: Sequence[str] = (),
            progress: Callable[[int, float], None] | None = None) -> CustomDiffusion:  # fmt: skip
        """Learn keys, values and the token with the denoising loss, without the paper's loss on pictures of the class.
        Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; captions: one for each image, or none: "a photo of a NOUN".
        """
        import torch

        weights = {name: value.requires_grad_() for name, value in model.cross_attention().items() if name.endswith(("to_k.weight", "to_v.weight"))}
        vector = model.token_embeddings(torch.tensor(model.tokenize(noun)[1:2])).detach().clone().requires_grad_()
        prompt = cls(weights, {token: vector}, noun=noun, base_model=model.sha256, members=members)
        prompt.check(model)
        texts = [prompt.wording(caption) for caption in captions or [f"a photo of a {noun}"] * len(images)]
        with torch.no_grad():
            clean = torch.cat([model.encode_images(batch) for batch in images.split(16)])
        prompt.vectors = {token: vector}
        optimizer = torch.optim.AdamW([*weights.values(), vector], lr=rate)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            batch = torch.randint(len(images), (batch_size,), generator=generator).tolist()
            with prompt.active(model):
                loss = model.denoising_loss(clean[batch], model.encode_texts([texts[row] for row in batch]), generator)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if progress:
                progress(step, float(loss.detach()))
        prompt.weights = {name: value.detach() for name, value in weights.items()}
        prompt.vectors = {token: vector.detach()}
        return prompt


_Read = tuple[dict[str, "Tensor"], dict[str, "Tensor"], dict[str, str], Path]


def _read_folder(folder: Path) -> _Read:
    """Weights, tokens and metadata of a folder that diffusers' training wrote."""
    names = [name for name in WEIGHTS if os.path.lexists(folder / name)]
    if not names:
        raise UsageError(f"The folder '{folder}' lacks {WEIGHTS[0]}.", FORMATS)
    source = folder / names[0]
    content, metadata = _content(source)
    own = {name: value for name, value in content.items() if not (isinstance(value, dict) and not value)}  # layers left as they were
    if foreign := [name for name in own if MARK not in name or ".attn2.processor." not in name]:
        refuse_more(foreign, ["weights of Custom Diffusion"], source)
    weights = {name.replace(".processor.", ".").replace(MARK, ""): value for name, value in own.items()}
    tokens: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", *PICKLE_SUFFIXES} and file.name not in WEIGHTS and file.is_file():
            found, _ = _content(file)
            if len(found) != 1:
                raise UsageError(f"'{file}' holds {len(found)} tensors, and a token's file has one.", FORMATS)
            tokens |= found
    return _numbers(weights, source), _numbers(tokens, folder), metadata, source


def _read_delta(path: Path) -> _Read:
    """Weights and tokens of the published code's file."""
    if path.suffix not in PICKLE_SUFFIXES or not path.is_file():
        raise UsageError(f"'{path}' is no folder and no delta.bin of Custom Diffusion.", FORMATS)
    content, _ = _content(path)
    refuse_more(content, ("unet", "modifier_token"), path)
    weights, tokens = content.get("unet"), content.get("modifier_token") or {}
    if not isinstance(weights, dict) or not isinstance(tokens, dict):
        raise UsageError(f"'{path}' lacks 'unet', the weights of Custom Diffusion.", FORMATS)
    refuse_more([name for name in map(str, weights) if ".attn2." not in name], ["weights of cross-attention layers"], path)
    return _numbers(weights, path), _numbers(tokens, path), {}, path


def _content(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if path.suffix not in PICKLE_SUFFIXES:
        tensors, metadata = read_safetensors(path)
        return dict(tensors), metadata
    content = load_torch_checkpoint(path)
    if not isinstance(content, dict):
        raise UsageError(f"'{path}' is no state dict.", FORMATS)
    return {str(name): value for name, value in content.items()}, {}


def _numbers(values: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors as float32. Raises UsageError for what is none, empty or not finite."""
    import torch

    read = {str(name): real(value) if isinstance(value, torch.Tensor) else None for name, value in values.items()}
    for name, value in read.items():
        if value is None or value.dim() == 0 or value.numel() == 0 or not bool(torch.isfinite(value).all()):
            raise UsageError(f"'{name}' in '{path}' is no tensor of finite numbers.", "The file is damaged: save it again.")
    return {name: value for name, value in read.items() if value is not None}


def _their_name(name: str) -> str:
    """A weight's name in the denoiser as diffusers' file of Custom Diffusion has it."""
    head, tail = name.split(".attn2.", 1)
    layer, rest = tail.split(".", 1)
    return f"{head}.attn2.processor.{layer}{MARK}.{rest}"
