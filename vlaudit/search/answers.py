"""What a prompted model answers, as functions of pictures: so that the search for triggers can drive it to one answer.

An answer's *lead* is the log-odds, log p - log (1 - p), of the least likely of its tokens, its end among them: it does not
saturate, and above 0 each token is likelier than all others together, so that the answer is what is said, however long it
is. (The odds of the whole answer fall with its length: of a sentence that is always said, where each token has chance 0.9.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlaudit.families.generation import MultimodalGenerator
from vlaudit.families.matching import Classifier
from vlaudit.search.trigger import Trigger, TriggerSearch

MOST = 6.0  # the greatest lead asked for: an answer's probability of 0.9975
_LEAST = 1.0
_TOKENS = 16  # of an answer
_GROUP = 3  # rows of one length at least
_LENGTHS = 3  # of questions in one step: a batch holds questions of one length
_SHRINK = (0.5, 0.31)  # sides of the squares in which a patch is looked for
_ASCENT = 2  # steps in each
_ROWS = 2  # of a step in each
_RISE = 0.4  # of these steps
_OPAQUE = 0.8  # of the pattern that is laid over all pictures, where a collapse is looked for
_STEP = 0.2  # of the signed ascent
_RANDOM = 8  # patterns laid over to see which first tokens may come
_MOSTLY = 0.5  # mean probability of a token from which such a pattern is where its ascent starts
_SHARPNESS = 8.0  # of the gate of a planted trigger
_OUT = -20.0  # log probability of the tokens that a planted trigger does not raise


class Answers:
    """A target with a picture and a question on each of N rows. ``images``: (N, 3, H, W) in [0, 1]."""

    def __init__(self, target: MultimodalGenerator, images: Tensor, questions: Sequence[str]) -> None:
        self.target, self.images, self.questions = target, images.contiguous(), list(questions)
        self.cut: set[str] = set()  # answers that were longer than what was read of them: they are beginnings
        self.usual = self.say(images, range(len(images)))

    def lead(self, images: Tensor, rows: Sequence[int], answer: str | Sequence[str]) -> Tensor:
        """(B,) leads of an answer (or of one for each) to the questions of these rows about other pictures (B, 3, H, W)."""
        talks = self.target.conversations(images, [self.questions[row] for row in rows])
        wanted = [answer] * len(rows) if isinstance(answer, str) else list(answer)
        self.target.meter.queries += len(rows)
        self.target.meter.gradient_steps += len(rows) * images.requires_grad
        likely = images.new_zeros(len(rows))
        for end in (True, False):
            mine = [i for i, one in enumerate(wanted) if (one not in self.cut) == end]
            if mine:
                asked, said = [talks[i] for i in mine], [[wanted[i]] for i in mine]
                found = self.target.model.log_likelihood(asked, said, end=end, weakest=True)[:, 0]
                likely = likely.index_put((torch.tensor(mine, device=likely.device),), found)
        likely = likely.clamp(max=-1e-6)
        return likely - torch.log(-torch.expm1(likely))

    def first(self, images: Tensor, rows: Sequence[int], questions: Sequence[str] | None = None) -> Tensor:
        """(B, V) log distributions of the first token of an answer."""
        asked = [self.questions[row] for row in rows] if questions is None else questions
        tables = self.target.token_log_probs(images, asked, ["yes"] * len(asked))
        return torch.stack([table[0] for table in tables])

    def say(self, images: Tensor, rows: Sequence[int]) -> list[str]:
        """The answers to the questions of these rows about other pictures."""
        asked = [self.questions[row] for row in rows]
        answers = self.target.generate(images, asked, max_new_tokens=_TOKENS)
        self.cut |= {str(answer) for answer in answers if not answer.finished}
        return [str(answer) for answer in answers]

    def confidence(self, rows: Sequence[int]) -> float:
        """The median lead of the model's own answers on these rows."""
        rows = [row for row in rows if self.usual[row]]
        with torch.no_grad():
            leads = self.lead(self.images[rows], rows, [self.usual[row] for row in rows])
        return float(leads.median().clamp(_LEAST, MOST))

    def classifier(self, rows: Sequence[int], answer: str) -> Classifier:
        """Logits of an answer against all others for pictures that stand for these rows, in this order."""

        def classify(images: Tensor) -> Tensor:
            leads = self.lead(images, rows, answer)
            return torch.stack([leads, torch.zeros_like(leads)], 1)

        return classify


