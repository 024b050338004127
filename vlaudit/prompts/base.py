"""The prompt contract. A prompt binds to a model and gives a target; a learned one can also be fitted, saved, loaded."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlaudit.errors import UsageError
from vlaudit.files import fingerprint, walk
from vlaudit.records import Family, PromptInfo

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.base import Model, Target
    from vlaudit.families.generation import (
        Conversation,
        Demonstration,
        GenerationModel,
        LearnedPrefix,
        MultimodalGenerator,
    )
    from vlaudit.families.matching import ImageTextMatcher, MatchingModel
    from vlaudit.families.text_to_image import Conditioning, Generated, TextToImageGenerator, TextToImageModel


class Prompt(ABC):
    """How the model is asked. ``id`` is unique among the prompts of an audit and readable."""

    method: ClassVar[str]
    family: ClassVar[Family]
    learned: ClassVar[bool] = False
    path: Path | None = None  # the file it was loaded from
    members: Sequence[str] = ()  # SHA-256 hashes of the pictures a learned prompt was fitted on, where it says so
    id: str = ""

    @classmethod
    @abstractmethod
    def parse(cls, argument: str) -> Self:
        """Make the prompt from what follows ``method:`` on the command line: a file, or ``key=value,…``."""

    @abstractmethod
    def bind(self, model: Model) -> Target:
        """The target: this prompt on that model. Raises UsageError when they do not fit."""

    @property
    def text(self) -> str:
        """The prompt in readable form, for reports."""
        return self.id

    def reference(self) -> Prompt:
        """The prompt that shows what this one adds: by default its family's plain prompt."""
        from vlaudit.prompts.specs import parse_prompt

        return parse_prompt(None, self.family)

    def info(self) -> PromptInfo:
        path = None if self.path is None else self.path.as_posix()
        return PromptInfo(id=self.id, method=self.method, text=self.text, sha256=self.sha256(), path=path)

    def sha256(self) -> str | None:
        """Fingerprint of the file or folder it was loaded from; None for a prompt that is all text."""
        if self.path is None:
            return None
        files = [self.path] if self.path.is_file() else sorted(filter(os.path.isfile, walk(self.path)))
        return fingerprint(files)


class MatchingPrompt(Prompt):
    """A prompt for dual encoders: it turns labels into text features, and may change the pixels."""

    family = Family.MATCHING

    @abstractmethod
    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        """Unit-norm features (C, D) of the labels under this prompt."""

    def transform(self, images: Tensor) -> Tensor:
        """The visual side of the prompt: (B, 3, H, W) in [0, 1] to the same. Default: pictures unchanged."""
        return images

    @property
    def templates(self) -> tuple[str, ...]:
        """The hard templates with a ``{}`` slot; empty for prompts without readable text."""
        return ()

    @property
    def context(self) -> Tensor | None:
        """Learned text-context embeddings: (M, W), or (C, M, W) when class-specific."""
        return None

    def check(self, model: MatchingModel) -> None:
        """Raise UsageError when the prompt was made for another model or does not fit its shapes."""

    def check_labels(self, model: MatchingModel, labels: Sequence[str]) -> None:
        """Raise UsageError when the prompt was made for other labels."""

    def token_count(self, model: MatchingModel, label: str) -> int:
        """The most tokens that a text of this label takes, special ones included."""
        return max((len(model.tokenize(t.replace("{}", label)).ids) for t in self.templates), default=0)

    def bind(self, model: Model) -> ImageTextMatcher:
        from vlaudit.families.matching import ImageTextMatcher, MatchingModel

        if not isinstance(model, MatchingModel):
            raise UsageError(
                f"The prompt '{self.id}' is for {self.family.value} models, but '{model.spec}' is {model.family.value}."
            )
        self.check(model)
        return ImageTextMatcher(model, self)


class TextToImagePrompt(Prompt):
    """A prompt for text-to-image pipelines: it makes a text of a caption, and may change what draws it."""

    family = Family.TEXT_TO_IMAGE
    token: str | None = None  # the personal token that stands for a learned concept, if there is one
    noun: str | None = None  # the class noun that stands for it in the reference

    def wording(self, caption: str, seed: int | None = None) -> str:
        """The text that is drawn. A prompt that draws at random draws by seed (by the caption, where there is none)."""
        return caption

    def check(self, model: TextToImageModel) -> None:
        """Raise UsageError when the prompt was made for another model or does not fit it."""

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
        from vlaudit.families.text_to_image import TextToImageGenerator, TextToImageModel

        if not isinstance(model, TextToImageModel):
            raise UsageError(
                f"The prompt '{self.id}' is for {self.family.value} models, but '{model.spec}' is {model.family.value}."
            )
        self.check(model)
        return TextToImageGenerator(model, self)


class GenerationPrompt(Prompt):
    """A prompt for generation models: it makes a conversation of a picture and a question.

    x_in = H(C, x, t) in the survey's terms: C are the demonstrations (and documents), x the picture, t the question.
    """

    family = Family.GENERATION
    template: str = "{}"  # the user's text; {} stands for the question
    system: str = ""  # the system turn; empty for none
    steps: tuple[str, ...] = ()  # what is asked after the first answer, one turn each (chain of thought)
    step_tokens: int = 96  # the most tokens of every answer but the last
    prefix: LearnedPrefix | None = None  # learned vectors before everything else
    has_context: bool = False  # whether there are demonstrations or documents

    def wording(self, question: str) -> str:
        """The text that the user's turn makes of a question."""
        return self.template.replace("{}", question)

    def with_system(self, text: str) -> Self:
        """The same prompt with a further line in its system turn."""
        other = copy.copy(self)
        other.system = f"{self.system}\n{text}" if self.system else text
        return other

    def demonstrations(self, model: GenerationModel, picture: Tensor, question: str) -> Sequence[Demonstration]:
        """The examples and documents that this picture and question get in their prompt, in order."""
        return ()

    def conversation(self, model: GenerationModel, picture: Tensor, question: str) -> Conversation:
        """What the model reads of a picture and a question."""
        return self.compose(picture, question, self.demonstrations(model, picture, question))

    def compose(self, picture: Tensor, question: str, context: Sequence[Demonstration]) -> Conversation:
        """System turn, a pair of turns for each demonstration, and the user's turn: documents, picture, text."""
        from vlaudit.families.generation import Conversation, Turn

        turns = [Turn("system", (self.system,))] if self.system else []
        documents: list[str | Tensor] = []
        for shown in context:
            seen = () if shown.picture is None else (shown.picture,)
            if shown.answer is None:
                documents += [*seen, f"Context: {shown.question}\n"]
            else:
                turns.append(Turn("user", (*seen, self.wording(shown.question))))
                turns.append(Turn("assistant", (shown.answer,)))
        turns.append(Turn("user", (*documents, picture, self.wording(question))))
        return Conversation(tuple(turns), self.prefix)

    def check(self, model: GenerationModel) -> None:
        """Raise UsageError when the prompt was made for another model or does not fit it."""
        if self.prefix is not None:
            model.check_prefix(self.prefix)

    def bind(self, model: Model) -> MultimodalGenerator:
        from vlaudit.families.generation import GenerationModel, MultimodalGenerator

        if not isinstance(model, GenerationModel):
            raise UsageError(
                f"The prompt '{self.id}' is for {self.family.value} models, but '{model.spec}' is {model.family.value}."
            )
        self.check(model)
        return MultimodalGenerator(model, self)
