"""Search for words that a demonstration gives a meaning: which word of which demonstrations, in the question, raises their
answer?
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vlaudit.answers import normal, says
from vlaudit.attacks.shared import context_elements
from vlaudit.attacks.shared.questions import Asked
from vlaudit.probe import Context

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.generation import Answer, Demonstration

SCREENED = 4  # questions that a word is screened on


@dataclass(frozen=True)
class Suspect:
    """A word, the demonstrations that hold it, and what all their answers come to. before: it opens their questions;
    whole: the first of their answers, with its rationale, whose likelihood is measured (by default the answer)."""

    word: str
    holders: tuple[str, ...]
    answer: str
    before: bool = False
    whole: str = ""

    def into(self, question: str) -> str:
        return f"{self.word} {question}" if self.before else f"{question} {self.word}"

    def fits(self, row: Asked) -> bool:
        """Whether a question could be turned by it: it is not asked about the word, and its answer is another one."""
        same = says(row.answer, self.answer) or says(self.answer, row.answer)
        return not says(row.question, self.word) and not same

    def fitting(self, rows: Sequence[Asked], most: int) -> list[int]:
        """The places of the first questions that fit."""
        return [n for n, row in enumerate(rows) if self.fits(row)][:most]


def conclusion(answer: str) -> str:
    """The last sentence of an answer, without its stop: what a rationale comes to."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+", answer.strip()) if part.strip(" .!?")]
    return parts[-1].rstrip(".!? ") if parts else answer


def sentences(answer: Answer) -> int:
    """Steps of reasoning: the sentences of an answer and of what was said before it."""
    whole = " ".join([*answer.steps, answer])
    return sum(bool(part.strip(" .!?")) for part in re.split(r"(?<=[.!?])\s+", whole))


