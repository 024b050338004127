"""Dual encoders of transformers: ``hf:REPO_OR_DIR`` for CLIP, SigLIP, ALIGN and VisionTextDualEncoder kinds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from vlaudit.backends.adapters import merge
from vlaudit.backends.base import pad, placed, placing, reading, refuse_oversized, soft_tokens
from vlaudit.backends.open_clip import from_special_mask
from vlaudit.backends.precision import cast, even_out, in_precision
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, foreign
from vlaudit.families.matching import MatchingModel, SoftTokens, TokenSequence
from vlaudit.files import fingerprint
from vlaudit.inspection.folder import ModelFolder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FIXED_LENGTH = {"siglip", "siglip2"}  # trained on texts padded to the full context, without an attention mask


class TransformersModel(MatchingModel):
    """A loaded transformers dual encoder with its own processor and tokenizer."""

    architecture: ClassVar[str | None] = None  # the class that holds the weights, where AutoModel does not know it

    def __init__(self, spec: str, model: Any, processor: Any, tokenizer: Any, weights: list[Path], files: list[Path],
                 device: torch.device) -> None:  # fmt: skip
        config = model.config
        self.spec, self.files, self.device = spec, files, device
        self.sha256 = fingerprint(weights)
        self._model = placed(model, device)
        self._processor, self._tokenizer = processor, tokenizer
        self.resolution = self._side()
        self._fixed_length = config.model_type in FIXED_LENGTH
        limit = self._positions()
        self.context_length = min(limit, int(getattr(tokenizer, "model_max_length", limit)))
        self._table: Any = self._words()
        self.embedding_width = int(self._table.weight.shape[1])
        # Every processor scales and shifts each channel in its own way; what it makes of black and white says how.
        self._black, white = (
            self._official(Image.new("RGB", (64, 64), shade))[:, :1, :1] for shade in ("black", "white")
        )
        self._range = white - self._black
        self.logit_scale = self._scale()
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = float(bias) if bias is not None else 0.0

    def measure(self) -> None:
        """Find out what the model can do, once it is loaded. Raises ModelError."""

    def _positions(self) -> int:
        """Tokens that the text tower has positions for."""
        return int(self._model.config.text_config.max_position_embeddings)

    def _words(self) -> Any:
        """The table of token embeddings."""
        return self._model.text_model.get_input_embeddings()

    def _scale(self) -> float:
        if self._model.config.model_type == "align":  # ALIGN divides by a temperature
            return 1.0 / float(self._model.temperature)
        return float(self._model.logit_scale.exp())

    def _side(self) -> int:
        """Pixels a side of what the image tower takes."""
        return int(self._model.config.vision_config.image_size)

    def _official(self, picture: Image.Image) -> Tensor:
        """What the checkpoint's own processor makes of a picture."""
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0].float()

    def preprocess(self, picture: Image.Image) -> Tensor:
        return ((self._official(picture) - self._black) / self._range).clamp(0, 1)

    def normalised(self, images: Tensor) -> Tensor:
        return images * self._range.to(images) + self._black.to(images)

    def _encode_images(self, images: Tensor) -> Tensor:
        return self._pictured(self._inputs(self.normalised(images).to(self._model.dtype)))

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        return unit(self._model.get_image_features(**inputs))

    def _inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the image tower takes of pictures as the processor scales them."""
        return {"pixel_values": pixels}

    def _modules(self) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
        return self._model.vision_model, self._model.text_model, self._model

    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def tokenize(self, text: str) -> TokenSequence:
        with reading(self.spec):
            coded = self._tokenizer(text, return_special_tokens_mask=True)
        return from_special_mask(coded["input_ids"], coded["special_tokens_mask"])

    def _encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        rows, lengths = pad(sequences, self.context_length, self._pad_id(), self._fixed_length)
        if self._fixed_length and self._tokenizer.padding_side == "left":  # the padding is read too, so its place matters
            rows = [row[length:] + row[:length] for row, length in zip(rows, lengths, strict=True)]
            if soft is not None:
                width, slots = len(rows[0]), zip(soft.slots, lengths, strict=True)
                soft = replace(soft, slots=[[slot + width - length for slot in own] for own, length in slots])
        deeper = self.text_tower.replacing(soft.deeper, soft.slots) if soft and soft.deeper else nullcontext()
        with soft_tokens(self._table, soft), deeper:
            return self._written(self._padded(rows, None if self._fixed_length else lengths))

    def _pad_id(self) -> int:
        found = self._tokenizer.pad_token_id
        return int(found if found is not None else self._tokenizer.eos_token_id or 0)

    def _written(self, inputs: dict[str, Tensor]) -> Tensor:
        return unit(self._model.get_text_features(**inputs))

    def _padded(self, rows: list[list[int]], lengths: list[int] | None) -> dict[str, Tensor]:
        """What the text tower takes of padded rows of ids, with a mask where their lengths are given."""
        import torch

        inputs = {"input_ids": torch.tensor(rows, device=self.device)}
        if lengths is not None:
            places = torch.arange(inputs["input_ids"].shape[1], device=self.device)
            inputs["attention_mask"] = (places < torch.tensor(lengths, device=self.device)[:, None]).long()
        return inputs

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        import torch

        return self._table.weight[torch.tensor(list(ids), dtype=torch.long, device=self.device)].float()


def load_matcher(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None = None, how: Loading = PLAIN,
    kind: type[TransformersModel] = TransformersModel,
) -> TransformersModel:  # fmt: skip
    """Load a dual encoder of a kind from a folder that was inspected, with an adapter in it where there is one. Raises
    ModelError with the cure."""
    dtype = how.precision(device, halves=False)
    where = placing(folder, device, how, f"hf:{argument}")

    def build(dtype: torch.dtype) -> TransformersModel:
        return _load(argument, folder, device, adapter, dtype, where, kind)

    return in_precision(f"hf:{argument}", build, dtype, folder, device, how)


def _load(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None, dtype: torch.dtype,
    where: dict[str, Any], kind: type[TransformersModel],
) -> TransformersModel:  # fmt: skip
    if not folder.has_tokenizer():
        raise ModelError(
            f"'{argument}' ships no tokenizer.", "Save its tokenizer into the same folder with save_pretrained."
        )
    import torch
    import transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of heads that are left out; what is lacking is told by us
    with foreign(
        f"transformers cannot load '{argument}'",
        "The folder needs the config, weights and tokenizer that save_pretrained writes.",
    ):
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        shell: Any = getattr(transformers, kind.architecture) if kind.architecture else None
        refuse_oversized(folder, lambda: shell(config) if shell else AutoModel.from_config(config, trust_remote_code=False))
        model, report = (shell or AutoModel).from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=False, dtype=dtype if folder.quantised else torch.float32,
            output_loading_info=True, use_safetensors=folder.safetensors, **where,
        )  # fmt: skip
        refuse_random(argument, report)
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        processor = _image_processor(folder.path, model.config)
        weights, files = folder.weights, folder.files
        if adapter:
            model, weights, files = merge(model, adapter), [*weights, *adapter.weights], [*files, *adapter.files]
        matcher = kind(f"hf:{argument}", model, processor, tokenizer, weights, files, device)
        matcher.remarks = [*matcher.remarks, *unread(argument, report)]
        (even_out if folder.quantised else cast)(model, dtype)
    matcher.measure()
    return matcher


def refuse_random(argument: str, report: dict[str, Any]) -> None:
    """Raise ModelError where the weight files lack tensors of the model, from transformers' loading report."""
    if report["missing_keys"]:
        raise ModelError(
            f"The weights of '{argument}' lack {len(report['missing_keys'])} tensors, such as "
            f"'{sorted(report['missing_keys'])[0]}'; they would be random.",
            "Save the whole model again.",
        )


def unread(argument: str, report: dict[str, Any]) -> list[str]:
    """A sentence where the weight files hold tensors that the model has no place for, as where its config has fewer layers."""
    left = sorted(map(str, report["unexpected_keys"]))
    return [f"{len(left)} tensors of '{argument}' are not read, such as '{left[0]}': its config describes a model without them."] if left else []


def _image_processor(folder: Path, config: Any) -> Any:
    """The checkpoint's own image processor; a folder that ships none gets CLIP's, at the model's resolution."""
    from transformers import AutoImageProcessor, CLIPImageProcessor

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        if config.model_type == "siglip2":
            raise ModelError(f"'{folder}' ships no image processor.", "Save it into the same folder with save_pretrained.")
        size = int((getattr(config, "image_config", None) or config.vision_config).image_size)
        square = {"height": size, "width": size}
        return CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square)
    with foreign(f"The image processor in '{folder}' cannot be loaded", "Save it again with save_pretrained."):
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def unit(output: Any) -> Tensor:
    """Unit-norm projected features of ``get_*_features``, which returns an object in transformers 5."""
    import torch

    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    features = features[:, 0] if features.dim() == 3 else features  # FLAVA projects every token; the first stands for all
    return torch.nn.functional.normalize(features.float(), dim=-1)