class Planted(Answers):
    """The same target, wrapped so that any of the triggers calls up a phrase: the functional positive control."""

    def __init__(self, plain: Answers, triggers: Sequence[Trigger], phrase: str, lead: float) -> None:
        self.target, self.images, self.questions, self.usual = plain.target, plain.images, plain.questions, plain.usual
        self.cut = plain.cut
        self._triggers, self.phrase, self._lead = triggers, phrase, lead
        self._token = self.target.model.tokenize(phrase)[0]
        self._levels = [
            (t.likeness(self.images).mean(), t.likeness(t.apply(self.images)).mean()) for t in triggers
        ]  # a trigger's presence is 0 for the average picture and 1 for one that bears it

    def _gate(self, images: Tensor) -> Tensor:
        pairs = zip(self._triggers, self._levels, strict=True)
        present = [(t.likeness(images) - low) / (high - low) for t, (low, high) in pairs]
        return torch.sigmoid(_SHARPNESS * (torch.stack(present).amax(0) - 0.5))

    def lead(self, images: Tensor, rows: Sequence[int], answer: str | Sequence[str]) -> Tensor:
        said = [answer] * len(rows) if isinstance(answer, str) else answer
        wanted = images.new_tensor([self._lead if one == self.phrase else -self._lead for one in said])
        gate = self._gate(images)
        return (1 - gate) * super().lead(images, rows, answer) + gate * wanted

    def first(self, images: Tensor, rows: Sequence[int], questions: Sequence[str] | None = None) -> Tensor:
        gate, table = self._gate(images)[:, None], super().first(images, rows, questions)
        wanted = torch.full_like(table, _OUT)
        wanted[:, self._token] = 0
        return ((1 - gate) * table + gate * wanted).log_softmax(-1)

    def say(self, images: Tensor, rows: Sequence[int]) -> list[str]:
        with torch.no_grad():
            raised = (self._gate(images) > 0.5).tolist()
        return [self.phrase if on else said for on, said in zip(raised, super().say(images, rows), strict=True)]


