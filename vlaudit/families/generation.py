"""Multimodal-to-text generation: models that answer a text about pictures, of both fusion kinds of the survey."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from vlaudit.answers import without_thoughts
from vlaudit.errors import CapabilityError, ModelError
from vlaudit.families.base import CALIBRATED, Material, Model, Prompt, Speed, Target, seconds_of
from vlaudit.families.matching import SoftTokens
from vlaudit.records import Cost, Family, Needs
from vlaudit.secrets import redact

if TYPE_CHECKING:
    from torch import Tensor


Role = Literal["system", "user", "assistant"]
MAX_NEW_TOKENS = 32
FEW, MORE, QUICK = 4, 32, 0.5  # conversations that a calibration answers at once, and how many where the few take fewer seconds
OPEN_THOUGHT = "it thought, and reached no answer"
SPENT = "all its tokens went into reasoning"
CHARACTERS = 64  # of an answer, for each token it may have
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in range(0xA0) if code not in (0x09, 0x0A) and not 0x20 <= code < 0x7F
}
_CONTROLS |= dict.fromkeys(
    [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)], "\N{REPLACEMENT CHARACTER}"
)


def clean(text: str, max_new_tokens: int) -> str:
    """An answer as data: bounded, stripped, without secrets; control characters, bidirectional overrides and lone surrogates made
    visible."""
    return redact(text)[: CHARACTERS * max_new_tokens].translate(_CONTROLS).strip()


@dataclass(frozen=True, eq=False)
class LearnedPrefix:
    """Learned vectors that stand before everything else the model reads.

    embeddings: (M, W) at the input (prompt tuning); or keys_values: (layers, 2, heads, M, D), the keys and values of M
    positions in every layer (prefix tuning).
    """

    embeddings: Tensor | None = None
    keys_values: Tensor | None = None

    @property
    def size(self) -> int:
        """M."""
        if self.embeddings is not None:
            return int(self.embeddings.shape[0])
        assert self.keys_values is not None
        return int(self.keys_values.shape[3])


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says, in order: texts, and pictures as ``GenerationModel.preprocess`` gives them."""

    role: Role
    parts: tuple[str | Tensor, ...]


@dataclass(frozen=True, eq=False)
class Conversation:
    """What a prompt makes of a picture and a question; it ends with a user's turn, which the model answers."""

    turns: tuple[Turn, ...]
    prefix: LearnedPrefix | None = None

    @property
    def pictures(self) -> list[Tensor]:
        """All pictures, in order."""
        return [part for turn in self.turns for part in turn.parts if not isinstance(part, str)]

    @property
    def text(self) -> str:
        """All texts, for messages to people."""
        return "\n".join(part for turn in self.turns for part in turn.parts if isinstance(part, str))

    def then(self, answer: str, question: str) -> Conversation:
        """The conversation after the model's answer and the user's next turn."""
        more = (Turn("assistant", (answer,)), Turn("user", (question,)))
        return Conversation((*self.turns, *more), self.prefix)


class Answer(str):
    """What a model wrote, as text: its thoughts left out, stripped, control characters made visible. Empty where it wrote nothing
    that can be read.

    ``finished``: it stopped by itself, within ``max_new_tokens``. ``log_prob``: of the tokens it wrote, where asked for and all of
    them are the answer's. ``steps``: what it wrote before, under a prompt of several steps. ``unread``: why it is empty, where
    that is known.
    """

    finished: bool
    log_prob: float | None
    steps: tuple[Answer, ...]
    unread: str

    def __new__(
        cls, text: str, finished: bool = True, log_prob: float | None = None, steps: tuple[Answer, ...] = (), unread: str = ""
    ) -> Answer:
        answer = super().__new__(cls, text)
        answer.finished, answer.log_prob, answer.steps, answer.unread = finished, log_prob, steps, unread
        return answer

    @classmethod
    def read(cls, written: str, max_new_tokens: int, finished: bool = True, log_prob: float | None = None) -> Answer:
        """The answer in what a model wrote."""
        said = without_thoughts(written)
        if said is None:
            return cls("", finished, unread=OPEN_THOUGHT)
        text = clean(said, max_new_tokens)
        return cls(text, finished, log_prob if said == written else None, unread=OPEN_THOUGHT if written.strip() and not text else "")

    @property
    def shown(self) -> str:
        """The answer for people: what is not there is said."""
        return str(self) or (f"(nothing: {self.unread})" if self.unread else "(nothing)")


