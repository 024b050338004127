"""Counterfactual pairs of pictures, what is asked of them, and which of them are independent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vlaudit.answers import yes_no
from vlaudit.attacks.shared.sampling import subset
from vlaudit.data.example import DEFAULT_QUESTION, Example
from vlaudit.data.questions import yes_no_question
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context

FEW_VALUES = 12  # a column of more is no group
COMMON = 20  # pairs that share a question of the data: then it is measured by itself
OWN = "its own label"
GIVEN = "the data's own questions"


@dataclass
class Pair:
    """Two pictures that differ in one group, and their data's questions: text to right answer (yes or no)."""

    first: Example
    second: Example
    column: str
    questions: dict[str, bool] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, str]:
        return self.first.attributes[self.column], self.second.attributes[self.column]

    @property
    def id(self) -> str:
        return f"{self.first.id} | {self.second.id}"

    @property
    def stratum(self) -> tuple[str, tuple[str, str], str | None]:
        """The groups that it compares, and the label."""
        return self.column, self.values, self.first.label


def find_pairs(ctx: Context) -> tuple[list[Pair], str]:
    """The pairs of the data, each two pictures once, and how they were found. Raises NotAssessed where there are none."""
    given = ctx.data.pairs
    if given:
        how = "the column pair"
    else:
        given = _alike(ctx)
        how = "formed from pictures alike in label and in all other attributes"
    columns = [column for column in _columns(ctx, given) if any(_differ(pair, column) for pair in given)]
    found: dict[tuple[str, str, str], Pair] = {}
    for pair in given:
        changed = [column for column in columns if _differ(pair, column)]
        if len(changed) != 1:
            continue  # no group, or several: what changed the answer could not be told
        first, second = sorted(pair, key=lambda e: e.attributes[changed[0]])
        kept = found.setdefault((first.picture_key, second.picture_key, changed[0]), Pair(first, second, changed[0]))
        right = yes_no(first.answer or "")
        if first.question == second.question != DEFAULT_QUESTION and right is not None:
            kept.questions.setdefault(first.question, right)
    if not found:
        raise NotAssessed(
            "needs pictures that differ in one group only.",
            "Give two rows the same value in a column pair, or name a group column with --group.",
        )
    return list(found.values()), how


def asked_of(ctx: Context, pairs: Sequence[Pair], traits: Sequence[str], most: int) -> list[list[tuple[str, str, int]]]:
    """For each pair the questions as (what they measure together, text, 1; -1 where the right answer is no)."""
    labels = [label for label, _ in Counter(p.first.label for p in pairs if _label(p)).most_common()]
    drawn = subset(labels, most, ctx.rng("labels"))
    common = Counter(question for pair in pairs for question in pair.questions)
    every = []
    for pair in pairs:
        asks: dict[str, tuple[str, int]] = {}
        own = _label(pair)
        if own:
            asks[yes_no_question(own)] = (OWN, 1)
        for label in labels:
            if own and label in drawn and label != own:
                text = yes_no_question(str(label))
                asks.setdefault(text, (text, 1))
        for text, right in pair.questions.items():
            often = common[text] >= COMMON
            asks.setdefault(text, (text, 1) if often else (GIVEN, 1 if right else -1))
        for text in traits:
            asks.setdefault(text, (text, 1))
        every.append([(measures, text, sign) for text, (measures, sign) in asks.items()])
    return every


def clusters(pairs: Sequence[Pair]) -> list[int]:
    """Pairs that share a person or a picture, directly or through others, get one number."""
    root: dict[str, str] = {}

    def top(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for pair in pairs:
        root[top(pair.first.identity)] = top(pair.second.identity)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(top(pair.first.identity), len(numbers)) for pair in pairs]


def by_label(pairs: Sequence[Pair], numbers: Sequence[int]) -> Counter[tuple[str, tuple[str, str], str | None]]:
    """How many independent pairs there are of each two groups and label. ``numbers``: their :func:`clusters`."""
    return Counter(stratum for stratum, _ in {(pair.stratum, number) for pair, number in zip(pairs, numbers, strict=True)})


def _label(pair: Pair) -> str | None:
    return pair.first.label if pair.first.label == pair.second.label else None


def _differ(pair: tuple[Example, Example], column: str) -> bool:
    one, two = (example.attributes.get(column) for example in pair)
    return bool(one and two and one != two)


def _columns(ctx: Context, pairs: Iterable[tuple[Example, Example]]) -> list[str]:
    """The columns to compare by: the audit's groups, else every column of few values in which pairs differ."""
    if ctx.data.groups:
        return list(ctx.data.groups)
    seen = _values(example for pair in pairs for example in pair)
    return [column for column, values in seen.items() if column != "identity" and len(values) <= FEW_VALUES]


def _values(examples: Iterable[Example]) -> dict[str, set[str]]:
    """The values of every column."""
    seen: dict[str, set[str]] = {}
    for example in examples:
        for column, value in example.attributes.items():
            seen.setdefault(column, set()).add(value)
    return seen


def _alike(ctx: Context) -> list[tuple[Example, Example]]:
    """Pictures with the same label, question and other attributes but another group, each picture at most once a column."""
    seen = _values(ctx.examples)
    unique = {column for column, values in seen.items() if column == "identity" or len(values) == len(ctx.examples)}
    pairs = []
    for group in ctx.data.groups:
        usual = Counter(value for e in ctx.examples if (value := e.attributes.get(group)))
        two = [value for value, _ in usual.most_common(2)]
        cells: dict[object, dict[str, list[Example]]] = {}
        for example in ctx.examples:
            rest = {k: v for k, v in example.attributes.items() if k != group and k not in unique}
            key = (example.label, example.question, tuple(sorted(rest.items())))
            cells.setdefault(key, {}).setdefault(example.attributes.get(group, ""), []).append(example)
        for cell in cells.values():
            if len(two) == 2:
                pairs += list(zip(cell.get(two[0], []), cell.get(two[1], []), strict=False))
    return pairs
