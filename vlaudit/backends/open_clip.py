"""open_clip models: ``open_clip:ARCH/PRETRAINED`` that it knows, ``open_clip:hf-hub:ORG/NAME`` with a config on the hub, at a
``@REVISION`` if one is given, and ``open_clip:local-dir:PATH`` from a folder. ``#matching`` behind it asks a CoCa for the score of its
captioner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.backends.base import Backend, commit_of, download, pad, reading, refuse_oversized, soft_tokens
from vlaudit.backends.precision import cast, in_precision
from vlaudit.cage import network
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import CapabilityError, ModelError, UsageError, foreign
from vlaudit.families.matching import MatchingModel, SoftTokens, TokenSequence
from vlaudit.families.pairs import PairModel
from vlaudit.files import fingerprint, folder_files
from vlaudit.inspection.checkpoints import refuse_code
from vlaudit.inspection.folder import ModelFolder, find_folder, inspect_open_clip
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

CAPTIONER = "#matching"
LOCAL, HUB = "local-dir:", "hf-hub:"
WANTED = ["open_clip*", "*token*", "vocab.*", "merges.txt", "*.model"]  # not the same weights in other layouts


class OpenCLIPModel(MatchingModel):
    """A loaded open_clip model with its own transform and tokenizer."""

    def __init__(self, spec: str, model: Any, tokenizer: Any, weights: list[Path], files: list[Path],
                 device: torch.device) -> None:  # fmt: skip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Normalize

        self.spec, self.files, self.device = spec, files, device
        self.sha256 = fingerprint(weights)
        self._model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        self._resize = [step for step in transform.transforms if not isinstance(step, Normalize)]
        cfg = model.visual.preprocess_cfg
        self._mean = torch.tensor(cfg["mean"], device=device).view(3, 1, 1)
        self._std = torch.tensor(cfg["std"], device=device).view(3, 1, 1)
        size = model.visual.image_size
        self.resolution = int(size if isinstance(size, int) else size[0])
        self.context_length = int(model.context_length)
        self.logit_scale = float(model.logit_scale.exp())
        self.logit_bias = float(model.logit_bias) if getattr(model, "logit_bias", None) is not None else 0.0
        table = self._table
        self.embedding_width = int(table.weight.shape[1]) if table is not None else 0

    @property
    def _table(self) -> torch.nn.Embedding | None:
        owner = self._model if hasattr(self._model, "token_embedding") else getattr(self._model, "text", None)
        return getattr(owner, "token_embedding", None)

    def preprocess(self, picture: Image) -> Tensor:
        value: Any = picture
        for step in self._resize:
            value = step(value)
        return value

    def normalised(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std

    def _encode_images(self, images: Tensor) -> Tensor:
        return _unit(self._model.encode_image(self.normalised(images).to(next(self._model.parameters()).dtype)))

    def _modules(self) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
        own = self._model
        return own.visual, own.text if hasattr(own, "text") else own.transformer, own

    def tokenize(self, text: str) -> TokenSequence:
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:  # open_clip's wrapper of a Hugging Face tokenizer
            with reading(self.spec):
                coded = inner(self._tokenizer.clean_fn(text), return_special_tokens_mask=True)
            return from_special_mask(coded["input_ids"], coded["special_tokens_mask"])
        ids = [self._tokenizer.sot_token_id, *self._tokenizer.encode(text), self._tokenizer.eot_token_id]
        return TokenSequence(ids, 1, 1)

    def vocabulary(self) -> dict[str, int]:
        inner = getattr(self._tokenizer, "tokenizer", None)
        return dict(inner.get_vocab() if inner is not None else self._tokenizer.encoder)

    def text_of(self, ids: Sequence[int]) -> str:
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            return str(inner.decode(list(ids), skip_special_tokens=True))
        special = {self._tokenizer.sot_token_id, self._tokenizer.eot_token_id}
        return str(self._tokenizer.decode([token for token in ids if token not in special]))

    def _encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        table = self._table
        if soft is not None and table is None:
            raise CapabilityError(f"The text tower of '{self.spec}' has no token embeddings to put a soft prompt in.")
        deeper = self.text_tower.replacing(soft.deeper, soft.slots) if soft and soft.deeper else nullcontext()
        with soft_tokens(table, soft) if table is not None else nullcontext(), deeper:
            return _unit(self._model.encode_text(self._ids(sequences)))

    def _ids(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """(N, L) as the text tower reads them."""
        import torch

        inner = getattr(self._tokenizer, "tokenizer", None)
        pad_id = (inner.pad_token_id or 0) if inner is not None else 0
        return torch.tensor(pad(sequences, self.context_length, pad_id, to_limit=True)[0], device=self.device)

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        import torch

        table = self._table
        if table is None:
            return super().token_embeddings(ids)
        return table.weight[torch.tensor(list(ids), dtype=torch.long, device=self.device)].float()


class CaptioningModel(PairModel, OpenCLIPModel):
    """CoCa's captioner (arXiv:2205.01917), as a score of pairs: the log-likelihood of the text, given the picture."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.logit_scale, self.logit_bias = 1.0, 0.0

    def _encode_images(self, images: Tensor) -> Tensor:
        return self._model._encode_image(self.normalised(images).to(next(self._model.parameters()).dtype))[1]

    def pairing(self, texts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        import torch

        with torch.no_grad():
            ids = self._ids([self.tokenize(text) for text in texts])
            states, wanted = self._model._encode_text(ids)[1][:, :-1], ids[:, 1:]
        kept = wanted != self._model.pad_id

        def pairs(_: slice, seen: Tensor) -> Tensor:
            count = len(seen)
            logits = self._model.text_decoder(seen.repeat_interleave(len(texts), dim=0), states.repeat(count, 1, 1))
            likely = logits.float().log_softmax(-1).gather(-1, wanted.repeat(count, 1)[..., None])[..., 0]
            return (likely * kept.repeat(count, 1)).sum(dim=1).view(count, len(texts))

        return lambda seen: self.cut("pairs", pairs, seen, weight=len(texts) * seen[:1].numel())


def _unit(features: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)


def from_special_mask(ids: list[int], mask: list[int]) -> TokenSequence:
    """A token sequence from a Hugging Face tokenizer's special-tokens mask."""
    lead = next((i for i, special in enumerate(mask) if not special), len(mask))
    tail = next((i for i, special in enumerate(reversed(mask)) if not special), 0)
    return TokenSequence(list(ids), lead, tail)


class OpenCLIPBackend(Backend):
    """``open_clip:…``"""

    def is_remote(self, argument: str) -> bool:
        return not argument.startswith(LOCAL)

    def family(self, argument: str) -> Family:
        return Family.MATCHING

    def files(self, argument: str) -> list[Path]:
        argument = argument.removesuffix(CAPTIONER)
        return [] if self.is_remote(argument) else folder_files(_folder(argument))

    def load(self, argument: str, device: torch.device, how: Loading = PLAIN) -> OpenCLIPModel:
        dtype, spec = how.precision(device, halves=False), f"open_clip:{argument}"

        def rounded(model: OpenCLIPModel, dtype: torch.dtype) -> OpenCLIPModel:
            cast(model._model, dtype)
            return model

        argument = argument.removesuffix(CAPTIONER)
        if self.is_remote(argument) and not argument.startswith(HUB):
            weights, build = self._remote(argument, device, spec)
            elements = weights.stat().st_size // 4
            return in_precision(spec, lambda dtype: rounded(build(), dtype), dtype, elements, device, how)
        place = download(argument.removeprefix(HUB), WANTED) if argument.startswith(HUB) else _folder(argument)
        folder, config = inspect_open_clip(place)
        model = in_precision(spec, lambda dtype: rounded(self._load(spec, folder, config, device), dtype), dtype, folder, device, how)
        model.revision = commit_of(place) if argument.startswith(HUB) else None
        return model

    def _load(self, spec: str, folder: ModelFolder, config: dict[str, Any], device: torch.device) -> OpenCLIPModel:
        import open_clip

        def build(device: str = "cpu") -> Any:
            return open_clip.create_model(
                f"{LOCAL}{folder.path}", load_weights=False, pretrained_text=False, device=device
            )

        logging.disable(logging.WARNING)  # it warns of random weights, which the next lines replace
        try:
            with foreign(
                f"open_clip cannot load '{folder.path}'",
                "The folder needs open_clip_config.json and open_clip_model.safetensors that belong together.",
            ):
                refuse_oversized(folder, lambda: build("meta"))
                model = build()
                open_clip.load_checkpoint(model, str(folder.weights[0]), weights_only=True)
                tokenizer = _tokenizer(config["model_cfg"]["text_cfg"], folder.path)
                return _as_asked(spec, model)(spec, model, tokenizer, folder.weights, folder.files, device)
        finally:
            logging.disable(logging.NOTSET)

    def _remote(self, argument: str, device: torch.device, spec: str) -> tuple[Path, Callable[[], OpenCLIPModel]]:
        """The downloaded weights of a model that open_clip knows, and how to load it."""
        import open_clip
        from open_clip.pretrained import download_pretrained, get_pretrained_cfg

        architecture, _, tag = argument.rpartition("/")
        if not architecture or (architecture, tag) not in open_clip.list_pretrained():
            raise UsageError(
                f"open_clip knows no pretrained model '{argument}'.",
                "Write open_clip:ARCH/PRETRAINED, such as open_clip:ViT-B-32/laion2b_s34b_b79k, open_clip:hf-hub:ORG/NAME@REVISION or "
                "open_clip:local-dir:PATH.",
            )
        problem = f"'{argument}' could not be downloaded or loaded"
        cure = "Check the network, or download it once and use open_clip:local-dir:PATH."
        with foreign(problem, cure), network.hub():
            weights = Path(download_pretrained(get_pretrained_cfg(architecture, tag)))
            refuse_code([weights])

        def build() -> OpenCLIPModel:
            with foreign(problem, cure), network.hub():
                model = open_clip.create_model(architecture, pretrained=str(weights))
                tokenizer = _tokenizer(open_clip.get_model_config(architecture)["text_cfg"], None)
                return _as_asked(spec, model)(spec, model, tokenizer, [weights], [weights], device)

        return weights, build


def _as_asked(spec: str, model: Any) -> type[OpenCLIPModel]:
    """Which score a SPEC asks for. Raises ModelError for one that the model does not have."""
    if not spec.endswith(CAPTIONER):
        return OpenCLIPModel
    if not hasattr(model, "text_decoder"):
        raise ModelError(f"'{spec}' has no captioner: only CoCa has one.", f"Leave {CAPTIONER} out.")
    return CaptioningModel


def _tokenizer(text: dict[str, Any], folder: Path | None) -> Any:
    """The tokenizer that a model's config asks for, with the options that inspection let through: from its folder, or of a
    model that open_clip itself knows, from the hub."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length, options = text.get("context_length", DEFAULT_CONTEXT_LENGTH), text.get("tokenizer_kwargs") or {}
    if not text.get("hf_tokenizer_name"):
        return SimpleTokenizer(context_length=length, **options)
    source = str(folder) if folder else text["hf_tokenizer_name"]
    return HFTokenizer(source, context_length=length, tokenizer_mode=text.get("tokenizer_mode"), trust_remote_code=False,
                       local_files_only=folder is not None, **options)  # fmt: skip


def _folder(argument: str) -> Path:
    name = argument.removeprefix(LOCAL)
    folder = find_folder(name)
    if folder is None:
        raise UsageError(
            f"The model folder '{name}' does not exist.", "Write open_clip:local-dir:PATH with a folder."
        )
    return folder
