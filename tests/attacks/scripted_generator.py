"""A generation model without a network: its answers and its likelihoods are functions that a test writes, so that a
probe's cases, arms and judge are tried on a known truth. ``audit`` runs a probe whole, on both arms."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vlaudit import testing
from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.families.generation import (
    Answer,
    Conversation,
    GenerationModel,
    GenerationPrompt,
    MultimodalGenerator,
    clean,
)
from vlaudit.policy import Policy
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.probe.context import Effort
from vlaudit.prompts.instruction import Instruction
from vlaudit.records import REFERENCE, TARGET, Judgement, Trial, Trials

VOCABULARY = 97
Say = Callable[[Conversation], str]
Score = Callable[[Conversation, str], float]  # log p of an answer


class Scripted(GenerationModel):
    """Says what ``say`` says, and finds an answer as likely as ``score`` says (default: each word has chance 1/2 where
    ``say`` would say it, else 1/8). Words are its tokens."""

    fusion = "decoder-only"

    def __init__(self, say: Say, score: Score | None = None, needs: Sequence[Needs] = (), size: int = 8) -> None:
        self.say, self.score, self.size = say, score or self._plain, size
        self.spec, self.sha256, self.files, self.device = "scripted", "0" * 64, [], torch.device("cpu")
        self.capabilities = frozenset({Needs.ANSWERS, Needs.TOKEN_LOGITS, *needs})
        self.context_length, self.embedding_width = 4096, 8
        self.asked: list[Conversation] = []  # all that it was asked to answer

    def _plain(self, talk: Conversation, answer: str) -> float:
        return len(answer.split()) * float(np.log(0.5 if answer == self.say(talk) else 0.125))

    def preprocess(self, picture: object) -> torch.Tensor:
        pixels = torch.from_numpy(np.asarray(picture.resize((self.size, self.size)), dtype=np.float32).copy())  # type: ignore[attr-defined]
        return pixels.permute(2, 0, 1) / 255

    def generate(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = 32, log_probs: bool = False
    ) -> list[Answer]:
        self.asked += conversations
        said = [clean(" ".join(self.say(talk).split()[:max_new_tokens]), max_new_tokens) for talk in conversations]
        pairs = zip(conversations, said, strict=True)
        return [Answer(answer, log_prob=self.score(talk, answer) if log_probs else None) for talk, answer in pairs]

    def log_likelihood(
        self, conversations: Sequence[Conversation], answers: Sequence[Sequence[str]], *, soft: object = None,
        end: bool = False, weakest: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        def scored(talk: Conversation, answer: str) -> float:  # all words are equally likely
            return self.score(talk, answer) / (max(1, len(answer.split())) if weakest else 1)

        pairs = zip(conversations, answers, strict=True)
        return torch.tensor([[scored(talk, answer) for answer in each] for talk, each in pairs])

    def token_log_probs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[torch.Tensor]:
        tables = []
        for talk, answer in zip(conversations, answers, strict=True):
            ids = self.tokenize(answer)
            chance = float(np.exp(self.score(talk, answer) / len(ids)))
            table = torch.full((len(ids), VOCABULARY), (1 - chance) / (VOCABULARY - 1))
            table[torch.arange(len(ids)), ids] = chance
            tables.append(table.log())
        return tables

    def tokenize(self, text: str) -> list[int]:
        return [zlib.crc32(word.encode()) % VOCABULARY for word in text.split()]


def dataset(rows: Sequence[dict[str, object]], seed: int = 0) -> Dataset:
    """Examples with pictures of noise. A row has any fields of Example; other keys are texts or attributes."""
    rng = np.random.default_rng(seed)
    fields, texts = {"id", "label", "split", "member"}, {"text", "question", "answer", "choices", "pair"}
    examples = []
    for number, row in enumerate(rows):
        known = {key: value for key, value in row.items() if key in fields}
        examples.append(
            Example(
                picture=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
                texts={key: str(value) for key, value in row.items() if key in texts},
                attributes={key: str(value) for key, value in row.items() if key not in fields | texts},
                **{"id": f"{number:04}", **known},  # type: ignore[arg-type]
            )
        )
    return Dataset("scripted", examples)


def context(
    probe: Probe | type[Probe], target: MultimodalGenerator, data: Dataset, folder: Path, *, arm: str = TARGET,
    effort: Effort = "quick", seed: int = 0,
) -> Context:  # fmt: skip
    return Context(
        probe.info.id, arm, data, data.labels, ArtifactStore(folder), seed=seed, effort=effort, _target=target
    )


def trials_of(
    probe: Probe, model: Scripted, data: Dataset, folder: Path, *, prompt: GenerationPrompt | None = None,
    reference: Scripted | None = None, effort: Effort = "quick", seed: int = 0,
) -> Trials:  # fmt: skip
    """The trials on the model under a prompt, and on the reference: another model under the bare question."""
    found: list[Trial] = []
    cases = None  # the target's, for both arms, as in an audit
    for arm, on, under in ((TARGET, model, prompt or Instruction("{}")), (REFERENCE, reference, Instruction("{}"))):
        if on is not None:
            ctx = context(probe, under.bind(on), data, folder, arm=arm, effort=effort, seed=seed)
            ctx.start_clock()
            cases = probe.cases(ctx) if cases is None else cases
            found += list(probe.attempt(ctx, cases))
    return Trials(found, reference_note=None if reference else "no reference in this test")


def audit(probe: Probe, model: Scripted, data: Dataset, folder: Path, policy: Policy | None = None,
          **settings: object) -> Judgement:  # fmt: skip
    """The judgement of a probe on the model; settings as of ``trials_of``."""
    return probe.judge(trials_of(probe, model, data, folder, **settings), policy or Policy())  # type: ignore[arg-type]


def conforms(probe_class: type[Probe], ctx: Context) -> Judgement:
    """What ``vlaudit.testing.check_probe`` asks, on a scripted target instead of a bundled one."""
    check, probe = testing._Checks({}), probe_class()
    testing._check_info(check, probe_class)
    testing._check_imports(check, probe_class)
    ctx.start_clock()
    trials = testing._check_attempt(check, probe, ctx, testing._check_cases(check, probe, ctx))
    return testing._check_judge(check, probe, trials)
