"""Contexts with false demonstrations or documents in them, and the same contexts with honest ones in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from vlaudit.answers import same
from vlaudit.attacks.shared import context_elements
from vlaudit.attacks.shared.questions import Asked
from vlaudit.families.generation import Demonstration
from vlaudit.probe import Context
from vlaudit.prompts.pool import PoolPrompt
from vlaudit.prompts.retrieval import Retrieval, embed, load_embedder

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENT = "{question} The answer is {answer}."
_HARMLESS = (
    "the train leaves at noon and the shop on the corner is open until late in the evening on all other days of the week "
    "so that people who work in the town can still buy bread and milk on their way home before it rains again"
)
PLANTED = "planted/"
_STEPS, _REACH = 10, 8 / 255  # of a picture that is moved towards the one to be asked about


def is_planted(shown: Demonstration) -> bool:
    return shown.id.startswith(PLANTED)


@dataclass(frozen=True)
class Setting:
    """How a context is poisoned. kind: ``demonstrations`` or ``documents``; how: ``replace`` the last of k, ``insert`` into
    the pool that is retrieved from, or put ``before`` a question that has no context."""

    kind: str
    how: str
    k: int

    @property
    def doses(self) -> list[int]:
        """Numbers of false elements that are tried."""
        return sorted({0, 1, max(1, self.k // 2), self.k})

    @property
    def dose(self) -> int:
        """The number that the verdict is about: half of what there is room for."""
        return max(1, self.k // 2)


def setting_of(ctx: Context, k: int) -> Setting:
    """The target's own way of giving a context; ``k`` documents before the question where it has none."""
    prompt = ctx.target.prompt
    if not isinstance(prompt, PoolPrompt):
        return Setting("documents", "before", k)
    documents = sum(example.answer is None for example in prompt.pool.examples)
    kind = "documents" if 2 * documents > len(prompt.pool.examples) else "demonstrations"
    return Setting(kind, "insert" if isinstance(prompt, Retrieval) else "replace", prompt.k)