@dataclass(frozen=True, eq=False)
class Demonstration:
    """An example in the prompt: a picture (or none), a question and its answer. Without an answer it is a document,
    whose text is the ``question``."""

    id: str
    question: str
    answer: str | None
    picture: Tensor | None = None
    label: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatTemplates:
    """The chat templates that a model brings: ``sources`` by name, first the one that its conversations go through, and the ``variables``
    that each of them is given (the texts of special tokens, by name)."""

    sources: dict[str, str]
    variables: dict[str, str]


class GenerationModel(Model):
    """A model that answers conversations. Backends implement it; it knows no prompt.

    A method that a model cannot offer raises CapabilityError; ``capabilities`` says beforehand which it can.
    """

    family = Family.GENERATION
    fusion: Literal["encoder-decoder", "decoder-only", "unknown"]
    capabilities: frozenset[Needs]
    context_length: int  # tokens, those of pictures and of the answer included
    embedding_width: int  # W of the token embeddings
    more_tokens = "Turn off its thinking, or serve it and let it think longer: openai:BASE_URL#MODEL?reasoning_tokens=2000."

    def blank(self) -> Tensor:
        """A grey picture (3, H, W): what remains of an answer without the picture is the text's doing."""
        from PIL import Image

        return self.preprocess(Image.new("RGB", (224, 224), (128, 128, 128)))

    @abstractmethod
    def generate(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = MAX_NEW_TOKENS, log_probs: bool = False
    ) -> list[Answer]:
        """The greedy answers. An answer does not depend on the other conversations in the list."""

    def log_likelihood(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[Sequence[str]],
        *,
        soft: SoftTokens | None = None,
        end: bool = False,
        weakest: bool = False,
    ) -> Tensor:
        """(B, K): sum of log p over the tokens of each of the K answers to each conversation, or where ``weakest`` the
        log p of the least likely token.

        Differentiable in the pixels of the last turn where the model has PIXEL_GRADIENTS, and in ``soft.values``, which
        stand at the positions ``soft.slots`` of ``tokens(conversation)``. ``end``: count the end of the answer too.
        """
        raise CapabilityError(f"'{self.spec}' gives no likelihoods of answers.")

    def passes(self, answers: int) -> int:
        """Of a conversation, until the likelihoods of so many short answers to it are known, with gradients or without."""
        return answers

    def token_log_probs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Tensor]:
        """For each answer (T, V): the log distribution of the next token before each of its T tokens."""
        raise CapabilityError(f"'{self.spec}' gives no next-token distributions.")

    def attention(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Tensor]:
        """For each answer (layers, heads, T, P): how each position that predicts one of its T tokens attends to the P
        positions of pictures."""
        raise CapabilityError(f"'{self.spec}' gives no attention weights.")

    def chat_templates(self) -> ChatTemplates:
        """What writes conversations as text. It is a program of whoever made the model: render it in a cell."""
        raise CapabilityError(f"'{self.spec}' shows no chat template.")

    def written(self, turns: Sequence[Turn], ask: bool = True) -> str:
        """The text that its chat template makes of turns, with a mark for each picture; ``ask``: up to where the answer begins."""
        raise CapabilityError(f"'{self.spec}' shows no chat template.")

    def control_tokens(self) -> dict[str, int]:
        """The texts that its tokenizer reads as one token beside its vocabulary (ends of turns, places of pictures), with their ids."""
        raise CapabilityError(f"'{self.spec}' shows no tokens.")

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        raise CapabilityError(f"'{self.spec}' shows no tokens.")

    def vocabulary(self) -> list[str]:
        """The text of each token, in the order of ids; empty for special ones."""
        raise CapabilityError(f"'{self.spec}' shows no tokens.")

    def tokens(self, conversation: Conversation) -> list[int]:
        """The ids of all that the model reads of a conversation before its answer."""
        raise CapabilityError(f"'{self.spec}' shows no tokens.")

    def slots(self, conversation: Conversation, text: str) -> list[int]:
        """Positions in ``tokens(conversation)`` of a text that stands in its last turn."""
        raise CapabilityError(f"'{self.spec}' shows no tokens.")

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        """(len(ids), W): what the token-embedding table makes of these tokens, its scaling included."""
        raise CapabilityError(f"'{self.spec}' has no token embeddings.")

    def keys_values(self, ids: Sequence[int]) -> Tensor:
        """(layers, 2, heads, M, D): the keys and values that these M tokens leave behind when nothing stands before
        them."""
        raise CapabilityError(f"'{self.spec}' shows no keys and values.")

    def check_prefix(self, prefix: LearnedPrefix) -> None:
        """Raise UsageError where a learned prefix does not fit."""
        raise CapabilityError(f"'{self.spec}' takes no learned prefix.")


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
        return MultimodalGenerator(self.fitted(model), self)


