"""Matchers that score a picture and a text together: neither has features whose cosine is the score.

A matching head reads the text in the light of the picture, so a label is a pass for each picture (ALBEF, arXiv:2107.07651; BLIP,
arXiv:2201.12086). The score is the log-odds that both belong together. Only prompts of words and of pixels can be asked, because no
label has features of its own that a learned context could change.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from vlaudit.errors import CapabilityError, UsageError
from vlaudit.families.base import Material, Speed, seconds_of
from vlaudit.families.matching import (
    MOST_TIMED,
    QUICK,
    Asked,
    ImageTextMatcher,
    MatchingModel,
    MatchingPrompt,
    SoftTokens,
    TokenSequence,
)
from vlaudit.records import Cost, Needs

if TYPE_CHECKING:
    from torch import Tensor


class PairModel(MatchingModel):
    """A matcher without features that picture and text have in common. ``encode_images`` gives what a score needs of pictures."""

    logit_scale, logit_bias = 1.0, 0.0
    capabilities = MatchingModel.capabilities - {Needs.FEATURES}
    fuses: bool = True  # whether each pair of picture and text is a pass

    @abstractmethod
    def pairing(self, texts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """What ``encode_images`` gives of B pictures to scores (B, N) of the texts; differentiable."""

    def under(self, prompt: MatchingPrompt) -> PairMatcher:
        return PairMatcher(self, prompt)

    def _encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        self.lacks()

    def lacks(self) -> NoReturn:
        raise CapabilityError(f"'{self.spec}' scores pairs of picture and text: neither has features that the other is compared with.")


class PairMatcher(ImageTextMatcher):
    """A matcher of pairs under a prompt. Of several templates the mean score counts."""

    model: PairModel

    def __init__(self, model: PairModel, prompt: MatchingPrompt) -> None:
        if not prompt.templates or prompt.per_picture:
            raise UsageError(
                f"'{model.spec}' scores pairs of picture and text, and the prompt '{prompt.id}' makes features of labels.",
                "Use a template, an ensemble or a prompt of pixels.",
            )
        super().__init__(model, prompt)

    def asked(self, labels: Sequence[str], scale: float = 1.0) -> Asked:
        import torch

        texts = [self.prompt.fill(template, label) for template in self.prompt.templates for label in labels]
        if not self.model.fuses:
            self.meter.read(len(texts))
        with torch.no_grad():
            score = self.model.pairing(texts)
        forward, steps = (self._pairs(len(texts), step) for step in (False, True))

        def ask(seen: Tensor) -> Tensor:
            self._count(len(seen), forward, steps, seen)
            return scale * score(seen).unflatten(1, (-1, len(labels))).mean(dim=1)

        return ask

    def _pairs(self, texts: int, steps: bool) -> Cost:
        """Passes of a picture with so many texts."""
        count = texts if self.model.fuses else 0
        return Cost(queries=count, texts=count, gradient_steps=count * steps, text_steps=count * steps)

    def whole(self, cost: Cost, labels: int) -> Cost:
        forward, steps = (self._pairs(self.texts(labels), step) for step in (False, True))
        back = cost.gradient_steps - cost.text_steps
        return super().whole(cost, labels) + forward * max(cost.passes - back, 0) + steps * back

    def image_features(self, images: Tensor) -> Tensor:
        self.model.lacks()

    def text_features(self, labels: Sequence[str]) -> Tensor:
        self.model.lacks()

    def features_for(self, labels: Sequence[str], seen: Tensor, prompt: MatchingPrompt | None = None) -> Tensor:
        self.model.lacks()

    def check_labels(self, labels: Sequence[str]) -> None:
        self.prompt.check_labels(self.model, labels)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, label in enumerate(labels):
            ids = self.model.tokenize(self.prompt.fill(self.prompt.templates[0], label)).ids
            groups.setdefault(tuple(ids[: self.model.context_length - 1]), []).append(place)
        self._check_distinct(labels, [group for group in groups.values() if len(group) > 1])

    def _first_logits(self, on: Material) -> Tensor:
        self.check_labels(on.labels)
        return self.classifier(on.labels)(on.images(on.examples[:16]))

    def calibrate(self, on: Material) -> Speed:
        """Seconds of what is seen of a picture, and of a pair, or of a text where pairs take no pass."""
        import torch

        labels = on.labels[:MOST_TIMED]
        with torch.no_grad():
            images = on.images(on.examples[:2])
            if seconds_of(lambda: self.seen(images), self.model, 2) < QUICK:
                images = on.images(on.examples[: MOST_TIMED // 2])
            forward = seconds_of(lambda: self.seen(images), self.model) / len(images)
            seen = self.seen(images[:2])
            texts = self.texts(len(labels)) * (len(seen) if self.model.fuses else 1)
            pair = seconds_of(lambda: self.asked(labels)(seen), self.model) / texts

        def backward() -> None:
            pixels = images.clone().requires_grad_()
            self.seen(pixels).sum().backward()

        with torch.enable_grad():
            both = seconds_of(backward, self.model) / len(images)
        return Speed(forward, both, pair)