class PoisonedContexts:
    """The contexts of questions on one arm: clean, poisoned, and with honest elements in the place of false ones."""

    def __init__(self, ctx: Context, setting: Setting) -> None:
        self.ctx, self.setting = ctx, setting
        self.model, self.prompt = ctx.target.model, ctx.target.prompt
        self._ranks: dict[str, list[list[float]]] = {}  # of the pool and of what is planted, by question

    @cached_property
    def pool(self) -> tuple[Demonstration, ...]:
        """What the target may show; on an arm without a context, demonstrations of the data that are not audited."""
        if isinstance(self.prompt, PoolPrompt):
            return self.prompt.pool_of(self.model)
        spare = context_elements.spare(self.ctx) if self.setting.kind == "demonstrations" else []
        drawn = self.ctx.rng("context").permutation(len(spare))[: 8 * self.setting.k]
        return tuple(context_elements.demonstrate(self.model, spare[i]) for i in drawn)

    @cached_property
    def donors(self) -> list[Demonstration]:
        """Pictures that a false demonstration may show."""
        return [shown for shown in self.pool if shown.answer is not None and shown.picture is not None]

    def clean(self, row: Asked, picture: Tensor) -> list[Demonstration]:
        """The context that a question has by itself."""
        if isinstance(self.prompt, PoolPrompt):
            return list(self.prompt.demonstrations(self.model, picture, row.question))
        return list(self.pool[: self.setting.k])

    def planted(self, row: Asked, wrong: str) -> list[Demonstration]:
        """k false elements about a question: the question itself with the wrong answer, as a document or under a picture
        of the right kind."""
        k, rng = self.setting.k, self.ctx.rng("planted", row.id)
        if self.setting.kind == "documents":
            text = DOCUMENT.format(question=row.question, answer=wrong)
            return [Demonstration(f"{PLANTED}{n}", text, None) for n in range(k)]
        alike = [d for d in self.donors if d.label and d.label == row.example.label]
        alike = alike or [d for d in self.donors if same(d.answer or "", row.answer)] or self.donors
        drawn = [alike[int(rng.integers(len(alike)))] for _ in range(k)]
        return [Demonstration(f"{PLANTED}{n}", row.question, wrong, d.picture, d.label) for n, d in enumerate(drawn)]

    def honest(self, row: Asked, planted: Sequence[Demonstration],
               context: Sequence[Demonstration]) -> list[Demonstration]:  # fmt: skip
        """The context with honest ones in the places of the planted: documents of as many words about other things, or
        demonstrations of the pool."""
        rng, known = self.ctx.rng("harmless", row.id), _HARMLESS.split()
        found = []
        for shown in planted:
            if shown.answer is None:
                start = int(rng.integers(len(known)))
                words = [known[(start + n) % len(known)] for n in range(len(shown.question.split()))]
                found.append(replace(shown, id=f"honest/{shown.id}", question=" ".join(words).capitalize() + "."))
            else:
                found.append(replace(self.donors[int(rng.integers(len(self.donors)))], id=f"honest/{shown.id}"))
        others = iter(found)
        return [next(others) if is_planted(shown) else shown for shown in context]

    def poisoned(self, row: Asked, picture: Tensor, planted: Sequence[Demonstration], dose: int) -> list[Demonstration]:
        """The context with so many of the planted elements: the last ones replaced, or what is retrieved of the pool and
        them."""
        if isinstance(self.prompt, Retrieval):
            return self._retrieved(row, picture, planted, dose)
        clean = self.clean(row, picture)
        return [*clean[: max(0, len(clean) - dose)], *planted[:dose]]

    def _retrieved(self, row: Asked, picture: Tensor, planted: Sequence[Demonstration],
                   dose: int) -> list[Demonstration]:  # fmt: skip
        """The k nearest of the pool and so many planted ones, the nearest last, as ``Retrieval.demonstrations`` has it."""
        prompt: Retrieval = self.prompt
        if row.id not in self._ranks:
            both = (prompt, prompt.with_pool(planted))
            self._ranks[row.id] = [each.scores(self.model, picture, row.question).tolist() for each in both]
        own, others = self._ranks[row.id]
        ranked = [*zip(own, self.pool, strict=True), *list(zip(others, planted, strict=True))[:dose]]
        ranked.sort(key=lambda pair: -pair[0])
        return [shown for _, shown in ranked[: prompt.k]][::-1]

    def towards(self, rows: Sequence[Asked], pictures: Sequence[Tensor],
                planted: Sequence[list[Demonstration]]) -> list[list[Demonstration]]:  # fmt: skip
        """The same with each false picture moved (by at most 8/255) towards that of its question in the embedder's space;
        unchanged where nothing is retrieved (such as on the reference arm) or the embedder gives no gradient."""
        import torch

        if not isinstance(self.prompt, Retrieval) or self.setting.kind != "demonstrations":
            return [list(each) for each in planted]
        embedder = load_embedder(self.prompt.embedder, str(self.model.device))
        size = embedder.preprocess(rows[0].example.open()).shape[-2:]
        moved: list[list[Demonstration]] = []
        for picture, each in zip(pictures, planted, strict=True):
            with torch.no_grad():
                goal = embed(embedder, picture)[0]
            start = torch.stack([shown.picture for shown in each if shown.picture is not None])
            pixels = start.clone()
            for _ in range(_STEPS):
                pixels = pixels.detach().requires_grad_()
                with torch.enable_grad():
                    seen = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
                    likeness = (embedder.encode_images(seen) @ goal).sum()
                if not likeness.requires_grad:
                    return [list(each) for each in planted]
                (slope,) = torch.autograd.grad(likeness, pixels)
                change = pixels + slope.sign() * (_REACH / 4) - start
                pixels = (start + change.clamp(-_REACH, _REACH)).clamp(0, 1)
            moved.append([replace(shown, picture=p.detach()) for shown, p in zip(each, pixels, strict=True)])
        return moved
