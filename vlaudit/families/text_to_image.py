"""Text-to-image generation: diffusion and flow pipelines that draw what a text says, under a prompt.

The pipeline without its prompt is in ``text_to_image_model``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vlaudit.errors import ModelError, VlauditWarning
from vlaudit.families.base import Material, Model, Prompt, Speed, Target, listed, seconds_of
from vlaudit.families.text_to_image_model import (
    AttentionControl,
    Conditioning,
    Generated,
    PredictionType,
    TextToImageModel,
)
from vlaudit.records import Family, Needs

if TYPE_CHECKING:
    from torch import Tensor


__all__ = [
    "AttentionControl",
    "Conditioning",
    "Generated",
    "PredictionType",
    "TextToImageGenerator",
    "TextToImageModel",
]

MOST_TIMED, QUICK = 16, 0.2  # pictures that a calibration passes at once, where one takes fewer seconds
REMEMBERED = 512
"""Texts whose conditioning a target keeps: of SDXL half a megabyte each."""


class TextToImagePrompt(Prompt):
    """A prompt for text-to-image pipelines: it makes a text of a caption, and may change what draws it."""

    family = Family.TEXT_TO_IMAGE
    token: str | None = None  # the personal token that stands for a learned concept, if there is one
    noun: str | None = None  # the class noun that stands for it in the reference

    def wording(self, caption: str, seed: int | None = None) -> str:
        """The text that is drawn. A prompt that draws at random draws by seed (by the caption, where there is none)."""
        return caption

    def active(self, model: TextToImageModel) -> AbstractContextManager[None]:
        """While open, the model carries the prompt's parts (an adapter, a token); afterwards it is as it was. Quick, and
        may be nested."""
        return nullcontext()

    def encode(self, model: TextToImageModel, texts: Sequence[str], captions: Sequence[str],
               embeddings: Tensor | None = None) -> Conditioning:  # fmt: skip
        """The conditioning of the texts that ``wording`` made of the captions. Called while active."""
        return model.encode_texts(texts, embeddings)

    def encode_nothing(self, model: TextToImageModel) -> Conditioning:
        """One row: what guidance contrasts a text with. Called while active."""
        return model.encode_nothing()

    def denoise(self, model: TextToImageModel, latents: Tensor, timesteps: Tensor | float,
                conditioning: Conditioning) -> Tensor:  # fmt: skip
        """The denoiser's prediction under this prompt. Called while active."""
        return model.denoise(latents, timesteps, conditioning)

    def inputs(self, model: TextToImageModel, captions: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
        """More arguments of the pipeline's call, such as a picture to start from."""
        return {}

    def sample(self, model: TextToImageModel, conditioning: Conditioning, captions: Sequence[str],
               seeds: Sequence[int], **options: Any) -> Generated:  # fmt: skip
        """Draw under this prompt, with the options of ``TextToImageModel.sample``. Called while active."""
        return model.sample(conditioning, seeds, **options, **self.inputs(model, captions, seeds))

    def bind(self, model: Model) -> TextToImageGenerator:
        return TextToImageGenerator(self.fitted(model), self)


class TextToImageGenerator(Target):
    """A text-to-image model under a prompt. Captions go in; the prompt makes texts of them.

    ``meter.queries`` counts pictures that went through the denoiser (a guided step is two for each picture), and texts
    that went through the text encoder for their features; ``meter.gradient_steps`` those with gradients.
    """

    family = Family.TEXT_TO_IMAGE
    model: TextToImageModel
    prompt: TextToImagePrompt

    def __init__(self, model: TextToImageModel, prompt: TextToImagePrompt) -> None:
        super().__init__(model, prompt)
        extra = {Needs.LEARNED_PROMPT} if prompt.learned else set()
        extra |= {Needs.PERSONAL_TOKEN} if prompt.token else set()
        self.capabilities = model.capabilities | extra
        self._encoded: dict[str, Conditioning] = {}  # the texts last seen
        self._nothing: Conditioning | None = None
        self.truncated: dict[str, int] = {}  # texts that were cut, and how many tokens were lost

    # texts

    def wording(self, captions: Sequence[str], seeds: Sequence[int] | None = None) -> list[str]:
        """The texts that the prompt makes of the captions; a prompt that draws (modifiers) draws by seed."""
        own: Sequence[int | None] = [None] * len(captions) if seeds is None else seeds
        return [self.prompt.wording(caption, seed) for caption, seed in zip(captions, own, strict=True)]

    def encode(self, captions: Sequence[str], *, seeds: Sequence[int] | None = None,
               embeddings: Tensor | None = None) -> Conditioning:  # fmt: skip
        """The conditioning of captions under the prompt. Cached by text, each of which is encoded by itself, so that its last bits
        hang on no other, without gradients; with ``embeddings`` (N, L, E) in the place of ``token_embeddings(captions)``, neither."""
        import torch

        texts = self.wording(captions, seeds)
        with self.prompt.active(self.model):
            if embeddings is not None:
                return self._encode(texts, captions, embeddings)
            new = {text: caption for text, caption in zip(texts, captions, strict=True) if text not in self._encoded}
            if new:
                self._warn_of_cuts(list(new))
                with torch.no_grad():
                    self._encoded |= {text: self._encode([text], [caption]) for text, caption in new.items()}
        rows = Conditioning.cat([self._encoded[text] for text in texts])
        for text in list(self._encoded)[:-REMEMBERED]:
            del self._encoded[text]
        return rows

    def _encode(self, texts: Sequence[str], captions: Sequence[str], *embeddings: Tensor) -> Conditioning:
        """What the prompt makes of texts, cut to what fits."""
        names: list[str] = []

        def run(rows: slice, *given: Tensor) -> tuple[Tensor, ...]:
            with self.prompt.active(self.model):
                part = self.prompt.encode(self.model, texts[rows], captions[rows], *given)
            names[:] = part.tensors
            return tuple(part.tensors.values())

        tensors = self.model.cut("texts", run, *embeddings, count=len(texts))
        return Conditioning(dict(zip(names, tensors, strict=True)))

    def _warn_of_cuts(self, texts: Sequence[str]) -> None:
        for text in texts:
            lost = len(self.model.tokenize(text)) - self.model.context_length
            if lost > 0:
                self.truncated[text] = lost
                warnings.warn(
                    f"'{self.model.spec}' reads {self.model.context_length} tokens; the last {lost} of the text "
                    f"'{text[:60]}…' are cut off.",
                    VlauditWarning,
                    stacklevel=3,
                )

    def null(self) -> Conditioning:
        """One row: what guidance contrasts the captions with."""
        import torch

        if self._nothing is None:
            with self.prompt.active(self.model), torch.no_grad():
                self._nothing = self.prompt.encode_nothing(self.model)
        return self._nothing

    def token_ids(self, captions: Sequence[str], seeds: Sequence[int] | None = None) -> Tensor:
        """(N, L) int64: the captions under the prompt as the first text encoder reads them."""
        with self.prompt.active(self.model):
            return self.model.token_ids(self.wording(captions, seeds))

    def token_embeddings(self, captions: Sequence[str]) -> Tensor:
        """(N, L, E): the token embeddings of the captions under the prompt."""
        with self.prompt.active(self.model):
            return self.model.token_embeddings(self.model.token_ids(self.wording(captions)))

    def text_features(self, captions: Sequence[str], embeddings: Tensor | None = None,
                      seeds: Sequence[int] | None = None) -> Tensor:  # fmt: skip
        """(N, D) of unit norm: the pooled states of the captions under the prompt, of the first text encoder."""
        self._count_texts(captions, embeddings)
        texts = self.wording(captions, seeds)

        def run(rows: slice, *given: Tensor) -> Tensor:
            with self.prompt.active(self.model):
                return self.model.text_features(texts[rows], *given)

        return self.model.cut("texts read", run, *([] if embeddings is None else [embeddings]), count=len(texts))

    def text_states(self, captions: Sequence[str], embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Last hidden states (N, L, W) of the first text encoder, and the mask (N, L) of tokens that are text."""
        self._count_texts(captions, embeddings)
        texts = self.wording(captions)

        def run(rows: slice, *given: Tensor) -> tuple[Tensor, Tensor]:
            with self.prompt.active(self.model):
                states, _, mask = self.model.text_states(texts[rows], *given)
            return states, mask

        return self.model.cut("texts read", run, *([] if embeddings is None else [embeddings]), count=len(texts))

    def _count_texts(self, captions: Sequence[str], embeddings: Tensor | None) -> None:
        import torch

        self.meter.read(len(captions), embeddings is not None and embeddings.requires_grad and torch.is_grad_enabled())

    # pictures

    def generate(self, captions: Sequence[str], seeds: Sequence[int], *, latents_only: bool = False,
                 steps: int | None = None, guidance: float | None = None) -> Generated:  # fmt: skip
        """One picture for each caption and seed."""
        import torch

        if len(captions) != len(seeds):
            raise ValueError(f"{len(captions)} captions need as many seeds, not {len(seeds)}")
        conditioning = self.encode(captions, seeds=seeds)
        nothing = self.null() if self.model.guided else None
        self.meter.decoded += 0 if latents_only else len(captions)

        def run(rows: slice) -> list[Generated]:
            with self.prompt.active(self.model):
                part = self.prompt.sample(self.model, conditioning.rows(rows), captions[rows], seeds[rows], nothing=nothing,
                                          steps=steps, guidance=guidance, latents_only=latents_only)  # fmt: skip
            return [part]

        def step(rows: slice) -> None:
            read, times = conditioning.rows(rows), 2 if self.model.guided else 1
            if Needs.NOISE_PREDICTIONS not in self.capabilities:  # it draws one picture after the other
                with self.prompt.active(self.model):
                    self.model.first_step(Conditioning.cat([read] * times))
                return
            latents = self.model.noise(seeds[rows])
            with self.prompt.active(self.model):
                self.prompt.denoise(self.model, torch.cat([latents] * times), self.model.sampling_timesteps()[0],
                                    Conditioning.cat([read] * times))  # fmt: skip

        with self._passes():
            parts = self.model.cut("pictures to draw", run, count=len(seeds), trial=step)
        return Generated(torch.cat([part.images for part in parts]), [blocked for part in parts for blocked in part.blocked])

    def denoise(self, latents: Tensor, timesteps: Tensor | float,
                captions: Sequence[str] | Conditioning | None) -> Tensor:  # fmt: skip
        """The raw prediction (B, c, h, w) under the prompt, of what ``model.prediction_type`` says; None: of nothing."""
        import torch

        if captions is None:
            conditioning = self.null().repeat(len(latents))
        else:
            conditioning = captions if isinstance(captions, Conditioning) else self.encode(captions)
        t = torch.as_tensor(timesteps, device=latents.device)
        t = t.expand(len(latents)) if t.dim() == 0 else t

        def run(_: slice, latents: Tensor, t: Tensor, *tensors: Tensor) -> Tensor:
            read = Conditioning(dict(zip(conditioning.tensors, tensors, strict=True)))
            with self.prompt.active(self.model):
                return self.prompt.denoise(self.model, latents, t, read)

        with self._passes():
            prediction = self.model.cut("latents", run, latents, t, *conditioning.tensors.values())
        if prediction.requires_grad:
            self.meter.gradient_steps += len(latents)
        return prediction

    def predict_noise(self, latents: Tensor, timesteps: Tensor | float,
                      captions: Sequence[str] | Conditioning | None) -> Tensor:  # fmt: skip
        """The predicted noise (B, c, h, w) under the prompt, whatever the denoiser predicts."""
        return self.model.to_noise(self.denoise(latents, timesteps, captions), latents, timesteps)

    @contextmanager
    def _passes(self) -> Iterator[None]:
        """What goes through the denoiser is counted."""
        before = self.model.passes
        yield
        self.meter.queries += self.model.passes - before

    def check(self, on: Material) -> None:
        """Raise ModelError for predictions that are not finite, or the same conditioning for different captions."""
        import torch

        self.remarks = list(self._said_of(list(on.captions)))
        if Needs.NOISE_PREDICTIONS not in self.capabilities:
            return
        captions = list(on.captions)[:16]
        conditioning = self.encode(captions)
        latents = self.model.noise(range(min(2, len(captions))))
        with torch.no_grad():
            prediction = self.denoise(
                latents, self.model.sampling_timesteps()[0], conditioning.rows(slice(len(latents)))
            )
        if not torch.isfinite(prediction).all():
            raise ModelError(f"'{self.model.spec}' predicts NaN or infinite noise.", "Its weights are damaged.")
        embeds = conditioning.tensors["prompt_embeds"]
        if len(set(captions)) > 1 and bool((embeds - embeds[:1]).abs().max() < 1e-6):
            raise ModelError(
                f"'{self.model.spec}' reads every caption as the same text.",
                "Its tokenizer does not fit its text encoder, or the captions are unknown words.",
            )

    def _said_of(self, captions: Sequence[str]) -> Iterator[str]:
        """A sentence on the captions that are cut, and on those that are one text to the model."""
        limit, texts = self.model.context_length, self.wording(captions)
        with self.prompt.active(self.model):
            tokens = [self.model.tokenize(text) for text in texts]
        cut = [caption for caption, ids in zip(captions, tokens, strict=True) if len(ids) > limit]
        if cut:
            yield (
                f"'{self.model.spec}' reads {limit} tokens; the texts of {len(cut)} of {len(captions)} captions are cut off "
                f"there: {listed(cut)}."
            )
        groups: dict[tuple[int, ...], list[str]] = {}
        for caption, ids in zip(captions, tokens, strict=True):
            groups.setdefault(tuple(ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]), []).append(caption)
        same = [group for group in groups.values() if len(group) > 1 and self._reads_as_one(group)]
        if same:
            said = "; ".join(" and ".join(f"'{caption[:60]}'" for caption in group[:4]) for group in same[:4])
            yield f"To '{self.model.spec}' these captions are one text, and each is counted: {said}{' …' * (len(same) > 4)}."

    def _reads_as_one(self, captions: Sequence[str]) -> bool:
        """Whether no text encoder tells the captions apart."""
        parts = self.encode(captions).tensors.values()
        return all(bool((part.float() - part[:1].float()).abs().max() < 1e-6) for part in parts)

    def calibrate(self, on: Material) -> Speed:
        """Seconds for a picture to go through the denoiser once and to be decoded, and for a text through the text encoder."""
        import torch

        texts, conditioning = 32, self.encode(list(on.captions)[:1])

        def forward() -> None:
            with torch.no_grad(), self.prompt.active(self.model):
                if Needs.NOISE_PREDICTIONS in self.capabilities:
                    self.denoise(self.model.noise(range(len(conditioning))), self.model.sampling_timesteps()[0], conditioning)
                else:
                    self.model.first_step(conditioning)

        def decode() -> None:
            with torch.no_grad():
                self.model.decode(blank)

        def read() -> None:
            with torch.no_grad():
                self.text_states((list(on.captions) * texts)[:texts])

        if Needs.NOISE_PREDICTIONS in self.capabilities and seconds_of(forward, self.model, 2) < QUICK:
            conditioning = conditioning.repeat(MOST_TIMED)
        there, blank = seconds_of(forward, self.model) / len(conditioning), self.model.blank(len(conditioning))
        read_in = seconds_of(read, self.model) / texts if Needs.TEXT_FEATURES in self.capabilities else 0.0
        # a pass forward and backward takes about three forward, and full-size latents with a graph take memory that no probe needs
        return Speed(there, 3 * there, text=read_in, decoded=seconds_of(decode, self.model) / len(blank))
