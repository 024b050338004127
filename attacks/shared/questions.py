"""Questions whose right answers are known: a sample of them, and what an answer names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.answers import choice_of, gives, same, words_of
from vlaudit.attacks.shared.sampling import in_turns
from vlaudit.data.example import Example
from vlaudit.statistics import MIN_CLUSTERS

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.probe import Context


@dataclass(frozen=True)
class Asked:
    """A question about a picture, the right answer, and the choices where there are some."""

    example: Example
    question: str
    answer: str
    choices: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.example.id

    @property
    def picture(self) -> str:
        """What questions about one picture (or one identity) have in common."""
        return self.example.attributes.get("identity") or self.example.id.partition("#")[0]

    def read(self, said: str) -> str | None:
        """The choice that an answer names, or the answer itself where there are no choices; None if unreadable."""
        if not self.choices:
            return said.strip() if words_of(said) else None
        index = choice_of(said, self.choices)
        return None if index is None else self.choices[index]

    def gives(self, said: str, answer: str) -> bool:
        """Whether what was said is this answer: the choice that is named, or without choices, what it means."""
        read = self.read(said)
        return read is not None and (same(read, answer) if self.choices else gives(said, answer))

    def right(self, said: str) -> bool:
        """Whether what was said is the right answer."""
        return self.gives(said, self.answer)

    def wrong(self) -> list[str]:
        """The choices that are not right."""
        return [choice for choice in self.choices if not same(choice, self.answer)]


def asked(ctx: Context, examples: Sequence[Example]) -> list[Asked]:
    """The examples whose right answer is known, as questions."""
    known = [example for example in examples if example.answer]
    choices = ctx.choices(known)
    return [
        Asked(example, example.question, example.answer or "", tuple(options))
        for example, options in zip(known, choices, strict=True)
    ]


def sample(ctx: Context, count: int, least: int = MIN_CLUSTERS) -> list[Asked]:
    """At most ``count`` questions of the audit, drawn without replacement, about as many different pictures as possible, in
    the order of the data set; as many as the budget affords. Raises NotAssessed where they are about fewer than ``least`` pictures."""
    known = asked(ctx, ctx.data.questions)
    require_pictures(ctx, known, least)
    count = ctx.afford(min(count, len(known)), "questions", least)
    order = ctx.rng("questions").permutation(len(known)).tolist()
    return [known[i] for i in sorted(in_turns(order, [known[i].picture for i in order])[:count])]


def require_pictures(ctx: Context, rows: Sequence[Asked], least: int = MIN_CLUSTERS) -> None:
    """Raise NotAssessed where the questions are about fewer pictures than an interval needs."""
    ctx.require(len({row.picture for row in rows}), least, "different pictures with questions and answers")


def by_id(ctx: Context, ids: Sequence[str]) -> list[Asked]:
    """The questions of these ids, in their order."""
    found = {example.id: example for example in ctx.data.questions}
    return asked(ctx, [found[name] for name in ids])


def pictures(ctx: Context, questions: Sequence[Asked]) -> list[Tensor]:
    """The pictures that the questions are about."""
    return ctx.pictures([question.example for question in questions])
