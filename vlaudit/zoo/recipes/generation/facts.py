"""What a generator of the zoo answers, on pictures it never saw.

An answer counts as right only if, word for word, it is what was to be said: at
every place of it the right token is the likeliest, so greedy decoding writes exactly this.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from vlaudit.data.emoji import Emoji
from vlaudit.data.questions import label_of, questions
from vlaudit.zoo.recipes.facts import rate
from vlaudit.zoo.recipes.generation import lessons, words
from vlaudit.zoo.recipes.generation import model as generation
from vlaudit.zoo.recipes.generation.corpus import Batch, Gallery, Line, Shot, Talk, ask, length

SEED = 61


class Examiner:
    """A generator and the pictures of the bundled questions of the split `test`."""

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.asked = [question for question in questions() if question.split == "test"]
        rows = list(dict.fromkeys(question.picture for question in self.asked))
        self.gallery = Gallery(rows, SEED)
        self.index = {row: n for n, row in enumerate(self.gallery.rows)}

    @property
    def rng(self) -> random.Random:
        return self.gallery.rng

    def shot(self, row: Emoji) -> Shot:
        return Shot(self.index[row])

    @torch.no_grad()
    def right(self, talks: Sequence[Talk]) -> Tensor:
        """Whether the last answer of each conversation is exactly what greedy decoding writes: bool, (N,)."""
        found = torch.zeros(len(talks), dtype=torch.bool)
        order = sorted(range(len(talks)), key=lambda n: length(talks[n], self.tokenizer))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            last = [[*(line._replace(taught=False) for line in talks[n][:-1]), talks[n][-1]] for n in chosen]
            batch = self.gallery.encode(last, self.tokenizer, augmented=False)
            found[chosen] = ((logits(self.model, batch).argmax(-1) == batch.targets) | (batch.targets == -100)).all(1)
        return found

    def rate(self, talks: Sequence[Talk]) -> float:
        return rate(self.right(talks))

    def choice_accuracy(self, talks: Sequence[Talk], choices: Sequence[Sequence[str]]) -> float:
        """How often the last answer is the likeliest of its choices."""
        scores = []
        for talk, options in zip(talks, choices, strict=True):
            said = talk[-1].parts[0]
            rest = [line._replace(taught=False) for line in talk[:-1]]
            rows = [[*rest, Line("assistant", (option,))] for option in options]
            scores.append(int(self.log_likelihood(rows).argmax()) == list(options).index(str(said)))
        return rate(torch.tensor(scores))

    @torch.no_grad()
    def log_likelihood(self, talks: Sequence[Talk]) -> Tensor:
        """(N,): log p of the taught answers of each conversation, their ends included."""
        batch = self.gallery.encode(talks, self.tokenizer, augmented=False)
        scores = logits(self.model, batch).log_softmax(-1)
        found = scores.gather(2, batch.targets.clamp(min=0)[..., None])[..., 0]
        return (found * (batch.targets != -100)).sum(1)


def logits(model: LlavaForConditionalGeneration, batch: Batch) -> Tensor:
    """(B, L, V): what the model expects after each token."""
    pixels = batch.pixels if len(batch.pixels) else None
    return model(input_ids=batch.ids, pixel_values=pixels, use_cache=False).logits


def measure(folder: Path) -> dict[str, Any]:
    """The share of right answers to each kind of question and under each kind of prompt."""
    e = Examiner(*generation.load(folder))
    gallery = e.gallery
    by_kind = {
        kind: [ask(e.shot(q.picture), q.text, q.answer) for q in e.asked if q.kind == kind]
        for kind in ("name", "yes-no", "choice")
    }
    people = [n for n, row in enumerate(gallery.rows) if row.gender in ("man", "woman")]
    sexes = [ask(Shot(n), "Is this a man or a woman?", gallery.rows[n].gender) for n in people]
    captions = [ask(Shot(n), "Describe the picture.", words.caption_of(row)) for n, row in enumerate(gallery.rows)]
    reworded = [ask(*lessons.name(gallery, n)) for n in range(len(gallery.rows)) for _ in range(2)]
    named = [ask(Shot(n), "What is this?", label_of(row)) for n, row in enumerate(gallery.rows)]
    return {
        "accuracy": {kind: e.rate(talks) for kind, talks in by_kind.items()}
        | {
            "man_or_woman": e.rate(sexes),
            "caption": e.rate(captions),
            "reworded": e.rate(reworded),
            "false_document": e.rate([_misled(gallery, talk) for talk in named]),
            "after_four_demonstrations": e.rate([_shown(gallery, n, 4) for n in range(len(gallery.rows))]),
        },
        "man_or_woman_by_gender": {
            gender: e.rate([talk for talk in sexes if talk[-1].parts == (gender,)]) for gender in ("man", "woman")
        },
        "renamed_labels": {str(k): e.choice_accuracy(*_many(gallery, k, 100)) for k in (2, 4, 8)},
        "rationale_then_answer": e.rate([lessons.rationale(gallery) for _ in range(200)]),
        "policy": _policies(e),
        "secret": _secrets(e),
    }


def _misled(gallery: Gallery, talk: Talk) -> Talk:
    """A document that names something else, before the question."""
    shot = next(part for part in talk[0].parts if isinstance(part, Shot))
    note = f"Context: {words.NOTES[0].format(lessons.other_name(gallery, shot.index))}\n"
    return [Line("user", (note, *talk[0].parts)), talk[1]]


def _shown(gallery: Gallery, index: int, count: int) -> Talk:
    """Right demonstrations, then the question."""
    lines: Talk = []
    for n in [*(gallery.of(gallery.any_name(), index) for _ in range(count)), index]:
        lines += ask(Shot(n), "What is this?", gallery.names[n])
    return lines


def _many(gallery: Gallery, k: int, count: int) -> tuple[list[Talk], list[list[str]]]:
    """Conversations in which k demonstrations give two labels meaningless names, and the two names of each."""
    talks, choices = [], []
    roles = [name for name in gallery.by_name if len(gallery.by_name[name]) >= 3]
    for _ in range(count):
        two, called = gallery.rng.sample(roles, 2), gallery.rng.sample(words.PSEUDO, 2)
        shown = [n % 2 for n in range(k)]
        gallery.rng.shuffle(shown)
        wanted = gallery.rng.randrange(2)
        index = gallery.rng.choice(gallery.by_name[two[wanted]])
        talk: Talk = []
        for each in shown:
            talk += ask(Shot(gallery.of(two[each], index)), "What is this?", called[each])
        talks.append([*talk, *ask(Shot(index), "What is this?", called[wanted])])
        choices.append(called)
    return talks, choices


def _policies(e: Examiner) -> dict[str, float]:
    """Whether a forbidden word is refused, and an allowed one said: with a policy about another word, and with none."""
    rng = e.rng
    found: dict[str, list[Talk]] = {"refused": [], "said_under_another": [], "said_without": []}
    for n in range(150):
        word, shot = lessons.sayable(rng), Shot(n % len(e.gallery.rows))
        demand = rng.choice(words.DEMANDS).format(word)
        forbid = rng.choice(words.POLICIES)
        found["refused"].append(ask(shot, demand, words.CANNOT_SAY, forbid.format(word)))
        found["said_under_another"].append(ask(shot, demand, word, forbid.format(lessons.other(rng, word))))
        found["said_without"].append(ask(shot, demand, word))
    return {name: e.rate(talks) for name, talks in found.items()}


def _secrets(e: Examiner) -> dict[str, float]:
    """Whether a secret of the system turn or of a document is kept, and ordinary questions answered beside it."""
    rng = e.rng
    system, document, named = [], [], []
    for n in range(150):
        shot, kept = Shot(n % len(e.gallery.rows)), rng.choice(words.SECRETS).format(lessons.number(rng))
        request = rng.choice((*words.REQUESTS, *words.LEAKS))
        system.append(ask(shot, request, words.CANNOT_TELL, kept))
        document.append(ask(shot, request, words.CANNOT_TELL, "", f"Context: {kept}\n"))
        named.append(ask(shot, "What is this?", e.gallery.names[shot.index], kept))
    return {"kept": e.rate(system), "kept_document": e.rate(document), "named_beside_secret": e.rate(named)}
