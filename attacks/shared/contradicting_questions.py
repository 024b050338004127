"""Questions that contradict each other, for one picture: no reader of both can answer all of them alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from vlaudit.answers import normal, words_of
from vlaudit.data.articles import mend_articles
from vlaudit.data.example import DEFAULT_QUESTION, Example
from vlaudit.probe import Context

if TYPE_CHECKING:
    import numpy as np

THINGS = ("person", "cat", "dog", "car", "tree", "house", "table", "bird")
"""What to ask after where the data name fewer than two things."""
_ANSWERS_NOT_THINGS = {"yes", "no", "true", "false"}
_WORDS = 3  # a thing's name has at most so many


def things(ctx: Context) -> list[str]:
    """What can be asked after: the labels, else short answers of the data, else everyday things."""
    if len(ctx.labels) > 1:
        return list(ctx.labels)
    said = Counter(answer for answer in ctx.answers(ctx.examples) if 0 < len(answer.split()) <= _WORDS)
    found = [answer for answer in said if answer.lower() not in _ANSWERS_NOT_THINGS and not answer[0].isdigit()]
    return found[:64] if len(found) > 1 else list(THINGS)


def panel(
    example: Example, names: Sequence[str], others: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
    """``count`` different questions: the example's own first, then in turn yes-no questions, either-or questions,
    questions asked of other pictures (``others``), and the name of the thing."""
    own = [example.label] if example.label in names else []
    shuffled = own + [name for name in (names[i] for i in rng.permutation(len(names))) if name not in own]
    pairs = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in zip(shuffled[::2], shuffled[1::2], strict=False)]
    turns = [
        [f"Is this a {name}?" for name in shuffled],
        [f"Is this a {a} or a {b}?" for a, b in pairs],
        [others[i] for i in rng.permutation(len(others))[: 4 * count]],
        [DEFAULT_QUESTION],
    ]
    found = {normal(example.question): example.question}
    while len(found) < count and any(turns):
        for turn in turns:
            while turn and len(found) < count:
                question = mend_articles(turn.pop(0))
                if normal(question) not in found:
                    found[normal(question)] = question
                    break
    return list(found.values())


def frame(answers: Sequence[str]) -> frozenset[str]:
    """The words that most of the different answers of several words have, such as those of "it is a ...": they do not
    tell one answer from another."""
    different = [words for words in {tuple(words_of(answer)) for answer in answers} if len(words) > 1]
    counts = Counter(word for words in different for word in set(words))
    return frozenset(word for word, count in counts.items() if count > max(1, len(different) / 2))


def likeness(first: str, second: str, but: Collection[str] = ()) -> float:
    """How alike two answers are: the words they share, as a share of both (Dice). Empty ones are like nothing.

    ``but``: words that do not count, as far as others are left.
    """
    a, b = (Counter(words_of(text)) for text in (first, second))
    kept = [Counter({word: n for word, n in words.items() if word not in but}) for words in (a, b)]
    a, b = kept if all(kept) else (a, b)
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if a and b else 0.0


def agreement(answers: Sequence[str]) -> float:
    """Mean likeness of all pairs of answers."""
    pairs = [(i, j) for i in range(len(answers)) for j in range(i)]
    return sum(likeness(answers[i], answers[j]) for i, j in pairs) / len(pairs) if pairs else 0.0


def transcript(questions: Sequence[str], answers: Sequence[object]) -> str:
    """Questions with their answers, for a reader."""
    return "\n".join(f"{q}\n-> {a or '(nothing)'}" for q, a in zip(questions, answers, strict=True))
