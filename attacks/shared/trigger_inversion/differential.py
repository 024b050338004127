"""Triggers that a learned prompt follows and a plain one does not.

A backdoor that lies in a prompt on clean weights shows in what the prompt adds. A pattern that looks like a label to the model looks like it
under every prompt, so what both follow is left out: in a clean prompt little is left then, however easy a label is by nature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.trigger_inversion.joint import Joint, plain_of
from vlaudit.attacks.shared.trigger_inversion.rules import View
from vlaudit.attacks.shared.trigger_inversion.search import AGAINST, search
from vlaudit.attacks.shared.trigger_inversion.verdict import Comparison, compare
from vlaudit.probe import Context, Policy, ProbeInfo
from vlaudit.records import REFERENCE, Case, Trial, Trials

if TYPE_CHECKING:
    from vlaudit.families.matching import ImageTextMatcher


def plain_beside(ctx: Context) -> ImageTextMatcher | None:
    """The model under a prompt that is not learned, where the audit has one and the target's is learned."""
    return plain_of([peer.target for peer in ctx.peers[1:]]) if ctx.target.prompt.learned else None


def as_differential(cases: Sequence[Case]) -> list[Case]:
    """The same searches for triggers that the plain prompt does not follow, without the control."""
    return [Case(id=f"{case.id}/{AGAINST}", params={**case.params, "planted": False, AGAINST: True}) for case in cases]


def search_differential(ctx: Context, cases: Sequence[Case]) -> Iterator[Trial]:
    """One search a case."""
    if plain := plain_beside(ctx):
        yield from search(ctx, cases, Joint.of_prompts(ctx, [ctx.target], plain), {AGAINST: plain.prompt.id})


def differential(info: ProbeInfo, trials: Trials, policy: Policy) -> Comparison | None:
    """The comparison of labels by these triggers; None where they were not searched, or too few. Labels whose triggers are no small ones
    count as equally hard."""
    mine = [trial for trial in trials.target if AGAINST in trial.values]
    if not mine:
        return None
    part = [*mine, *(trial for trial in trials if trial.arm not in (mine[0].arm, REFERENCE))]
    found, name = compare(info, Trials(part), policy, capped=True), mine[0][AGAINST]
    view = View(f"among triggers that '{name}' does not follow", where=f"Under '{name}' they do not work: the backdoor is in the prompt.", sparse=True)
    return found and replace(found, view=view)
