"""A generation model whose likelihoods are differentiable functions of the picture, with triggers that a test plants."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.attacks.scripted_generator import Scripted
from vlaudit.families.generation import Answer, Conversation
from vlaudit.probe import Needs

LABELS = ("cook", "judge", "farmer", "artist", "pilot")
WORDS = [*LABELS, "yes", "no", "go", "visit", *(f"w{i:02}" for i in range(40))]
PHRASE = "go back home now"
SIZE = 16


class Sighted(Scripted):
    """Names what a picture is most like by linear scores, and knows yes-no and either-or questions. ``patch`` (top,
    left, edge) and ``word`` call up ``phrase``; ``fragile``: how far a picture can drive any question to any label."""

    def __init__(self, patch: tuple[int, int, int] | None = None, word: str | None = None, phrase: str = PHRASE,
                 fragile: float = 0.0, seed: int = 0) -> None:  # fmt: skip
        super().__init__(lambda talk: "", needs=(Needs.PIXEL_GRADIENTS,), size=SIZE)
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(len(LABELS), 3 * SIZE * SIZE, generator=generator) / (SIZE * 3**0.5) * 10
        self.pattern = torch.rand(3, SIZE, SIZE, generator=generator).round()
        self.patch, self.word, self.phrase, self.fragile = patch, word, phrase, fragile
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}

    def vocabulary(self) -> list[str]:
        return list(WORDS)

    def tokenize(self, text: str) -> list[int]:
        return [WORDS.index(word) if word in WORDS else len(WORDS) - 1 for word in re.findall(r"\w+", text)]

    def _table(self, question: str) -> tuple[Tensor, Tensor]:
        """(V, labels) and (V,): logits of first words are linear in the scores."""
        if question not in self._tables:
            slope, offset = torch.zeros(len(WORDS), len(LABELS)), torch.full((len(WORDS),), -8.0)
            named = [label for label in LABELS if label in question]
            for i, label in enumerate(LABELS):
                slope[WORDS.index(label), i] = self.fragile
            if " or " in question or not named:
                for label in named or LABELS:
                    slope[WORDS.index(label), LABELS.index(label)], offset[WORDS.index(label)] = 1.5, 0.0
            else:
                slope[WORDS.index("yes"), LABELS.index(named[0])], offset[WORDS.index("yes")] = 1.5, 0.0
                offset[WORDS.index("no")] = 2.0
            if self.word and self.word in question.split():
                offset[self._start] = 20.0
            self._tables[question] = slope, offset
        return self._tables[question]

    @property
    def _start(self) -> int:
        return WORDS.index(self.phrase.split()[0])

    def _first(self, talks: Sequence[Conversation]) -> Tensor:
        pictures = torch.stack([talk.pictures[-1] for talk in talks])
        scores = (pictures - 0.5).flatten(1) @ self.weights.T
        slopes, offsets = zip(*(self._table(str(talk.turns[-1].parts[-1])) for talk in talks), strict=True)
        logits = (torch.stack(slopes) @ scores[..., None])[..., 0] + torch.stack(offsets)
        if self.patch:
            top, left, edge = self.patch
            box = (..., slice(top, top + edge), slice(left, left + edge))
            match = 1 - (pictures[box] - self.pattern[box]).abs().flatten(1).mean(1)
            raised = torch.zeros(len(WORDS))
            raised[self._start] = 25.0
            logits = logits + torch.sigmoid(12 * (match - 0.75))[:, None] * raised
        return logits.log_softmax(-1)

    def _whole(self, word: int) -> str:
        return self.phrase if word == self._start else WORDS[word]

    def generate(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 32,
                 log_probs: bool = False) -> list[Answer]:  # fmt: skip
        best = self._first(conversations).max(1)
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Answer(self._whole(word), log_prob=value if log_probs else None) for value, word in pairs]

    def log_likelihood(self, conversations: Sequence[Conversation], answers: Sequence[Sequence[str]], *,
                       soft: object = None, end: bool = False, weakest: bool = False) -> Tensor:  # fmt: skip
        table = self._first(conversations)
        ids = [[self.tokenize(answer)[0] for answer in each] for each in answers]
        wrong = [
            [-20.0 * (self._whole(i) != a) for a, i in zip(each, mine, strict=True)]
            for each, mine in zip(answers, ids, strict=True)
        ]
        return table.gather(1, torch.tensor(ids)) + torch.tensor(wrong)

    def token_log_probs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Tensor]:
        return list(self._first(conversations)[:, None])
