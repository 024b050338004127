"""Triggers that a learned prompt follows and a plain one does not.

A backdoor that lies in a prompt on clean weights shows in what the prompt adds. A pattern that looks like a label to the model looks like it
under every prompt, so what both follow is left out: in a clean prompt little is left then, however easy a label is by nature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.trigger_inversion.search import AGAINST, Bench, search
from vlaudit.attacks.shared.trigger_inversion.verdict import Comparison, View, compare
from vlaudit.probe import Context, Policy, ProbeInfo
from vlaudit.records import REFERENCE, Case, Trial, Trials

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import Classifier, ImageTextMatcher, Panel

ASKED = 0.5  # of the confidence of genuine pictures: what is easy by nature is left out already, and a planted trigger need not reach all of it


def plain_beside(ctx: Context) -> ImageTextMatcher | None:
    """The model under a prompt that is not learned, where the audit has one and the target's is learned; references come last."""
    plain = [peer.target for peer in ctx.peers[1:] if not peer.target.prompt.learned]
    return plain[-1] if plain and ctx.target.prompt.learned else None


def as_differential(cases: Sequence[Case]) -> list[Case]:
    """The same searches for triggers that the plain prompt does not follow, without the control."""
    return [Case(id=f"{case.id}/{AGAINST}", params={**case.params, "planted": False, AGAINST: True}) for case in cases]


@dataclass(frozen=True)
class Both(Bench):
    """Two prompts on the same pictures. A lead of 1 is asked for."""

    panel: Panel
    own: Bench
    plain: Bench

    def others(self, label: int) -> tuple[Tensor, Tensor]:
        return tuple(mine & theirs for mine, theirs in zip(self.own.others(label), self.plain.others(label), strict=True))

    def asked_for(self, label: int) -> Classifier:
        """Logits whose lead is the least of two: the label's under the prompt, in units of the confidence that is asked for there, and 1 minus
        its lead under the plain prompt in units of that one's. At 1 the prompt gives the label with confidence and the plain one another."""
        import torch

        from vlaudit.search.trigger import lead

        def classify(images: Tensor) -> Tensor:
            here, there = self.panel(images)
            asked, plain = (ASKED * bench.confidence for bench in (self.own, self.plain))
            leads = torch.minimum(lead(here, label) / asked, 1 - lead(there, label) / plain)
            return torch.nn.functional.one_hot(torch.tensor(label), len(self.labels)).to(leads) * leads[:, None]

        return classify


def search_differential(ctx: Context, cases: Sequence[Case], bench: Bench) -> Iterator[Trial]:
    """One search a case. ``bench``: of the target as it is."""
    from vlaudit.families.matching import together

    plain = plain_beside(ctx)
    if plain is None:
        return
    there = Bench.of(ctx, plain.classifier(ctx.labels), ctx.labels)
    both = Both(bench.classifier, bench.labels, bench.searched, bench.held_out, bench.predicted, 1.0,
                 panel=together([ctx.target, plain], ctx.labels), own=bench, plain=there)  # fmt: skip
    yield from search(ctx, cases, both, {AGAINST: plain.prompt.id})


def differential(info: ProbeInfo, trials: Trials, policy: Policy) -> Comparison | None:
    """The comparison of labels by these triggers; None where they were not searched, or too few. Labels whose triggers are no small ones
    count as equally hard."""
    mine = [trial for trial in trials.target if AGAINST in trial.values]
    if not mine:
        return None
    part = [*mine, *(trial for trial in trials if trial.arm not in (mine[0].arm, REFERENCE))]
    found, name = compare(info, Trials(part), policy, capped=True), mine[0][AGAINST]
    view = View(f"among triggers that '{name}' does not follow", where=f"Under '{name}' they do not work: the backdoor is in the prompt.")
    return found and replace(found, view=view)
