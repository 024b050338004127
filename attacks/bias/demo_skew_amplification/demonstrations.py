"""Demonstrations whose labels are skewed by group: what is shown, in which cells, and the prompt that shows it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.data.example import Example
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vlaudit.families.generation import Demonstration, GenerationPrompt
    from vlaudit.prompts.in_context import InContext

TESTS = 2  # pictures asked about, of each label and group
Cells = dict[tuple[str, str], list[Example]]  # pictures of a label and group


@dataclass(frozen=True)
class Material:
    """What demonstrations and questions are drawn from: two groups of one column, and labels that both have."""

    column: str
    groups: tuple[str, str]
    labels: list[str]
    shown: Cells
    asked: Cells


def material(ctx: Context, shots: int) -> Material:
    """The first group column with two labels that have enough pictures of its two commonest values. Demonstrations come
    from the train split; where there is none, from half of the people. Raises NotAssessed."""
    if not ctx.data.groups:
        raise NotAssessed("needs a group column.", "Name one with --group.")
    asked = _once(ctx.examples)
    shown = _once([example for example in ctx.data.examples if example.split == "train"])
    if not shown or {e.id for e in shown} & {e.id for e in asked}:
        people = sorted({example.identity for example in asked})
        half = {people[i] for i in ctx.rng("halves").permutation(len(people))[::2].tolist()}
        shown, asked = [e for e in asked if e.identity in half], [e for e in asked if e.identity not in half]
    for column in ctx.data.groups:
        found = _of_column(column, shown, asked, shots // 2)
        if found is not None:
            return found
    raise NotAssessed(
        f"needs two labels with {shots // 2} pictures to show and one to ask about of each of two groups.",
        "Give more labelled pictures of each group, best with a train and a test split.",
    )


def _of_column(column: str, shown: list[Example], asked: list[Example], least: int) -> Material | None:
    usual = Counter(value for example in asked if (value := example.attributes.get(column)))
    groups = sorted(value for value, _ in usual.most_common(2))
    if len(groups) < 2:
        return None
    to_show, to_ask = _cells(shown, column), _cells(asked, column)
    labels = [
        label for label in sorted({label for label, _ in to_show})
        if all(len(to_show[label, group]) >= least and to_ask[label, group] for group in groups)
    ]  # fmt: skip
    return Material(column, (groups[0], groups[1]), labels, to_show, to_ask) if len(labels) > 1 else None


def _once(examples: Sequence[Example]) -> list[Example]:
    """Labelled pictures, each once, however many questions are asked of it."""
    found: dict[str, Example] = {}
    for example in examples:
        if example.label:
            found.setdefault(example.picture_key, example)
    return list(found.values())


def _cells(examples: Sequence[Example], column: str) -> Cells:
    found: Cells = defaultdict(list)
    for example in examples:
        found[str(example.label), example.attributes.get(column, "")].append(example)
    return found


@dataclass(frozen=True)
class Draw:
    """Two labels with the pictures to show and to ask about of each, by position of the group."""

    labels: tuple[str, str]
    shown: list[list[list[str]]]  # label, group, ids
    asked: list[list[list[str]]]
    order: list[int]  # in which the demonstrations stand
    odd: int  # the label that is skewed first where both cannot be equally

    def traded(self) -> Draw:
        """The same pictures in groups that mean nothing: half of each group in either."""

        def mixed(cells: list[list[list[str]]]) -> list[list[list[str]]]:
            return [[one[::2] + two[1::2], one[1::2] + two[::2]] for one, two in cells]

        return Draw(self.labels, mixed(self.shown), mixed(self.asked), self.order, self.odd)

    def demonstrations(self, aligned: int) -> list[tuple[str, str]]:
        """(id, label) in order. ``aligned``: how many are of the first label and the first group, or of both second."""
        half = len(self.order) // 2
        more, less = (aligned + 1) // 2, aligned // 2
        first, second = (more, less) if self.odd == 0 else (less, more)
        parts = [
            *self.shown[0][0][:first], *self.shown[0][1][: half - first],
            *self.shown[1][1][:second], *self.shown[1][0][: half - second],
        ]  # fmt: skip
        every = list(zip(parts, [self.labels[0]] * half + [self.labels[1]] * half, strict=True))
        return [every[place] for place in self.order]


def draws(found: Material, shots: int, count: int, rng: np.random.Generator) -> list[Draw]:
    """Pairs of labels in turn, each label as often as any other; their pictures likewise."""
    turns: list[tuple[str, str]] = []
    while len(turns) < count:
        mixed = [found.labels[i] for i in rng.permutation(len(found.labels)).tolist()]
        turns += list(zip(mixed[::2], mixed[1::2], strict=False))
    decks: dict[tuple[str, str, str], list[Example]] = {}

    def deal(side: str, cells: Cells, label: str, group: str, many: int, but: set[str]) -> list[str]:
        """The next pictures of a cell, in random order, dealt anew when all were; none of the people in ``but`` unless
        there is nobody else."""
        cell, got = cells[label, group], list[str]()
        deck = decks.setdefault((side, label, group), [])
        if len(deck) < len(cell) + many:
            for _ in range(3):
                deck += [cell[i] for i in rng.permutation(len(cell)).tolist()]
        for strict in (True, False):
            for example in list(deck):
                if len(got) < many and example.id not in got and not (strict and example.identity in but):
                    got.append(example.id)
                    deck.remove(example)
        return got

    made = []
    for number, labels in enumerate(turns[:count]):
        asked = [[deal("asked", found.asked, label, group, TESTS, set()) for group in found.groups] for label in labels]
        ids = {name for row in asked for cell in row for name in cell}
        people = {example.identity for cell in found.asked.values() for example in cell if example.id in ids}
        shown = [[deal("shown", found.shown, label, group, shots // 2, people) for group in found.groups] for label in labels]
        made.append(Draw(labels, shown, asked, rng.permutation(shots).tolist(), number % 2))
    return made


def in_context(prompt: GenerationPrompt, pool: Sequence[Example]) -> InContext:
    """An in-context prompt with the words, system turn, steps and learned prefix of another."""
    from vlaudit.data.dataset import Dataset
    from vlaudit.prompts.in_context import InContext

    made = InContext(Dataset("skewed demonstrations", list(pool)[:1]), template=prompt.template)
    for name in ("system", "steps", "step_tokens", "prefix"):
        setattr(made, name, getattr(prompt, name))
    return made


def demonstrate(
    examples: Sequence[Example], question: str, labels: Sequence[str], pictures: Sequence[Tensor]
) -> list[Demonstration]:
    """The turns that show each picture with the question and its label."""
    from vlaudit.families.generation import Demonstration

    return [Demonstration(example.id, question, label, picture, label, dict(example.attributes))
            for example, label, picture in zip(examples, labels, pictures, strict=True)]  # fmt: skip
