"""Contexts that a probe gives: for each question its own demonstrations and documents, under any prompt of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.data.example import Example
    from vlaudit.families.generation import Answer, Conversation, Demonstration, GenerationModel
    from vlaudit.probe import Context


_LEAST = 3  # requests with one context
Request = tuple["Tensor", str, Sequence["Demonstration"]]
"""A picture, a question, and the context it is asked in."""


def generate(ctx: Context, requests: Sequence[Request]) -> list[Answer]:
    """The answers to them, through the target's prompt with these contexts in the place of its own."""
    found: dict[int, Answer] = {}
    for part in _alike(requests):
        found.update(zip(part, ctx.target.answer(_conversations(ctx, requests, part)), strict=True))
    return [found[n] for n in range(len(requests))]


def log_likelihood(ctx: Context, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
    """log p of one answer to each, in the same way."""
    import torch

    found: dict[int, float] = {}
    for part in _alike(requests):
        with torch.no_grad():
            talks, _ = ctx.target.last_step(_conversations(ctx, requests, part))
            ctx.target.meter.queries += len(talks)
            rows = ctx.target.model.log_likelihood(talks, [[answers[n]] for n in part])
        found.update(zip(part, (float(row[0]) for row in rows), strict=True))
    return [found[n] for n in range(len(requests))]


def _conversations(ctx: Context, requests: Sequence[Request], part: Sequence[int]) -> list[Conversation]:
    return [ctx.target.prompt.compose(*requests[n]) for n in part]


def _alike(requests: Sequence[Request]) -> list[list[int]]:
    """Positions of requests with one and the same context together, because what conversations begin with runs once; those
    whose context few others have are one more part."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, (_, _, context) in enumerate(requests):
        groups.setdefault(tuple(id(shown) for shown in context), []).append(n)
    large = [group for group in groups.values() if len(group) >= _LEAST]
    rest = sorted(n for group in groups.values() if len(group) < _LEAST for n in group)
    return [*large, rest] if rest else large


def demonstrate(model: GenerationModel, example: Example) -> Demonstration:
    """An example of the data as a demonstration."""
    from vlaudit.families.generation import Demonstration

    return Demonstration(example.id, example.question, example.answer, model.preprocess(example.open()), example.label)


def spare(ctx: Context) -> list[Example]:
    """Examples with an answer that are not audited: the train split, where there is one."""
    audited = {example.id for example in ctx.examples}
    return [example for example in ctx.data.examples if example.id not in audited and example.answer]
