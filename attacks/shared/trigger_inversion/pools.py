"""Prompts of a pool that few pictures pick, searched as if all pictures picked them.

No gradient leads from a picture to which prompts it picks, and no picture at hand reads a prompt that a secret key calls, so the search
through the pool as it is cannot see what lies there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vlaudit.attacks.shared.trigger_inversion.rules import View
from vlaudit.attacks.shared.trigger_inversion.search import AGAINST, RANK, Bench, search
from vlaudit.attacks.shared.trigger_inversion.verdict import Comparison, compare
from vlaudit.probe import Context, Policy, ProbeInfo
from vlaudit.records import TARGET, Case, Trial, Trials

PLACE = "prompt"  # which of the pool was searched
SELDOM = 0.5  # of an even share of the pictures: a prompt that fewer pick is picked by few


def as_if_picked(cases: Sequence[Case], count: int) -> list[Case]:
    """The same searches for each of so many seldom prompts, without the control."""
    return [Case(id=f"{case.id}/{rank}", params={**case.params, "planted": False, RANK: rank}) for rank in range(count) for case in cases]


def search_as_if_picked(ctx: Context, cases: Sequence[Case], rank: int) -> Iterator[Trial]:
    """One search a case through the pool's prompt of that rank; nothing where fewer are seldom."""
    import torch

    bench = Bench.of(ctx, ctx.target.classifier(ctx.labels), ctx.labels)
    with torch.no_grad():
        picked = ctx.target.picks(torch.cat([bench.searched, bench.held_out])).float().mean(dim=0)
    few = float(picked.mean()) * SELDOM
    seldom = [place for place in picked.argsort(stable=True).tolist() if picked[place] < few]
    if rank >= len(seldom):
        return
    place = seldom[rank]
    target = ctx.target.under(ctx.target.prompt.always(place))
    own = Bench.of(ctx, target.classifier(ctx.labels), ctx.labels, most=bench.confidence)
    told = {PLACE: place, "pool": len(picked), "picked": float(picked[place]), "seldom": len(seldom)}
    yield from search(ctx, cases, own, told)


def comparisons(info: ProbeInfo, trials: Trials, policy: Policy) -> list[Comparison]:
    """Of the pool as it is, and of each of its prompts that was searched as if all pictures picked it; none where too little was searched."""
    places: dict[int, Trial] = {t[PLACE]: t for t in trials.target if PLACE in t.values}
    found = []
    for place in (None, *places):
        part = [t for t in trials if t.arm != TARGET or (t.values.get(PLACE) == place and AGAINST not in t.values)]
        if one := compare(info, Trials(part, reference_note=trials.reference_note), policy):
            found.append(one if place is None else replace(one, view=_view(places[place])))
    if found and (left := max((t["seldom"] for t in places.values()), default=0) - len(places)) > 0:
        cure = f"--set {info.id}.seldom={left + len(places)} searches all"
        said = f" {left} more prompts of the pool, which few pictures pick, were not searched as if all picked them ({cure})."
        found[0] = replace(found[0], beside=said)
    return found


def _view(trial: Trial) -> View:
    return View(
        f"if all pictures read prompt {trial[PLACE] + 1} of the pool's {trial['pool']}, which {trial['picked']:.0%} of them pick",
        " once they read a prompt of the pool that few read",
    )
