"""Any-to-any models of transformers, drawing: ``hf:REPO_OR_DIR#drawing`` for Janus, whose language model writes the tokens of a picture
(arXiv:2501.17811). Without ``#drawing`` the same checkpoint answers questions about pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.backends.adapters import merge
from vlaudit.backends.base import placed, placing, reading, refuse_oversized
from vlaudit.backends.precision import in_precision
from vlaudit.backends.transformers_matching import refuse_random
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, UsageError, foreign
from vlaudit.families.text_to_image import Conditioning
from vlaudit.families.text_to_image_tokens import TokenModel
from vlaudit.files import fingerprint
from vlaudit.inspection.folder import ModelFolder
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DRAWING = "drawing"
LONGEST = 256  # tokens of a text; pictures need the rest of the context
GUIDANCE = 5.0  # transformers' own default where a checkpoint says nothing


class JanusDrawer(TokenModel):
    """A loaded Janus that draws. A text's conditioning is its tokens, which are all that the language model reads of it."""

    steps: int  # tokens of a picture: as many passes, each guided

    def __init__(self, spec: str, model: Any, processor: Any, weights: list[Path], files: list[Path], device: torch.device) -> None:
        self.spec, self.files, self.device = spec, files, device
        self.sha256 = fingerprint(weights)
        self._model, self._processor, self._tokenizer = placed(model, device), processor, processor.tokenizer
        config = model.generation_config
        if not hasattr(config, "generation_kwargs"):  # which some versions of transformers drop from its file
            config.generation_kwargs = {"boi_token_id": self._tokenizer.convert_tokens_to_ids(processor.image_start_token)}
        self.steps = int(model.model.vision_model.config.num_image_tokens)
        self.guidance = float(config.guidance_scale or GUIDANCE)
        self.guided = True
        side = isqrt(self.steps)
        if side * side != self.steps:
            raise ModelError(f"'{spec}' draws {self.steps} tokens, which are no square.", "Its config is damaged.")
        self.latent_shape = (1, side, side)
        self.context_length = min(LONGEST, int(self._tokenizer.model_max_length))
        self.capabilities = frozenset({Needs.FILES, Needs.GENERATED_PICTURES, Needs.GUIDANCE})
        model.model.language_model.register_forward_pre_hook(self._count, with_kwargs=True)
        with foreign(f"'{spec}' cannot decode a picture", "Its config and weights do not fit together."):
            self.resolution = int(self._detokenize(self.blank(1)).shape[-1])

    def _count(self, _module: Any, _arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not self.cut.measuring:
            self.passes += len(named["inputs_embeds"])

    # texts

    def tokenize(self, text: str) -> list[int]:
        with reading(self.spec):
            ids = self._processor(text=[self._asked(text)], generation_mode="image", return_tensors="pt")["input_ids"]
        return [int(token) for token in ids[0]]

    def _asked(self, text: str) -> str:
        """The text in the checkpoint's own conversation, if it has one."""
        if not getattr(self._processor, "chat_template", None):
            return text
        turns = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        return str(self._processor.apply_chat_template(turns, add_generation_prompt=True))

    def token_text(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(int(token)))

    def text_of(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())

    def knows_token(self, token: str) -> bool:
        return token in self.vocabulary

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        return self._padded(texts)[0]

    def _padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (N, L), padded on the left, and which of them are the text's; a text that is too long loses what stands before its end."""
        import torch

        length, rows = self.context_length, [self.tokenize(text) for text in texts]
        kept = [ids if len(ids) <= length else [*ids[: length - 1], ids[-1]] for ids in rows]
        pad = self._model.generation_config.pad_token_id or 0
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in kept], device=self.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in kept], device=self.device)
        return ids, mask

    def encode_texts(self, texts: Sequence[str], embeddings: Tensor | None = None) -> Conditioning:
        if embeddings is not None:
            self.lacks("text encoder to put embeddings into")
        ids, mask = self._padded(texts)
        return Conditioning({"prompt_embeds": ids[..., None].float(), "attention_mask": mask})

    def encode_nothing(self) -> Conditioning:
        return self.encode_texts([""])

    @property
    def embedding_widths(self) -> tuple[int, ...]:
        return ()

    def token_embeddings(self, ids: Tensor) -> Tensor:
        self.lacks("text encoder")

    def text_states(self, texts: Sequence[str], embeddings: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        self.lacks("text encoder")

    def added_token(self, token: str, vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
        self.lacks("place for personal tokens")

    def load_adapter(self, name: str, source: dict[str, Tensor], path: Path) -> None:
        raise UsageError(f"'{self.spec}' takes no LoRA adapters of pipelines, such as '{path}'.", "Give a folder that peft wrote as its model: hf:FOLDER#drawing.")

    def adapter(self, name: str, scale: float = 1.0) -> AbstractContextManager[None]:
        self.lacks("adapter")

    def adapter_training(self, rank: int, seed: int) -> AbstractContextManager[dict[str, Tensor]]:
        self.lacks("denoiser to adapt")

    # pictures

    def _draw(self, conditioning: Conditioning, nothing: Conditioning | None, seed: int, steps: int, guidance: float) -> Tensor:
        import torch

        if steps != self.steps:
            self.lacks(f"choice of steps: a picture is {self.steps} tokens")
        kept = conditioning.tensors["attention_mask"][0].bool()
        ids = conditioning.tensors["prompt_embeds"][0, kept, 0].long()[None]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # ``generate`` draws from the global generator
            torch.manual_seed(seed)
            tokens = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_mode="image", do_sample=True,
                                          guidance_scale=guidance)  # fmt: skip
        return tokens.view(1, *self.latent_shape[1:])

    def _detokenize(self, tokens: Tensor) -> Tensor:
        import torch

        pictures = self._processor.image_processor
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (pictures.image_mean, pictures.image_std))
        with torch.no_grad():
            drawn = self._model.decode_image_tokens(tokens.to(self.device).flatten(1)).permute(0, 3, 1, 2).float()
        return (drawn * std + mean).clamp(0, 1)

    def blank(self, count: int) -> Tensor:
        import torch

        size = int(self._model.config.vq_config.num_embeddings)
        return torch.randint(size, (count, *self.latent_shape[1:]), generator=torch.Generator().manual_seed(0)).to(self.device)

    def first_step(self, conditioning: Conditioning) -> Tensor:
        import torch

        ids = conditioning.tensors["prompt_embeds"][..., 0].long()
        with torch.no_grad():
            states = self._model.model.language_model(inputs_embeds=self._model.get_input_embeddings()(ids),
                                                      attention_mask=conditioning.tensors["attention_mask"]).last_hidden_state  # fmt: skip
            return self._model.model.generation_head(states[:, -1])