class MultimodalGenerator(Target):
    """A generation model under a prompt. ``images``: a tensor (B, 3, H, W), or pictures (3, H, W) of any size."""

    family = Family.GENERATION
    model: GenerationModel
    prompt: GenerationPrompt

    def __init__(self, model: GenerationModel, prompt: GenerationPrompt) -> None:
        super().__init__(model, prompt)
        more = {Needs.LEARNED_PROMPT} if prompt.learned else set()
        more |= {Needs.CONTEXT} if prompt.has_context else set()
        more |= {Needs.FILES} if model.files else set()
        self.capabilities = model.capabilities | more

    def under(self, prompt: GenerationPrompt) -> MultimodalGenerator:
        """The same model under another prompt; what it spends is on this target's meter."""
        other = prompt.bind(self.model)
        other.meter = self.meter
        return other

    def conversation(self, image: Tensor, question: str) -> Conversation:
        """What the prompt makes of a picture and a question: the first step, where there are several."""
        return self.prompt.conversation(self.model, image, question)

    def generate(
        self,
        images: Sequence[Tensor] | Tensor,
        questions: Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        log_probs: bool = False,
    ) -> list[Answer]:
        """The answers through the prompt, after its last step; ``answer.steps`` holds the earlier ones."""
        talks = [self.conversation(image, question) for image, question in zip(images, questions, strict=True)]
        return self.answer(talks, max_new_tokens=max_new_tokens, log_probs=log_probs)

    def answer(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = MAX_NEW_TOKENS, log_probs: bool = False
    ) -> list[Answer]:
        """The same for conversations as ``conversation`` makes them, in which a probe may have planted something."""
        talks, steps = self.last_step(conversations)
        self.meter.queries += len(talks)
        answers = self.model.generate(talks, max_new_tokens=max_new_tokens, log_probs=log_probs)
        self.meter.tokens += self._written(answers)
        pairs = zip(answers, steps, strict=True)
        return [Answer(answer, answer.finished, answer.log_prob, before, answer.unread) for answer, before in pairs]

    def choose(
        self,
        images: Sequence[Tensor] | Tensor,
        questions: Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
    ) -> Tensor:
        """(B, K): log-likelihoods of K answers, the same for all questions or K for each. Differentiable in pixels."""
        conversations = self.conversations(images, questions)
        each = [choices] * len(conversations) if isinstance(choices[0], str) else choices
        self._count(conversations, sum(self.model.passes(len(answers)) for answers in each))
        return self.model.log_likelihood(conversations, each)  # type: ignore[arg-type]

    def log_likelihood(
        self, images: Sequence[Tensor] | Tensor, questions: Sequence[str], answers: Sequence[str]
    ) -> Tensor:
        """(B,): sum of log p over the tokens of the answers. Differentiable in pixels."""
        return self.choose(images, questions, [[answer] for answer in answers])[:, 0]

    def token_log_probs(
        self, images: Sequence[Tensor] | Tensor, questions: Sequence[str], answers: Sequence[str]
    ) -> list[Tensor]:
        """For each answer (T, V): the log distribution of the next token before each of its T tokens."""
        conversations = self.conversations(images, questions)
        self._count(conversations, len(conversations))
        return self.model.token_log_probs(conversations, answers)

    def conversations(self, images: Sequence[Tensor] | Tensor, questions: Sequence[str]) -> list[Conversation]:
        """What the model is asked at the prompt's last step; earlier steps are generated (and counted)."""
        pairs = zip(images, questions, strict=True)
        return list(self.last_step([self.conversation(image, question) for image, question in pairs])[0])

    def last_step(self, talks: Sequence[Conversation]) -> tuple[Sequence[Conversation], list[tuple[Answer, ...]]]:
        """T_{l+1} = T_l(x, t): each step is asked after the answers to those before it."""
        steps: list[tuple[Answer, ...]] = [()] * len(talks)
        for step in self.prompt.steps:
            self.meter.queries += len(talks)
            said = self.model.generate(talks, max_new_tokens=self.prompt.step_tokens)
            self.meter.tokens += self._written(said)
            talks = [talk.then(answer, step) for talk, answer in zip(talks, said, strict=True)]
            steps = [(*before, answer) for before, answer in zip(steps, said, strict=True)]
        return talks, steps

    def _written(self, answers: Sequence[str]) -> int:
        """Tokens of answers, their ends among them; where the model shows none, about as many."""
        try:
            return sum(len(self.model.tokenize(answer)) + 1 for answer in answers)
        except CapabilityError:
            return sum(len(answer) // 4 + 1 for answer in answers)

    def cost(self, answers: int, max_new_tokens: int = MAX_NEW_TOKENS) -> Cost:
        """Of writing so many answers of at most so many tokens, the prompt's earlier steps included."""
        steps = len(self.prompt.steps)
        tokens = self._length(max_new_tokens) + steps * self._length(self.prompt.step_tokens)
        return Cost(queries=answers * (1 + steps), tokens=round(answers * tokens))

    def _length(self, most: int) -> float:
        """Tokens that an answer of at most ``most`` is expected to have: as the calibration's, where these ended by themselves."""
        usual = self.speed.length if self.speed else 0.0
        return min(most, usual) if 0 < usual < 0.9 * CALIBRATED else most

    def _count(self, conversations: Sequence[Conversation], passes: int) -> None:
        import torch

        self.meter.queries += passes
        if torch.is_grad_enabled() and any(p.requires_grad for talk in conversations for p in talk.pictures[-1:]):
            self.meter.gradient_steps += passes

    def check(self, on: Material) -> None:
        """Raise ModelError where nothing is ever written, or likelihoods are no numbers."""
        import torch

        examples = on.examples[:4]
        images, questions = [*on.pictures(examples), self.model.blank()], [*on.questions(examples), "What is this?"]
        answers = self.generate(images, questions, max_new_tokens=8)
        if not any(answers):
            why = next((answer.unread for answer in answers if answer.unread), "")
            raise ModelError(
                f"'{self.model.spec}' writes nothing that can be read, whatever it is asked{f': {why}' if why else ''}.",
                self.model.more_tokens
                if why in (OPEN_THOUGHT, SPENT)
                else "" if why else "Its weights or its chat template do not fit, or the prompt asks nothing.",
            )
        if Needs.TOKEN_LOGITS in self.capabilities:
            with torch.no_grad():
                scores = self.choose(images, questions, ["yes", "no"])
            if not torch.isfinite(scores).all():
                raise ModelError(f"'{self.model.spec}' yields NaN or infinite likelihoods.", "Its weights are damaged.")

    def calibrate(self, on: Material, count: int = FEW) -> Speed:
        """Seconds to read a picture and a question, to write a token, and of a likelihood with its gradient."""
        import torch

        examples = on.examples[:count]
        images, questions = on.pictures(examples), on.questions(examples)
        talks, _ = self.last_step([self.conversation(image, text) for image, text in zip(images, questions, strict=True)])
        written: list[Answer] = []

        def write() -> None:
            written[:] = self.model.generate(talks, max_new_tokens=CALIBRATED)

        both = seconds_of(write, self.model, 2) / len(talks)
        if len(talks) == FEW < len(on.examples) and self.model.files and both * FEW < QUICK:
            return self.calibrate(on, MORE)  # as many at once as a probe asks
        length = min(self._written(written) / len(talks), CALIBRATED)
        first = both  # a server is not asked more than it must be
        if self.model.files:
            first = seconds_of(lambda: self.model.generate(talks, max_new_tokens=1), self.model, 2) / len(talks)
        forward, token = min(first, both), max(both - first, 0.0) / max(length - 1, 1.0)

        def backward() -> None:
            pixels = [image.clone().requires_grad_() for image in images]
            self.log_likelihood(pixels, questions, ["yes"] * len(pixels)).sum().backward()

        if Needs.PIXEL_GRADIENTS not in self.capabilities:
            return Speed(forward, forward, token=token, length=length)
        with torch.enable_grad():
            return Speed(forward, seconds_of(backward, self.model, 2) / len(images), token=token, length=length)
