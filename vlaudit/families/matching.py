"""Image-text matching: CLIP-like dual encoders that score pictures against texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import getattr_static
from typing import TYPE_CHECKING, ClassVar

from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.families.base import Material, Model, Prompt, Speed, Target, listed, plain_prompt, seconds_of
from vlaudit.families.remembered import Remembered
from vlaudit.families.towers import COARSE, Tower, TowerTokens, strange_weights
from vlaudit.records import Cost, Family, Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_OF_PICTURES = ("transform", "image_tokens", "image_features", "seen")  # what of a prompt decides how a picture is seen
SAME = 1e-6  # cosine below 1 up to which two labels have one text feature
MOST_TIMED, QUICK = 32, 0.2  # pictures and labels that a calibration passes at once, where two take fewer seconds
Classifier = Callable[["Tensor"], "Tensor"]
"""Pictures, float32 (B, 3, H, W) in [0, 1], to logits (B, C); differentiable in the pixels through the prompt."""
Panel = Callable[["Tensor"], "list[Tensor]"]
"""The same pictures to the logits of several classifiers, in order."""
Asked = Callable[["Tensor"], "Tensor"]
"""What was seen of pictures, see :meth:`MatchingPrompt.seen`, to scaled cosines (B, C)."""


@dataclass(frozen=True)
class TokenSequence:
    """One tokenised text without padding: ``ids`` with special tokens, of which ``lead`` come first, ``tail`` last."""

    ids: list[int]
    lead: int
    tail: int


@dataclass(frozen=True)
class SoftTokens:
    """Embeddings that replace those of chosen tokens.

    values: (N, M, W) float, or (M, W) shared by all N texts; slots: for each text the M positions they take; deeper: values of the same
    shapes that take these positions anew at the input of the tower's second block, its third, and so on.
    """

    values: Tensor
    slots: list[list[int]]
    deeper: Sequence[Tensor] = ()


class MatchingModel(Model):
    """A dual encoder without a prompt. Backends implement it; gradients flow through every encode method."""

    family = Family.MATCHING
    resolution: int  # pixels; pictures are square
    context_length: int  # the most tokens a text may have, special ones included
    embedding_width: int  # W of the token embeddings
    logit_scale: float
    logit_bias: float
    capabilities: frozenset[Needs] = frozenset({Needs.SCORES, Needs.FEATURES, Needs.PIXEL_GRADIENTS, Needs.FILES})

    def under(self, prompt: MatchingPrompt) -> ImageTextMatcher:
        """This model under a prompt that fits."""
        return ImageTextMatcher(self, prompt)

    _remembers = False

    @cached_property
    def remembered(self) -> Remembered:
        """Features of pictures that were passed while it was :meth:`remembering`."""
        return Remembered()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """While open, pictures that pass without gradients pass once, however many prompts and probes ask about them."""
        before, self._remembers = self._remembers, True
        try:
            yield
        finally:
            self._remembers = before

    @cached_property
    def feature_width(self) -> int:
        """D of the features that pictures and texts have in common."""
        import torch

        with torch.no_grad():
            return int(self.encode_texts(["a"]).shape[1])

    def normalised(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], scaled as the image tower's first layer takes them."""
        return images

    def encode_images(self, images: Tensor, tokens: TowerTokens | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] to unit-norm features (B, D), with learned tokens in the image tower where some are given."""
        if tokens is None:
            return self.remembered.of(images, self._passed) if self._remembers and not images.requires_grad else self._passed(images)
        tower, given = self.image_tower, [values.to(images.device) for values in tokens.given]

        def run(_: slice, part: Tensor, *values: Tensor) -> Tensor:
            with tower.carrying(tokens.with_values(values)):
                return self._encode_images(part)

        every = [values if values.dim() == 3 else values.expand(len(images), -1, -1) for values in given]
        return self.cut("pictures with tokens", run, images, *every)

    def _passed(self, images: Tensor) -> Tensor:
        return self.cut("pictures", lambda _, part: self._encode_images(part), images)

    @cached_property
    def image_tower(self) -> Tower:
        """Where learned tokens stand among those of a picture. Raises CapabilityError where the tower is no transformer."""
        import torch

        grey = torch.full((2, 3, self.resolution, self.resolution), 0.5, device=self.device)
        return Tower(self._modules()[0], lambda: self._encode_images(grey), f"image tower of '{self.spec}'", grows=True)

    @cached_property
    def text_tower(self) -> Tower:
        """The same of a text."""
        return Tower(
            self._modules()[1], lambda: self._encode_tokens([self.tokenize("a")] * 2), f"text tower of '{self.spec}'"
        )

    def _modules(self) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
        """The modules of the image tower, of the text tower, and of the whole."""
        raise CapabilityError(f"No learned tokens can stand in the towers of '{self.spec}'.")

    def strange_weights(self, weights: Mapping[str, Tensor], drift: float) -> list[str]:
        """Names of weights that this model does not have. The names are OpenAI's: ``image_encoder.`` and ``text_encoder.`` with
        ``transformer.resblocks.I.``, whose weights must be those of block I, in whatever layout. ``drift``: relative difference that is none.
        """
        return strange_weights(self.image_tower, self.text_tower, self._modules()[2], weights, max(drift, COARSE) if self.dtype in ("bfloat16", "float16") else drift)

    @abstractmethod
    def _encode_images(self, images: Tensor) -> Tensor:
        """The same, at once; normalises the pixels itself."""

    @abstractmethod
    def tokenize(self, text: str) -> TokenSequence:
        """Token ids of a text, special tokens included, not truncated and not padded."""

    def encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        """Unit-norm text features (N, D). Sequences longer than the context are cut before their tail."""

        def run(rows: slice, *values: Tensor) -> Tensor:
            own = SoftTokens(values[0], soft.slots[rows], values[1:]) if soft else None
            return self._encode_tokens(sequences[rows], own)

        given = [] if soft is None else [part.expand(len(sequences), -1, -1) for part in (soft.values, *soft.deeper)]
        longest = max((len(sequence.ids) for sequence in sequences), default=1)
        return self.cut("texts", run, *given, count=len(sequences), weight=longest)

    @abstractmethod
    def _encode_tokens(self, sequences: Sequence[TokenSequence], soft: SoftTokens | None = None) -> Tensor:
        """The same, at once."""

    def vocabulary(self) -> dict[str, int]:
        """The tokens of its text side as its tokenizer writes them, with their ids. Raises CapabilityError where it lists none."""
        raise CapabilityError(f"'{self.spec}' lists no vocabulary.")

    def text_of(self, ids: Sequence[int]) -> str:
        """What tokens spell, as somebody would type it."""
        raise CapabilityError(f"'{self.spec}' lists no vocabulary.")

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm features (N, D) of plain texts."""
        return self.encode_tokens([self.tokenize(text) for text in texts])

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        """(len(ids), W): rows of the token-embedding table. Raises CapabilityError where there is none."""
        raise CapabilityError(f"{type(self).__name__} has no token embeddings.")


