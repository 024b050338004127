"""Image-text matching: CLIP-like dual encoders that score pictures against texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlaudit.errors import CapabilityError, ModelError
from vlaudit.families.base import Model, Speed, Target, seconds_of
from vlaudit.probe import Needs
from vlaudit.records import Family

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.audit.context import Context
    from vlaudit.prompts.base import MatchingPrompt

Classifier = Callable[["Tensor"], "Tensor"]
"""Pictures, float32 (B, 3, H, W) in [0, 1], to logits (B, C); differentiable in the pixels through the prompt."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised text without padding: ``ids`` with special tokens, of which ``lead`` come first, ``tail`` last."""

    ids: list[int]
    lead: int
    tail: int


@dataclass(frozen=True)
class SoftTokens:
    """Embeddings that replace those of chosen tokens.

    values: (N, M, W) float, or (M, W) shared by all N texts; slots: for each text the M positions they take.
    """

    values: Tensor
    slots: list[list[int]]


class MatchingModel(Model):
    """A dual encoder without a prompt. Backends implement it; gradients flow through every encode method."""

    family = Family.MATCHING
    resolution: int  # pixels; pictures are square
    context_length: int  # the most tokens a text may have, special ones included
    embedding_width: int  # W of the token embeddings
    logit_scale: float
    logit_bias: float

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to unit-norm features (B, D); normalises the pixels itself."""

    @abstractmethod
    def tokenize(self, text: str) -> TokenSequence:
        """Token ids of a text, special tokens included, not truncated and not padded."""

    @abstractmethod
    def encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        """Unit-norm text features (N, D). Sequences longer than the context are cut before their tail."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm features (N, D) of plain texts."""
        return self.encode_tokens([self.tokenize(text) for text in texts])

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        """(len(ids), W): rows of the token-embedding table. Raises CapabilityError where there is none."""
        raise CapabilityError(f"{type(self).__name__} has no token embeddings.")


class ImageTextMatcher(Target):
    """A matching model under a prompt."""

    family = Family.MATCHING
    model: MatchingModel
    prompt: MatchingPrompt
    _base: ClassVar[frozenset[Needs]] = frozenset({Needs.SCORES, Needs.PIXEL_GRADIENTS, Needs.FILES})

    def __init__(self, model: MatchingModel, prompt: MatchingPrompt) -> None:
        super().__init__(model, prompt)
        self.capabilities = self._base | ({Needs.LEARNED_PROMPT} if prompt.learned else frozenset())

    def classifier(self, labels: Sequence[str]) -> Classifier:
        """Zero-shot classifier over the labels. The text side is computed once, without gradients.

        Logits are ``logit_scale * cosine + logit_bias``. Every call is counted in ``self.meter``.
        """
        import torch

        with torch.no_grad():
            texts = self.text_features(labels)
        scale, bias = self.model.logit_scale, self.model.logit_bias

        def classify(images: Tensor) -> Tensor:
            return scale * self.image_features(images) @ texts.T + bias

        return classify

    def image_features(self, images: Tensor) -> Tensor:
        """Unit-norm features (B, D) of pictures (B, 3, H, W) in [0, 1], seen through the visual prompt if any."""
        import torch

        self.meter.queries += len(images)
        if images.requires_grad and torch.is_grad_enabled():
            self.meter.gradient_steps += len(images)
        return self.model.encode_images(self.prompt.transform(images))

    def text_features(self, labels: Sequence[str]) -> Tensor:
        """Unit-norm features (C, D) of label names under the prompt."""
        return self.prompt.label_features(self.model, labels)

    @property
    def context(self) -> Tensor | None:
        """The learned text-context embeddings, if the prompt has any: (M, W), or (C, M, W) when class-specific."""
        return self.prompt.context

    def check(self, ctx: Context) -> None:
        """Raise ModelError for NaN, or for the same features for different labels."""
        import torch

        with torch.no_grad():
            logits = self.classifier(ctx.labels)(ctx.images(ctx.examples[:16]))
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"'{self.model.spec}' yields NaN or infinite scores for its pictures.", "Its weights are damaged."
            )
        if len(ctx.labels) > 1 and bool((logits.std(dim=1) < 1e-6).all()):
            raise ModelError(
                f"'{self.model.spec}' gives every label the same score.",
                "Its tokenizer does not fit its text tower, or the labels are unknown words.",
            )

    def calibrate(self, ctx: Context) -> Speed:
        """Seconds a picture, with the text side computed before."""
        import torch

        images = ctx.images(ctx.examples[:32])
        classify = self.classifier(ctx.labels)

        def backward() -> None:
            pixels = images.clone().requires_grad_()
            classify(pixels).sum().backward()

        with torch.no_grad():
            forward = seconds_of(lambda: classify(images), self.device)
        return Speed(forward / len(images), seconds_of(backward, self.device) / len(images))
