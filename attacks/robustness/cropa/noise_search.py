"""Noise that lowers the margin of the right answer over a wrong one, under many wordings of a question, on the bare model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.answers import same
from vlaudit.attacks.shared.questions import Asked, asked, require_pictures
from vlaudit.attacks.shared.sampling import one_of_each
from vlaudit.errors import NotAssessed
from vlaudit.families.generation import MultimodalGenerator
from vlaudit.families.matching import SoftTokens
from vlaudit.probe import Context, Needs
from vlaudit.statistics import MIN_CLUSTERS

if TYPE_CHECKING:
    from torch import Tensor

TRAINING = ("Look at the picture. {}", "Question: {}", "{} Answer:", "Please tell me: {}")
TOKENS = 16  # of an answer
_LONGEST = 12  # words of an answer that are kept around the choice
_CANDIDATES = 8  # wrong answers of which the likeliest is aimed at


class WordedQuestions:
    """One wording of many questions: a ``Wording`` of `vlaudit.search.transfer`.

    target: the model under the bare question; pictures: one a question, each (3, H, W); right, wrong: the answers whose
    log-likelihoods are compared.
    """

    def __init__(self, target: MultimodalGenerator, texts: Sequence[str], pictures: Sequence[Tensor],
                 right: Sequence[str], wrong: Sequence[str]) -> None:  # fmt: skip
        self._target, self._texts, self._answers = target, texts, list(zip(right, wrong, strict=True))
        self._slots: list[list[int]] = [[] for _ in texts]
        self._embeddings: list[Tensor | None] = [None for _ in texts]
        if Needs.EMBEDDING_GRADIENTS in target.model.capabilities:
            self._locate(pictures)

    def _locate(self, pictures: Sequence[Tensor]) -> None:
        """Where each text's tokens stand, and what they are; the same for all pictures of a size."""
        model = self._target.model
        known: dict[tuple[str, tuple[int, ...]], tuple[list[int], Tensor | None]] = {}
        for row, (text, picture) in enumerate(zip(self._texts, pictures, strict=True)):
            key = text, tuple(picture.shape)
            if key not in known:
                talk = self._target.conversation(picture, text)
                slots, ids = model.slots(talk, text), model.tokens(talk)
                known[key] = slots, model.token_embeddings([ids[i] for i in slots]).detach() if slots else None
            self._slots[row], self._embeddings[row] = known[key]

    def embeddings(self, row: int) -> Tensor | None:
        return self._embeddings[row]

    def margins(self, points: Sequence[Tensor], rows: Sequence[int], embeddings: Sequence[Tensor] | None) -> Tensor:
        import torch

        target, groups = self._target, dict[int, list[int]]()
        for place, row in enumerate(rows):
            groups.setdefault(len(self._slots[row]) if embeddings is not None else 0, []).append(place)
        found: dict[int, Tensor] = {}
        for places in groups.values():
            talks = [target.conversation(points[place], self._texts[rows[place]]) for place in places]
            soft = None
            if embeddings is not None:
                values = torch.stack([embeddings[place] for place in places])
                soft = SoftTokens(values, [self._slots[rows[place]] for place in places])
            scores = target.model.log_likelihood(talks, [self._answers[rows[place]] for place in places], soft=soft)
            found |= dict(zip(places, scores[:, 0] - scores[:, 1], strict=True))
            passes = target.model.passes(2) * len(places)
            target.meter.queries += passes
            target.meter.gradient_steps += passes
        return torch.stack([found[place] for place in range(len(rows))])


def phrased(said: str, right: str, wrong: str) -> tuple[str, str]:
    """The right and the wrong answer as the model would say them: what it said, where that is short and names the right
    one, and the same with the wrong one in its place; else the two alone."""
    form = re.compile(rf"(?<!\w){re.escape(right)}(?!\w)", re.IGNORECASE)
    if len(said.split()) > _LONGEST or len(form.findall(said)) != 1:
        return right, wrong
    return said, form.sub(lambda match: wrong.capitalize() if match.group()[:1].isupper() else wrong, said)


def to_attack(ctx: Context, count: int) -> list[Asked]:
    """At most ``count`` questions with a wrong answer to aim at, each about a picture of its own, in the data's order."""
    known = [row for row in asked(ctx, ctx.data.questions) if wrong_answers(ctx, row)]
    if not known:
        raise NotAssessed("no question has a wrong answer that could be aimed at")
    require_pictures(ctx, known)
    count = ctx.afford(min(count, len({row.picture for row in known})), "questions", MIN_CLUSTERS)
    return one_of_each(known, [row.picture for row in known], count, ctx.rng("questions"))


def wrong_answers(ctx: Context, row: Asked) -> list[str]:
    """The wrong choices; where no choices are given, the answers to the same question about others, else all others."""
    if row.choices:
        return row.wrong()
    others = [example for example in ctx.data.questions if example.answer and not same(example.answer, row.answer)]
    alike = [example for example in others if example.question == row.question]
    return sorted({str(example.answer) for example in alike or others})


def aims(ctx: Context, bare: MultimodalGenerator, rows: Sequence[Asked],
         pictures: Sequence[Tensor]) -> list[tuple[str, str | None]]:  # fmt: skip
    """For each question the likeliest of up to eight wrong answers, and another one that is not aimed at."""
    import torch

    drawn = []
    for row in rows:
        wrong, rng = wrong_answers(ctx, row), ctx.rng(row.id, "wrong")
        drawn.append([wrong[i] for i in rng.permutation(len(wrong))[:_CANDIDATES]])
    found: list[tuple[str, str | None]] = [("", None)] * len(rows)
    for size in {len(wrong) for wrong in drawn}:
        mine = [i for i, wrong in enumerate(drawn) if len(wrong) == size]
        with torch.no_grad():
            shown, asked_of = [pictures[i] for i in mine], [rows[i].question for i in mine]
            scores = bare.choose(shown, asked_of, [drawn[i] for i in mine])
        for i, best in zip(mine, scores.argmax(dim=1).tolist(), strict=True):
            rest = [wrong for place, wrong in enumerate(drawn[i]) if place != best]
            found[i] = drawn[i][best], rest[0] if rest else None
    return found


class Search:
    """Noise for some of the questions, by the same search."""

    def __init__(self, bare: MultimodalGenerator, rows: Sequence[Asked], clean: Sequence[Tensor],
                 goals: Sequence[tuple[str, str | None]], templates: Sequence[str]) -> None:  # fmt: skip
        self.bare, self.rows, self.clean, self.templates = bare, rows, clean, templates
        said = bare.generate(clean, [row.question for row in rows], max_new_tokens=TOKENS)
        trios = zip(said, rows, goals, strict=True)
        self.answers = [phrased(answer, row.answer, aim) for answer, row, (aim, _) in trios]

    def run(self, chosen: Sequence[int], epsilon: int, steps: int, *, prompt_noise: bool = True) -> dict[int, Tensor]:
        """The changed pictures of the questions with these numbers."""
        from vlaudit.search.transfer import Plan, transferable

        pictures = [self.clean[i] for i in chosen]
        right, wrong = ([self.answers[i][side] for i in chosen] for side in (0, 1))
        texts = [[template.replace("{}", self.rows[i].question) for i in chosen] for template in self.templates]
        wordings = [WordedQuestions(self.bare, each, pictures, right, wrong) for each in texts]
        plan = Plan(epsilon / 255, steps) if prompt_noise else Plan(epsilon / 255, steps, prompt_noise=0.0)
        return dict(zip(chosen, transferable(wordings, pictures, plan), strict=True))