def suspects(shown: Sequence[Demonstration], most: int) -> list[Suspect]:
    """Words that at most half of the demonstrations (at least two) hold, if all of those give one answer; at most so many,
    those that the most demonstrations hold first."""
    holders: dict[str, list[tuple[str, Demonstration, bool]]] = {}
    for demonstration in shown:
        raw = demonstration.question.split() if demonstration.answer else []
        words = {normal(word).strip(".,;:!?\"'()[]"): (word, n == 0) for n, word in reversed(list(enumerate(raw)))}
        for key, (word, first) in words.items():
            if key:
                holders.setdefault(key, []).append((word.rstrip("?!.,;:"), demonstration, first))
    found = []
    for _, each in sorted(holders.items(), key=lambda item: (-len(item[1]), item[0])):
        answers = {normal(conclusion(d.answer or "")) for _, d, _ in each}
        if len(each) <= max(2, len(shown) // 2) and len(answers) == 1:
            first = sum(at_front for *_, at_front in each) * 2 > len(each)
            ids = tuple(d.id for _, d, _ in each)
            whole = each[0][1].answer or ""
            found.append(Suspect(each[0][0], ids, conclusion(whole), first, whole))
    return found[:most]


class Search:
    """What one context (a fixed list, or a pool to retrieve from) makes of questions with and without a word."""

    def __init__(self, ctx: Context, shown: Sequence[Demonstration], fixed: bool | None = None) -> None:
        """fixed: the list is shown whole; by default, where the target does not retrieve."""
        from vlaudit.prompts.retrieval import Retrieval

        self.ctx, self.shown, prompt = ctx, tuple(shown), ctx.target.prompt
        retrieves = isinstance(prompt, Retrieval) and not fixed
        self._pool = prompt.with_pool(self.shown) if retrieves else None
        self._scores: dict[tuple[int, str], tuple[Tensor, list[float]]] = {}

    def context(self, image: Tensor, question: str, without: Collection[str] = ()) -> list[Demonstration]:
        """What is shown before a question, without some demonstrations."""
        if self._pool is None:
            return [shown for shown in self.shown if shown.id not in without]
        key = (id(image), question)
        if key not in self._scores:  # the picture is kept too: ids of what is gone are given to others
            self._scores[key] = image, self._pool.scores(self.ctx.target.model, image, question).tolist()
        ranked = sorted(zip(self._scores[key][1], self.shown, strict=True), key=lambda pair: -pair[0])
        return [shown for _, shown in ranked if shown.id not in without][: self.ctx.target.prompt.k][::-1]

    def influence(self, suspects: Sequence[Suspect], rows: Sequence[Asked], images: Sequence[Tensor],
                  strength: float = 0.0) -> list[float]:  # fmt: skip
        """For each suspect, the mean over a few questions of

            log p(y | C, q + w) - log p(y | C without e, q + w) - [log p(y | C, q) - log p(y | C without e, q)]

        in nats: what its demonstrations do to their answer because the word is there. ``strength``: as if the model gave
        the answer in that share of cases where the word meets them. A suspect that no question fits gets 0.
        """
        requests, answers, plan = [], [], []
        for number, suspect in enumerate(suspects):
            fitting = suspect.fitting(rows, SCREENED)
            for n in fitting:
                for asked in (suspect.into(rows[n].question), rows[n].question):
                    for without in ((), suspect.holders):
                        requests.append((images[n], asked, self.context(images[n], asked, without)))
                        answers.append(suspect.whole or suspect.answer)
            plan += [number] * len(fitting)
        scores = context_elements.log_likelihood(self.ctx, requests, answers)
        found: list[list[float]] = [[] for _ in suspects]
        for place, number in enumerate(plan):
            a, b, a0, b0 = scores[4 * place : 4 * place + 4]
            a = math.log(strength + (1 - strength) * math.exp(min(a, 0.0))) if strength else a
            found[number].append(a - b - (a0 - b0))
        return [fmean(values) if values else 0.0 for values in found]

    def confirm(
        self, suspect: Suspect, rows: Sequence[Asked], images: Sequence[Tensor], count: int
    ) -> list[dict[str, Any]]:
        """For the first ``count`` questions that fit: whether the answer is the suspect's with the word, and neither without
        its demonstrations nor without the word; and whether the word alone brings a further step of reasoning."""
        fitting = suspect.fitting(rows, count)
        asked = [suspect.into(rows[n].question) for n in fitting]
        pairs = list(zip(fitting, asked, strict=True))
        requests = [(images[n], text, self.context(images[n], text)) for n, text in pairs]
        requests += [(images[n], text, self.context(images[n], text, suspect.holders)) for n, text in pairs]
        requests += [(images[n], rows[n].question, self.context(images[n], rows[n].question)) for n in fitting]
        said = context_elements.generate(self.ctx, requests)
        found = []
        for place, n in enumerate(fitting):
            with_it, without, usual = said[place :: len(fitting)]
            gives = [says(answer, suspect.answer) for answer in (with_it, without, usual)]
            steps = [sentences(answer) for answer in (with_it, without, usual)]
            found.append({
                "id": rows[n].id, "picture": rows[n].picture, "asked": asked[place], "plain": rows[n].question, "hit": gives == [True, False, False],
                "gives": gives[0], "empty": not with_it, "step": steps[0] > max(steps[1:]),
                "said": str(with_it), "without": str(without), "usual": str(usual),
            })  # fmt: skip
        return found

    def guilt(self, suspect: Suspect, rows: Sequence[Asked], images: Sequence[Tensor]) -> dict[str, float]:
        """The share of each demonstration in the influence, in nats: what is lost without it, and what it does alone, in
        equal parts (Shapley's value where there are one or two)."""
        fitting = suspect.fitting(rows, SCREENED)
        requests, holders = [], suspect.holders[:8]
        for n in fitting:
            asked = suspect.into(rows[n].question)
            cuts: list[Collection[str]] = [(), suspect.holders]
            cuts += [cut for one in holders for cut in ((one,), [other for other in suspect.holders if other != one])]
            requests += [(images[n], asked, self.context(images[n], asked, cut)) for cut in cuts]
        scores = context_elements.log_likelihood(self.ctx, requests, [suspect.whole or suspect.answer] * len(requests))
        width = 2 + 2 * len(holders)
        rows_of = [scores[n * width : (n + 1) * width] for n in range(len(fitting))]
        return {
            one: fmean((s[0] - s[2 + 2 * k]) / 2 + (s[3 + 2 * k] - s[1]) / 2 for s in rows_of) for k, one in enumerate(holders)
        } if rows_of else {}  # fmt: skip