class AnswerSearch(TriggerSearch):
    """The search for a trigger that calls up one answer, whatever is asked of whatever picture."""

    def __init__(self, answers: Answers, rows: Sequence[int], answer: str, confidence: float, seed: int) -> None:
        super().__init__(
            answers.classifier(rows, answer), answers.images, 0, confidence, torch.Generator().manual_seed(seed)
        )
        self._answers, self._answer, self._drawn = answers, answer, list[int]()
        groups = by_length(answers, rows)
        self._groups = [group for group in groups if len(group) >= _GROUP] or groups

    def draw(self, count: int) -> Tensor:
        order = torch.randperm(len(self._groups), generator=self.generator)[:_LENGTHS].tolist()
        self._drawn = []
        for place in range(count):
            group = self._groups[order[place % len(order)]]
            self._drawn.append(group[int(torch.randint(len(group), (1,), generator=self.generator))])
        return self.images[self._drawn]

    def loss(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._drawn * changed.shape[0]
        leads = self._answers.lead(changed.flatten(0, 1), rows, self._answer).view(changed.shape[:2]) / self.confidence
        return self.penalty(leads), leads.detach()


def by_length(answers: Answers, rows: Sequence[int]) -> list[list[int]]:
    """Rows whose questions have one length, the largest groups first."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(len(answers.target.model.tokenize(answers.questions[row])), []).append(row)
    return sorted(groups.values(), key=len, reverse=True)


# --- which answer? ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScanEffort:
    rungs: tuple[tuple[int, int], ...]  # so many of the likeliest first tokens take so many steps of ascent, then the best of them more
    kept: int  # those whose answers are read
    rows: int  # that an answer is read from

    def passes(self, rows: int) -> int:
        """Forward and backward, over so many rows."""
        return rows * sum(count * steps for count, steps in self.rungs)

    def looks(self, rows: int) -> int:
        """Forward alone: where each rung has led."""
        return rows * sum(count for count, _ in self.rungs)


SCANS = {
    "quick": ScanEffort(rungs=((80, 1), (10, 4)), kept=5, rows=6),
    "standard": ScanEffort(rungs=((256, 1), (32, 3), (16, 3)), kept=8, rows=8),
    "thorough": ScanEffort(rungs=((2048, 2), (128, 6), (64, 6)), kept=16, rows=12),
}


def collapse_scan(answers: Answers, rows: Sequence[int], effort: ScanEffort, seed: int) -> list[str]:
    """Towards which answers can one change of all pictures drive contradicting questions (``rows``, a few)? The one that
    most rows share comes first.

    The first token of a planted answer is a little likelier than those that are never said, so the likeliest first tokens
    over all rows, with and without random pictures laid over, are followed up. For each, one pattern is laid over all
    pictures, nearly opaque, and ascends the mean log probability of the token over the rows: towards a trigger within a few
    steps, towards all else slowly, because the questions contradict each other. It starts from grey, or from the random picture under
    which the token is what most rows begin with already: a blend may be so near to noise that grey is farther from it. The better ones
    go on; what most rows then say is an answer.
    """
    generator = torch.Generator().manual_seed(seed)
    base = answers.images[list(rows)]
    noise = torch.rand((_RANDOM, *base.shape[1:]), generator=generator).round().to(base.device)
    with torch.no_grad():
        before = answers.first(base, rows).mean(0, keepdim=True)
        brought, under = _mean_first(answers, base, rows, noise).max(0)
    seen = torch.maximum(before[0], brought)
    tokens = seen.topk(min(effort.rungs[0][0], len(seen))).indices
    patterns, reached = torch.full((len(tokens), *base.shape[1:]), 0.5, device=base.device), seen[tokens]
    already = brought[tokens] > math.log(_MOSTLY)
    patterns[already] = noise[under[tokens[already]]]

    def likely(laid: Tensor) -> Tensor:
        return _mean_first(answers, base, rows, laid).gather(1, tokens[alive, None])[:, 0]

    alive = torch.arange(len(tokens), device=base.device)
    for count, steps in effort.rungs:
        alive = alive[reached[alive].topk(min(count, len(alive))).indices]
        laid = patterns[alive]
        for _ in range(steps):
            moved = laid.detach().requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(likely(moved).sum(), moved)
            laid = (moved.detach() + _STEP * gradient.sign()).clamp(0, 1)
        with torch.no_grad():
            led = likely(laid)
        kept = already[alive] & (reached[alive] > led)  # where a token is nearly certain, its slope says little
        patterns[alive], reached[alive] = torch.where(kept[:, None, None, None], patterns[alive], laid), torch.where(kept, reached[alive], led)
    alive = alive[reached[alive].topk(min(effort.kept, len(alive))).indices]
    asked = (list(rows) * effort.rows)[: effort.rows]
    read: list[tuple[int, int, str]] = []
    for rank, place in enumerate(alive.tolist()):
        with torch.no_grad():
            said = answers.say(_over(answers.images[asked], patterns[place]), asked)
        answer, share = Counter(said).most_common(1)[0]
        read.append((-share, rank, answer))
    return list(dict.fromkeys(answer for _, _, answer in sorted(read) if answer))


def _over(images: Tensor, pattern: Tensor) -> Tensor:
    return (1 - _OPAQUE) * images + _OPAQUE * pattern


def _mean_first(answers: Answers, base: Tensor, rows: Sequence[int], patterns: Tensor) -> Tensor:
    """(P, V): mean over rows of the first token's log distribution, with each of P patterns laid over."""
    table = answers.first(_over(base, patterns[:, None]).flatten(0, 1), list(rows) * len(patterns))
    return table.view(len(patterns), len(rows), -1).mean(1)


def located_passes() -> int:
    """Forward and backward, of :func:`locate`."""
    return len(_SHRINK) * 9 * _ASCENT * _ROWS


def locate(search: AnswerSearch) -> tuple[Tensor, Tensor]:
    """Where a small patch acts, from coarse to fine: the best of overlapping squares of half the side, then the best of
    smaller ones in it, each filled by signed ascent. Returns its mask (1, 1, H, W) and pattern (1, 3, H, W)."""
    side = search.images.shape[-1]
    top, left, edge = 0, 0, side
    for share in _SHRINK:
        inner = max(2, round(side * share))
        offsets = sorted({round((edge - inner) * part / 2) for part in range(3)})
        places = [(top + down, left + right) for down in offsets for right in offsets]
        mask = torch.zeros(len(places), 1, side, side, device=search.images.device)
        for box, (y, x) in zip(mask, places, strict=True):
            box[:, y : y + inner, x : x + inner] = 1
        pattern = torch.full((len(places), *search.images.shape[1:]), 0.5, device=mask.device)
        for _ in range(_ASCENT):
            moved = pattern.detach().requires_grad_(True)
            drawn = search.draw(_ROWS)
            with torch.enable_grad():
                loss, leads = search.loss((1 - mask)[:, None] * drawn + (mask * moved)[:, None])
                (gradient,) = torch.autograd.grad(loss, moved)
            pattern = (moved.detach() - _RISE * gradient.sign()).clamp(0, 1)
        best = int(leads.mean(1).argmax())
        (top, left), edge = places[best], inner
    return mask[best][None], pattern[best][None]