def load_drawer(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None = None, how: Loading = PLAIN
) -> JanusDrawer:
    """Load an any-to-any model that draws from a folder that was inspected. Raises ModelError."""
    spec = f"hf:{argument}"
    where = placing(folder, device, how, spec)

    def build(dtype: torch.dtype) -> JanusDrawer:
        import transformers
        from transformers import AutoConfig, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        safe: Any = {"local_files_only": True, "trust_remote_code": False}
        kind: Any = transformers.JanusForConditionalGeneration
        with foreign(f"transformers cannot load '{argument}'", "The folder needs the config, weights and processor that save_pretrained writes."):
            config = AutoConfig.from_pretrained(folder.path, **safe)
            refuse_oversized(folder, lambda: kind(config))
            model, report = kind.from_pretrained(
                folder.path, dtype=dtype, output_loading_info=True, use_safetensors=folder.safetensors, **where, **safe
            )
            refuse_random(argument, report)
            processor = AutoProcessor.from_pretrained(folder.path, **safe)
        weights, files = folder.weights, folder.files
        if adapter:
            model, weights, files = merge(model, adapter), [*weights, *adapter.weights], [*files, *adapter.files]
        return JanusDrawer(spec, model, processor, weights, files, device)

    return in_precision(spec, build, how.precision(device, folder.stored), folder, device, how)
