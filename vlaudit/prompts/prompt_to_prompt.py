"""Prompt-to-prompt (survey section 5.2, complex control): edit a picture by its text and keep its attention.

Source: Hertz et al. 2022 (arXiv:2208.01626). The source text and its edit are drawn side by side from the same noise; for
the first share of the sampling steps the edit's cross-attention is that of the source, for words that both have, and for
a smaller share its self-attention too. The mechanism follows the paper for replaced and added words (one alignment of the
two token sequences serves both); re-weighting words is left out. It needs a U-Net with cross-attention.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import Conditioning, Generated, TextToImagePrompt
from vlaudit.prompts.design import Design
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageModel

SOURCE = "source:"  # marks the source text's tensors in a conditioning
ALIGNMENT = "alignment"  # (B, Ls, Le): how much of each source token's attention an edited token takes
SHARED = "shared"  # (B, Le): 1 for edited tokens that have a counterpart, 0 for added ones
SMALL = 16 * 16  # self-attention is kept on maps up to this many positions, as in the paper's code
OPTIONS = ("edit", "source", "cross", "self")


class PromptToPrompt(TextToImagePrompt):
    """An edit of the caption that keeps the attention of the caption itself.

    ``edit`` and ``source`` are text with ``{}`` for the caption; ``cross`` and ``self_``: shares of the steps."""

    method = "prompt-to-prompt"

    def __init__(self, edit: str, source: str = "{}", *, cross: float = 0.8, self_: float = 0.4) -> None:
        self._edit, self._source = Design(edit), Design(source)
        for share in (cross, self_):
            if not 0 <= share <= 1:
                raise UsageError(f"{share} is no share of the sampling steps.", "Give a number from 0 to 1.")
        self.cross, self.self_ = cross, self_
        self.id = f"prompt-to-prompt {source} → {edit}, attention {cross:g}/{self_:g}"

    @classmethod
    def parse(cls, argument: str) -> PromptToPrompt:
        """``prompt-to-prompt:edit=an oil painting of {},source={},cross=0.8,self=0.4``; all but ``edit`` are optional."""
        options = parse_options(argument, cls.method, OPTIONS)
        if "edit" not in options:
            raise UsageError(
                "The prompt 'prompt-to-prompt' needs an edit.", "Write prompt-to-prompt:edit=a painting of {}."
            )
        try:
            shares = float(options.get("cross", 0.8)), float(options.get("self", 0.4))
        except ValueError as error:
            raise UsageError(
                "The attention shares must be numbers.", "Write for example cross=0.8,self=0.4."
            ) from error
        return cls(options["edit"], options.get("source", "{}"), cross=shares[0], self_=shares[1])

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self._edit.wording(caption)

    def check(self, model: TextToImageModel) -> None:
        if Needs.CROSS_ATTENTION not in model.capabilities:
            raise UsageError(f"Prompt-to-prompt needs a U-Net with cross-attention, which '{model.spec}' has not.",
                             "It works for Stable Diffusion 1, 2 and SDXL.")  # fmt: skip

    def encode(self, model: TextToImageModel, texts: Sequence[str], captions: Sequence[str],
               embeddings: Tensor | None = None) -> Conditioning:  # fmt: skip
        import torch

        sources = [self._source.wording(caption) for caption in captions]
        aligned = [
            align(model.tokenize(source), model.tokenize(text), model.context_length)
            for source, text in zip(sources, texts, strict=True)
        ]
        alignment, shared = (torch.stack(parts) for parts in zip(*aligned, strict=True))
        return self._joined(model.encode_texts(texts, embeddings), model.encode_texts(sources), alignment, shared)

    def encode_nothing(self, model: TextToImageModel) -> Conditioning:
        import torch

        nothing = model.encode_nothing()
        same = torch.eye(model.context_length)[None]
        return self._joined(nothing, nothing, same, torch.ones(1, model.context_length))

    @staticmethod
    def _joined(edit: Conditioning, source: Conditioning, alignment: Tensor, shared: Tensor) -> Conditioning:
        marked = {SOURCE + name: tensor for name, tensor in source.tensors.items()}
        device = edit.tensors["prompt_embeds"].device
        return Conditioning({**edit.tensors, **marked, ALIGNMENT: alignment.to(device), SHARED: shared.to(device)})

    def denoise(self, model: TextToImageModel, latents: Tensor, timesteps: Tensor | float,
                conditioning: Conditioning) -> Tensor:  # fmt: skip
        """The edit's prediction with the source's attention at the same latents."""
        import torch

        t = torch.as_tensor(timesteps, device=latents.device)
        t = t.expand(len(latents)) if t.dim() == 0 else t
        with self._control(model, conditioning):
            both = model.denoise(torch.cat([latents, latents]), torch.cat([t, t]), _pair(conditioning))
        return both[len(latents) :]

    def sample(self, model: TextToImageModel, conditioning: Conditioning, captions: Sequence[str], seeds: Sequence[int],
               **options: Any) -> Generated:  # fmt: skip
        nothing = options.pop("nothing", None)
        with self._control(model, conditioning):
            both = model.sample(_pair(conditioning), [*seeds, *seeds], nothing=nothing and _own(nothing), **options)
        return Generated(both.images[len(seeds) :], both.blocked[len(seeds) :])

    @contextmanager
    def _control(self, model: TextToImageModel, conditioning: Conditioning) -> Iterator[None]:
        """While open, the last rows of each batch (the edits) take attention from as many rows before them (the sources)."""
        import torch

        count = len(conditioning)
        alignment, shared = conditioning.tensors[ALIGNMENT][:, None], conditioning.tensors[SHARED][:, None, None]

        def control(maps: Tensor, cross: bool, timesteps: Tensor) -> Tensor:
            done = 1 - timesteps.float()[-count:, None, None, None] / model.train_timesteps
            source, edit = maps[-2 * count : -count], maps[-count:]
            if cross:
                moved = source @ alignment.to(source)
                kept = torch.lerp(edit, moved, shared.to(source))
                edit = torch.where(done < self.cross, kept, edit)
            elif maps.shape[2] <= SMALL:
                edit = torch.where(done < self.self_, source, edit)
            return torch.cat([maps[:-count], edit])

        with model.attention(control):
            yield


def _own(conditioning: Conditioning) -> Conditioning:
    """What a conditioning holds for the denoiser itself."""
    names = [name for name in conditioning.tensors if SOURCE + name in conditioning.tensors]
    return Conditioning({name: conditioning.tensors[name] for name in names})


def _pair(conditioning: Conditioning) -> Conditioning:
    """Source rows, then edited rows."""
    edit = _own(conditioning)
    source = Conditioning({name: conditioning.tensors[SOURCE + name] for name in edit.tensors})
    return Conditioning.cat([source, edit])


def align(source: Sequence[int], edit: Sequence[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How tokens of an edited text correspond to those of its source, both cut and padded to ``length``.

    Returns the alignment (length, length) from source to edited tokens, and (length,) 1 where an edited token has a
    counterpart. Equal tokens map to each other, replaced runs of equal length one to one, others evenly.
    """
    import torch

    source, edit = list(source)[:length], list(edit)[:length]
    alignment, shared = torch.zeros(length, length), torch.zeros(length)
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(a=source, b=edit, autojunk=False).get_opcodes():
        if kind in {"insert", "delete"}:
            continue
        shared[j1:j2] = 1
        if i2 - i1 == j2 - j1:
            alignment[range(i1, i2), range(j1, j2)] = 1
        else:
            alignment[i1:i2, j1:j2] = 1 / (j2 - j1)
    for position in range(len(edit), length):  # padding corresponds to padding
        alignment[min(len(source) + position - len(edit), length - 1), position] = 1
        shared[position] = 1
    return alignment, shared