class MatchingPrompt(Prompt):
    """A prompt for dual encoders: it turns labels into text features, and may change the pixels and how they are read.

    A picture is ``seen`` first, then asked for labels. Where these have the same features for all pictures, they are made once;
    where they depend on the picture (``per_picture``), they are made of what was seen of it.
    """

    family = Family.MATCHING
    per_picture: ClassVar[bool] = False  # whether the labels' features depend on the picture
    learns_anew: ClassVar[bool] = False  # whether ``learned_anew`` is there: cheap, because only a text context is learned

    @abstractmethod
    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        """Unit-norm features (C, D) of the labels under this prompt; where they depend on the picture, those before any was seen."""

    def features_for(self, model: MatchingModel, labels: Sequence[str], seen: Tensor) -> Tensor:
        """The same for what was seen of pictures: (C, D), or (B, C, D) where they depend on the picture. Differentiable in ``seen``."""
        return self.label_features(model, labels)

    def transform(self, images: Tensor) -> Tensor:
        """The visual side of the prompt: (B, 3, H, W) in [0, 1] to the same. Default: pictures unchanged."""
        return images

    def image_tokens(self, model: MatchingModel) -> TowerTokens | None:
        """Learned tokens that the image tower reads beside the picture's own. Default: none."""
        return None

    def image_features(self, model: MatchingModel, images: Tensor) -> Tensor:
        """Unit-norm features (B, D) of pictures (B, 3, H, W) in [0, 1], read under this prompt."""
        return model.encode_images(self.transform(images), self.image_tokens(model))

    def seen(self, model: MatchingModel, images: Tensor) -> Tensor:
        """All that the labels' features need of pictures: their image features (B, D), or (B, V, D) of V views, the picture first."""
        return self.image_features(model, images)

    @property
    def pool(self) -> int:
        """How many prompts it holds of which each picture picks some; 0 where all pictures read the same."""
        return 0

    def picks(self, model: MatchingModel, images: Tensor) -> Tensor:
        """(B, P) bool: which prompts of the pool pictures pick. No gradient flows to the pixels."""
        raise CapabilityError(f"Pictures pick nothing in the prompt '{self.id}'.")

    def always(self, place: int) -> MatchingPrompt:
        """The same as if every picture picked that prompt of the pool first."""
        raise CapabilityError(f"Pictures pick nothing in the prompt '{self.id}'.")

    def apiece(self, texts: int, steps: bool) -> Cost:
        """What the prompt passes for each picture beside the picture itself, where the labels have so many texts. ``steps``: and where
        gradients flow into the picture."""
        return Cost()

    @classmethod
    def leaves_pictures(cls) -> bool:
        """Whether it leaves pictures and image tower alone: then what is ``seen`` of a picture is the same under any other such prompt."""
        return all(getattr_static(cls, name) is getattr_static(MatchingPrompt, name) for name in _OF_PICTURES)

    @property
    def templates(self) -> tuple[str, ...]:
        """The hard templates with a ``{}`` slot; empty for prompts without readable text."""
        return ()

    def fill(self, template: str, label: str) -> str:
        """What is asked for a label with a hard template."""
        return template.replace("{}", label)

    @property
    def context(self) -> Tensor | None:
        """Learned text-context embeddings: (M, W), or (C, M, W) when class-specific."""
        return None

    def check_labels(self, model: MatchingModel, labels: Sequence[str]) -> None:
        """Raise UsageError when the prompt was made for other labels."""

    def learned_anew(
        self, model: MatchingModel, features: Tensor, targets: Tensor, labels: Sequence[str], *, steps: int, seed: int
    ) -> MatchingPrompt | None:
        """A prompt of the same shape, learned on other pictures with image features (N, D) and labels' positions (N,). Raises
        CapabilityError where ``learns_anew`` is not true."""
        raise CapabilityError(f"The prompt '{self.id}' is not learned from image features.")

    def token_count(self, model: MatchingModel, label: str) -> int:
        """The most tokens that a text of this label takes, special ones included."""
        return max((len(model.tokenize(self.fill(text, label)).ids) for text in self.templates), default=0)

    def bind(self, model: Model) -> ImageTextMatcher:
        fitted: MatchingModel = self.fitted(model)
        return fitted.under(self)


