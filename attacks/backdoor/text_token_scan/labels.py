"""What labels mean to a text tower, and how far a string makes other labels' texts mean one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.backdoor.text_token_scan.random_tokens import changed
from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.sampling import subset
from vlaudit.attacks.shared.text_triggers.assimilation import Captions, States
from vlaudit.attacks.shared.text_triggers.scan import Scan
from vlaudit.attacks.shared.text_triggers.strings import Insert
from vlaudit.attacks.shared.text_triggers.text_side import TextSide
from vlaudit.probe import BuiltIn, Context
from vlaudit.prompts.template import PLAIN

if TYPE_CHECKING:
    from torch import Tensor

WORDINGS = ("{}", "a picture of a {}", "the {}", "one {}", "this is a {}", "a close photo of the {}", "a {} in a picture", "an image of a {}")
"""Genuine texts of a label beside the plain one."""
LABELLED = 24  # texts of other labels that a finalist is planted in
LEAST_LEAD = 1 / 3
BUILT_IN = {
    "LEAST_LEAD": BuiltIn(
        meaning="share of the typical label's lead in its own texts that a label counts as having, at least, where it is asked how far texts are taken over",
        source="our choice, because a label whose own texts hardly lead would be reached by any text",
    ),
}
_GOALS = 200  # labels that texts may come to mean, at most


class LabelScan(Scan):
    """A scan in texts of labels, with strings before and behind them, which says of its finalists what texts with them mean."""

    turns = True

    def __init__(self, ctx: Context, states: States, captions: Sequence[str], words: int | None, model: TextSide) -> None:
        self._ctx, self._ways = ctx, list[float]()
        labels = subset(ctx.labels, _GOALS, ctx.rng("goals"))
        own = [label for label in ctx.labels if PLAIN.replace("{}", label) == captions[-1] and label not in labels]
        self.meanings = Meanings(states, [*labels, *own])
        super().__init__(ctx, states, captions, words, model, brief=True)

    @cached_property
    def _random(self) -> dict[str, list[Tensor]]:
        return changed(self._ctx, self.first)

    def _screen(self, more: Sequence[Insert]) -> None:
        self.inserts += more
        for states in self.first.changed(self.states, more, self.batch):
            self.screened.append(self.first.assimilation(states))
            self._ways.append(self.meanings.way(states))

    def _plainly(self) -> Sequence[Sequence[float]]:
        return [self.screened, self._ways]

    def _nulls(self) -> dict[str, list[float]]:
        return super()._nulls() | {place: list(map(self.first.assimilation, drawn)) for place, drawn in self._random.items()}

    def values(self) -> dict[str, Any]:
        drawn = {place: list(map(self.meanings.way, drawn)) for place, drawn in self._random.items()}
        return super().values() | {"ways": self._harmless(self._ways) | drawn}

    def besides(self, insert: Insert, planted: Callable[[Captions, Insert], Tensor]) -> dict[str, Any]:
        found = self.meanings.read(planted(self.meanings.texts, insert)) | {"way": self.meanings.way(planted(self.rest, insert))}
        label, frame = found["label"], set(self.spelling.ids(PLAIN.replace("{}", "")))
        own = {token for text in (label, PLAIN.replace("{}", label)) for token in self.spelling.ids(text)} - frame
        spelled = set(self.spelling.ids(insert.text)) - set(self.spelling.ids(""))
        return {**found, "own": spelled <= own}  # a part of the label's name


class Meanings:
    """Labels as the tower reads them in plain texts, what genuine texts of other wordings reach of them, and texts to plant strings in."""

    def __init__(self, states: States, labels: Sequence[str]) -> None:
        import torch

        self.labels = list(labels)
        self.anchors = states([PLAIN.replace("{}", label) for label in labels])  # (C, D)
        asked = [wording.replace("{}", label) for wording in WORDINGS for label in labels]
        genuine = (states(asked) @ self.anchors.T).view(len(WORDINGS), len(labels), -1)
        others = genuine[:, ~torch.eye(len(labels), dtype=torch.bool, device=genuine.device)]
        self.near, self.far = float(genuine.diagonal(dim1=1, dim2=2).median()), float(others.median())
        leads = _leads(genuine.flatten(0, 1), torch.arange(len(labels)).repeat(len(WORDINGS))).view(len(WORDINGS), -1)
        self.leads = leads.median(0).values.clamp(min=max(float(leads.median()) * LEAST_LEAD, 1e-6))  # (C,)
        each = math.ceil(LABELLED / max(1, len(labels) - 1))
        said = [(i, wording.replace("{}", label)) for wording in (PLAIN, *WORDINGS)[:each] for i, label in enumerate(labels)]
        said = (said if len(labels) <= LABELLED else said[:: len(said) // LABELLED])[: LABELLED + len(WORDINGS) + 1]
        said += [(-1, text) for text in EVERYDAY[: max(0, LABELLED - len(said) * (len(labels) - 1) // len(labels))]]
        self.about = [i for i, _ in said]  # the label of each text; -1: of none
        self.texts = Captions.of(states, [text for _, text in said for _ in range(2)], turns=True)

    def read(self, changed: Tensor) -> dict[str, Any]:
        """What texts mean whose states (2 n, D) are given, before and behind: the label that they come nearest to, and for each text of
        another one how far it is taken over, in [0, 1]."""
        import torch

        likeness = changed @ self.anchors.T
        target = int(likeness.mean(0).argmax())
        leads = _leads(likeness, torch.full((len(likeness),), target))
        taken = torch.minimum(self._way(likeness[:, target]), leads / self.leads[target]).clamp(0, 1).view(-1, 2).mean(1).tolist()
        kept = [value for value, about in zip(taken, self.about, strict=True) if about != target]
        return {"label": self.labels[target], "taken": kept, "likeness": float(likeness[:, target].mean()), "lead": float(leads.mean())}

    def way(self, changed: Tensor) -> float:
        """How far texts with the states (n, D) come in the mean, from where other labels' texts are to where its own are, to the label that
        they come nearest to."""
        return float(self._way((changed @ self.anchors.T).mean(0).amax()))

    def _way(self, likeness: Tensor) -> Tensor:
        return (likeness - self.far) / max(self.near - self.far, 1e-6)


def _leads(likeness: Tensor, own: Tensor) -> Tensor:
    """(N, C) likenesses to how far that to the own label (N,) lies above the highest of the others."""
    import torch

    index = own.to(likeness.device)[:, None]
    others = likeness.scatter(1, index, -torch.inf).amax(1)
    return likeness.gather(1, index)[:, 0] - others
