"""Textual inversion (survey section 5.2, tagged there as complex control): a learned token stands for a concept.

Source: Gal et al. 2022, "An Image is Worth One Word" (arXiv:2208.01618). By mechanism it is a soft prompt of one or a few
token embeddings; nothing else of the model changes. Files: what diffusers and the Stable Diffusion web UI write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
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

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

OPTIONS = ("file", "token", "noun", "text")


class TextualInversion(TextToImagePrompt):
    """A learned token that stands for a concept.

    ``vectors``: (K, E) for the first text encoder, and for the second where the file has them."""

    method = "textual-inversion"
    learned = True

    def __init__(self, vectors: Sequence[Tensor], token: str, *, noun: str | None = None, text: str | None = None,
                 base_model: str | None = None, members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        self.vectors = list(vectors)
        self.concept = Concept(token, noun, template=text)
        self.token, self.noun = token, noun
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"textual-inversion-{path.stem if path else token}"

    @classmethod
    def parse(cls, argument: str) -> TextualInversion:
        """``textual-inversion:FILE`` or ``textual-inversion:file=FILE,token=<toy>,noun=toy,text={} with a <toy>``."""
        options = parse_options(argument, cls.method, OPTIONS)
        if "file" not in options:
            raise UsageError("The prompt 'textual-inversion' needs its file.", "Write textual-inversion:file=FILE,….")
        return cls.load(user_path(options["file"]), **{key: value for key, value in options.items() if key != "file"})

    @classmethod
    def load(
        cls, path: Path, *, token: str | None = None, noun: str | None = None, text: str | None = None
    ) -> TextualInversion:
        """Read a file of diffusers or of the web UI; ``token`` overrides the name in it."""
        content, metadata = _read(path)
        named, vectors = _vectors(content, path)
        found = token or named
        if found is None:
            raise UsageError(
                f"'{path}' does not say which token it is for.", "Write textual-inversion:file=…,token=<name>."
            )
        return cls(
            vectors, found, noun=noun or metadata.get("noun") or None, text=text,
            base_model=metadata.get("base_model") or None, members=read_members(metadata, path), path=path,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write diffusers' format; noun, members and base model go into the metadata, which others ignore."""
        from safetensors.torch import save_file

        names = [self.token] if len(self.vectors) == 1 else ["clip_l", "clip_g"]
        metadata = {
            "format": "pt", "method": self.method, "token": str(self.token), "noun": self.noun or "",
            "base_model": self.base_model or "", "members": json.dumps(self.members),
        }  # fmt: skip
        tensors = {str(name): rows.detach().cpu().contiguous() for name, rows in zip(names, self.vectors, strict=True)}
        save_file(tensors, str(path), metadata=metadata)

    @property
    def text(self) -> str:
        place = self.concept.template or (f"in the place of '{self.noun}'" if self.noun else "after the caption")
        return f"{len(self.vectors[0])} learned vectors as '{self.token}', {place}"

    def reference(self) -> Prompt:
        return WithoutConcept(self.concept)

    def check(self, model: TextToImageModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        widths = tuple(rows.shape[-1] for rows in self.vectors)
        if widths != model.embedding_widths[: len(widths)]:
            raise UsageError(
                f"The vectors of '{self.token}' are {' and '.join(map(str, widths))} wide, but the text encoders of "
                f"'{model.spec}' read {' and '.join(map(str, model.embedding_widths))}.",
                "They were learned on another model.",
            )
        if model.knows_token(str(self.token)):
            raise UsageError(
                f"The token '{self.token}' is already a word of the tokenizer of '{model.spec}': every caption that says it "
                "would speak of the concept.",
                "Give it another name with token=<name>.",
            )
        if len(self.vectors[0]) + 2 > model.context_length:
            raise UsageError(f"'{self.token}' has {len(self.vectors[0])} vectors; '{model.spec}' reads at most "
                             f"{model.context_length} tokens.")  # fmt: skip

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self.concept.put(caption)

    def active(self, model: TextToImageModel) -> AbstractContextManager[None]:
        return model.added_token(str(self.token), [rows.to(model.device) for rows in self.vectors])

    @classmethod
    def fit(cls, model: TextToImageModel, images: Tensor, *, token: str, noun: str, captions: Sequence[str] | None = None,
            size: int = 1, steps: int = 200, batch_size: int = 4, rate: float = 5e-3, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> TextualInversion:  # fmt: skip
        """Learn ``size`` vectors with the denoising loss, the model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; captions: one for each image, or none: "a photo of a NOUN"; the noun gives way to
        the token, and its embedding starts the vectors.
        """
        import torch

        ids = [model.tokenize(noun)[1]] * size
        vectors = model.token_embeddings(torch.tensor(ids)).detach().clone().to(model.device).requires_grad_()
        prompt = cls([vectors], token, noun=noun, base_model=model.sha256, members=members)
        prompt.check(model)
        texts = [prompt.wording(caption) for caption in captions or [f"a photo of a {noun}"] * len(images)]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            clean = torch.cat([model.encode_images(batch) for batch in images.split(16)])
        optimizer = torch.optim.AdamW([vectors], lr=rate)
        for step in range(steps):
            batch = torch.randint(len(images), (batch_size,), generator=generator).tolist()
            with prompt.active(model):
                loss = model.denoising_loss(clean[batch], model.encode_texts([texts[row] for row in batch]), generator)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if progress:
                progress(step, float(loss.detach()))
        prompt.vectors = [vectors.detach()]
        return prompt


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    """The file's content and, of safetensors, its metadata."""
    if path.suffix in PICKLE_SUFFIXES and os.path.isfile(path):
        return load_torch_checkpoint(path), {}
    return read_safetensors(path)


def _vectors(content: Any, path: Path) -> tuple[str | None, list[Tensor]]:
    """The token's name, where the file has one, and its vectors, (K, E) for each text encoder."""
    import torch

    name: str | None = None
    found: list[Any] = []
    own: tuple[str, ...] = ()  # where the format says so
    if isinstance(content, torch.Tensor):
        found = [content]
    elif isinstance(content, dict):
        parameters = content.get("string_to_param")
        if isinstance(parameters, dict):  # the web UI's .pt
            name, found = content.get("name"), list(parameters.values())
            refuse_more(map(str, parameters), [str(key) for key in parameters][:1], path)
            own = ("string_to_param",)
        elif {"clip_l", "clip_g"} <= content.keys():  # SDXL: one for each text encoder
            found, own = [content["clip_l"], content["clip_g"]], ("clip_l", "clip_g")
        elif "emb_params" in content:  # the web UI's safetensors
            found, own = [content["emb_params"]], ("emb_params",)
        elif len(content) == 1:
            name, value = next(iter(content.items()))
            found = [value]
        if own:
            refuse_more((str(key) for key, value in content.items() if isinstance(value, torch.Tensor)), own, path)
    read = [real(value) for value in found if isinstance(value, torch.Tensor) and value.dim() and value.numel()]
    rows = [value.reshape(-1, value.shape[-1]) for value in read if value is not None]
    if not rows or len(rows) != len(found) or not all(torch.isfinite(value).all() for value in rows):
        raise UsageError(
            f"'{path}' holds no token embeddings in a format vlaudit knows.",
            "Give the learned_embeds.safetensors of diffusers or a web UI embedding; see docs/prompt-files.md.",
        )
    return name if isinstance(name, str) else None, rows