class ImageTextMatcher(Target):
    """A matching model under a prompt."""

    family = Family.MATCHING
    model: MatchingModel
    prompt: MatchingPrompt

    def __init__(self, model: MatchingModel, prompt: MatchingPrompt) -> None:
        super().__init__(model, prompt)
        self.capabilities = model.capabilities | ({Needs.LEARNED_PROMPT} if prompt.learned else frozenset())

    def under(self, prompt: MatchingPrompt) -> ImageTextMatcher:
        """The same model under another prompt; what it spends is on this target's meter."""
        other = prompt.bind(self.model)
        other.meter = self.meter
        return other

    def picks(self, images: Tensor) -> Tensor:
        """(B, P) bool: which prompts of the prompt's pool pictures (B, 3, H, W) pick."""
        self.meter.add(self.prompt.apiece(0, False), len(images))
        return self.prompt.picks(self.model, images)

    def classifier(self, labels: Sequence[str]) -> Classifier:
        """Zero-shot classifier over the labels. The text side is computed once, without gradients, where it is the same for all
        pictures; else gradients flow through it too.

        Logits are ``logit_scale * cosine + logit_bias``. Every call is counted in ``self.meter``.
        """
        asked, bias = self.asked(labels, self.model.logit_scale), self.model.logit_bias

        def classify(images: Tensor) -> Tensor:
            return asked(self.seen(images)) + bias

        return classify

    def asked(self, labels: Sequence[str], scale: float = 1.0) -> Asked:
        """What :meth:`seen` gives of pictures to their cosines (B, C) with the labels, times ``scale``."""
        import torch

        if not self.prompt.per_picture:
            with torch.no_grad():
                texts = self.text_features(labels)
            return lambda seen: cosines(seen, texts, scale)
        return lambda seen: cosines(seen, self.features_for(labels, seen), scale)

    def seen(self, images: Tensor) -> Tensor:
        """All that the prompt needs of pictures (B, 3, H, W) in [0, 1], to be asked for labels: features (B, D), or (B, V, D)."""
        self._count(len(images), self.prompt.apiece(0, False), self.prompt.apiece(0, True), images, itself=1)
        return self._remembered(self.prompt.seen, images)

    def image_features(self, images: Tensor) -> Tensor:
        """Unit-norm features (B, D) of pictures (B, 3, H, W) in [0, 1], read under the visual prompt if any."""
        self._count(len(images), self.prompt.apiece(0, False), self.prompt.apiece(0, True), images, itself=1)
        return self._remembered(self.prompt.image_features, images)

    def _remembered(self, see: Callable[[MatchingModel, Tensor], Tensor], images: Tensor) -> Tensor:
        """What is seen of pictures, of which those that were remembered have not passed."""
        before = self.model.remembered.spared
        seen = see(self.model, images)
        self.meter.spared += Cost(queries=self.model.remembered.spared - before)
        return seen

    def text_features(self, labels: Sequence[str]) -> Tensor:
        """Unit-norm features (C, D) of label names under the prompt. Raises CapabilityError where they depend on the picture."""
        if self.prompt.per_picture:
            raise CapabilityError(f"Under the prompt '{self.prompt.id}' the features of a text depend on the picture.")
        self.meter.read(self.texts(len(labels)))
        return self.prompt.label_features(self.model, labels)

    def features_for(self, labels: Sequence[str], seen: Tensor, prompt: MatchingPrompt | None = None) -> Tensor:
        """Unit-norm features of label names for what was seen of pictures: (C, D), or (B, C, D) where they depend on it. ``prompt``: a
        changed one in place of the target's."""
        prompt, texts = prompt or self.prompt, self.texts(len(labels))
        if not prompt.per_picture:
            self.meter.read(texts)
        else:
            forward, steps = (prompt.apiece(texts, step) - prompt.apiece(0, step) for step in (False, True))
            self._count(len(seen), forward, steps, seen)
        return prompt.features_for(self.model, labels, seen)

    def _count(self, pictures: int, forward: Cost, steps: Cost, given: Tensor, itself: int = 0) -> None:
        """Count what passes for each of some pictures, forward or where gradients flow into what is ``given``."""
        import torch

        graph = given.requires_grad and torch.is_grad_enabled()
        self.meter.add((steps if graph else forward) + Cost(queries=itself, gradient_steps=itself * graph), pictures)

    def whole(self, cost: Cost, labels: int) -> Cost:
        forward, steps = (self.prompt.apiece(self.texts(labels), step) for step in (False, True))
        back = cost.gradient_steps - cost.text_steps
        return cost + forward * max(cost.passes - back, 0) + steps * back

    def texts(self, labels: int) -> int:
        """Texts that the prompt makes of so many labels."""
        return labels * max(1, len(self.prompt.templates))

    @property
    def context(self) -> Tensor | None:
        """The learned text-context embeddings, if the prompt has any: (M, W), or (C, M, W) when class-specific."""
        return self.prompt.context

    def check(self, on: Material) -> None:
        """Raise ModelError for NaN, or for the same features for all labels; UsageError for labels that the prompt was not
        made for, or that come out the same."""
        import torch

        self.prompt.check_examples(on.examples)
        with torch.no_grad():
            logits = self._first_logits(on)
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"'{self.model.spec}' yields NaN or infinite scores for its pictures.", "Its weights are damaged."
            )
        if len(on.labels) > 1 and bool((logits.std(dim=1) < 1e-6).all()):
            raise ModelError(
                f"'{self.model.spec}' gives every label the same score.",
                "Its tokenizer does not fit its text tower, or the labels are unknown words.",
            )
        self.remarks = [*self._cut(on.labels), *self._unknown(on.labels)]

    def _first_logits(self, on: Material) -> Tensor:
        """Logits (B, C) of the first pictures, with labels that were checked."""
        texts = self._checked_features(on.labels)
        seen = self.seen(on.images(on.examples[:16]))
        texts = self.features_for(on.labels, seen) if self.prompt.per_picture else texts
        return cosines(seen, texts, self.model.logit_scale) + self.model.logit_bias

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise UsageError for labels that the prompt was not made for, or that come out the same."""
        self._checked_features(labels)

    def _checked_features(self, labels: Sequence[str]) -> Tensor:
        """The labels' features. Raises UsageError for labels that the prompt was not made for, or that come out the same."""
        self.prompt.check_labels(self.model, labels)
        self.meter.read(self.texts(len(labels)))
        texts = self.prompt.label_features(self.model, labels)
        self._check_distinct(labels, alike(texts))
        return texts

    def _check_distinct(self, labels: Sequence[str], groups: list[list[int]]) -> None:
        """Raise UsageError for groups of labels that have the same features, by name. Where all have, and the labels do not say why,
        it is the model's fault."""
        if not groups:
            return
        tokens = [tuple(self.model.tokenize(label).ids) for label in labels]
        limit = self.model.context_length
        cut = {place for group in groups for place in group if self._length(labels[place]) > limit}
        if len(groups[0]) == len(labels) and len(set(tokens)) > 1 and not cut:
            return
        said = "; ".join(" and ".join(f"'{labels[place]}'" for place in group[:4]) for group in groups[:4])
        why = "they have the same text features"
        if cut:
            why = f"their texts are longer than the {limit} tokens that it reads, and the rest is cut off"
        elif any(len({tokens[place] for place in group}) == 1 for group in groups):
            why = "its tokenizer makes the same tokens of them"
        raise UsageError(
            f"Under the prompt '{self.prompt.id}', '{self.model.spec}' cannot tell these labels apart: {said}"
            f"{' …' * (len(groups) > 4)}: {why}.",
            "Merge them, or rename them.",
        )

    def _length(self, label: str) -> int:
        return self.prompt.token_count(self.model, label)

    def _cut(self, labels: Sequence[str]) -> list[str]:
        limit = self.model.context_length
        long = [label for label in labels if self._length(label) > limit]
        said = f"'{self.model.spec}' reads {limit} tokens; the texts of {len(long)} of {len(labels)} labels are cut off there"
        return [f"{said}: {listed(long)}."] if long else []

    def _unknown(self, labels: Sequence[str]) -> list[str]:
        strange = unknown_tokens(self.model)
        words = {label: self.model.tokenize(label) for label in labels}
        found = [
            label
            for label, text in words.items()
            if strange & set(text.ids) or len(text.ids) <= text.lead + text.tail
        ]
        said = f"The tokenizer of '{self.model.spec}' does not know every part of {len(found)} of {len(labels)} labels"
        return [f"{said}: {listed(found)}."] if found else []

    def calibrate(self, on: Material) -> Speed:
        """Seconds a picture, with the text side computed before, and a text. What a prompt passes beside each picture is no part of
        these prices: ``whole`` counts it."""
        import torch

        if self.prompt.apiece(1, False) != Cost():
            return plain_prompt(self.family).bind(self.model).calibrate(on)
        labels = on.labels[:MOST_TIMED]
        classify = self.classifier(labels)
        with torch.no_grad():
            images = on.images(on.examples[:2])
            if seconds_of(lambda: classify(images), self.model, 2) < QUICK:
                images = on.images(on.examples[:MOST_TIMED])
            forward = seconds_of(lambda: classify(images), self.model)
            text = seconds_of(lambda: self.text_features(labels), self.model)

        def backward() -> None:
            pixels = images.clone().requires_grad_()
            classify(pixels).sum().backward()

        with torch.enable_grad():
            both = seconds_of(backward, self.model)
        return Speed(forward / len(images), both / len(images), text / max(self.texts(len(labels)), 1))


def together(targets: Sequence[ImageTextMatcher], labels: Sequence[str]) -> Panel:
    """The classifiers of prompts on one model. Those that leave the pictures alone see them together: a picture passes once for them
    all, and is counted at the first of them."""
    plain = [target for target in targets if target.prompt.leaves_pictures()]
    asked = [(target, target in plain, target.asked(labels, target.model.logit_scale)) for target in targets]

    def classify(images: Tensor) -> list[Tensor]:
        shared = plain[0].seen(images) if plain else images
        return [ask(shared if alike else target.seen(images)) + target.model.logit_bias for target, alike, ask in asked]

    return classify


def cosines(seen: Tensor, texts: Tensor, scale: float = 1.0) -> Tensor:
    """Scaled cosines (B, C) of pictures, seen as (B, D) or (B, V, D), with texts (C, D), or (B, C, D) of each picture's own."""
    own = scale * (seen if seen.dim() == 2 else seen[:, 0])
    return own @ texts.T if texts.dim() == 2 else (texts @ own[:, :, None])[..., 0]


def alike(features: Tensor) -> list[list[int]]:
    """Groups of rows of unit-norm features (C, D) whose cosine is 1 within ``SAME``, the largest first."""
    import torch

    rows = torch.nn.functional.normalize(features.detach().double(), dim=-1)
    groups: dict[int, list[int]] = {}
    for start in range(0, len(rows), 1024):
        same = rows[start : start + 1024] @ rows.T >= 1 - SAME
        for place, first in enumerate(same.int().argmax(dim=1).tolist(), start):
            if first != place and bool(same[place - start, first]):
                groups.setdefault(first, [first]).append(place)
    return sorted(groups.values(), key=len, reverse=True)


def unknown_tokens(model: MatchingModel) -> set[int]:
    """The token that stands for whatever the tokenizer does not know; empty where it spells everything."""
    first, second = (model.tokenize(character) for character in ("\ue000", "\uf8ff"))  # nobody's characters
    same = first.ids == second.ids and len(first.ids) > first.lead + first.tail
    return {first.ids[len(first.ids) - first.tail - 1]} if same else set()
