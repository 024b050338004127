"""Captions against changed captions, drawn with the same seeds, as few as a group-sequential plan allows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.drawn_captions import caption_ranks, draw, fit, marked, same_conditioning
from vlaudit.probe import Context
from vlaudit.probe.artifacts import heading
from vlaudit.records import Evidence
from vlaudit.statistics.sequential import GroupSequentialPlan, Look, look

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SPREAD = 0.1  # standard deviation of drops that is believed: a few equal drops are no certainty
HARMLESS = 2.0  # margins that a loss must be shown to stay below


def told(drops: Sequence[float], looks: Sequence[int], margin: float, harmless: float, spread: float, alpha: float) -> Look:
    """What drops of fit say at one of the looks: above the margin, below ``harmless`` margins, or neither yet."""
    return look(drops, GroupSequentialPlan(tuple(looks), alpha), margin, max(1.0, harmless) * margin, spread)


class Comparison:
    """A caption and a changed text, and how much less the pictures of the text show the caption, seed by seed."""

    def __init__(self, ctx: Context, caption: str, text: str, kind: str, plan: GroupSequentialPlan, margin: float) -> None:
        self.ctx, self.caption, self.text, self.kind, self.plan, self.margin = ctx, caption, text, kind, plan, margin
        self.seeds = ctx.seeds(plan.sizes[-1], caption)
        self.unchanged = same_conditioning(ctx, caption, text, self.seeds[0])
        self.drawn = caption if self.unchanged else text  # the same conditioning makes the same pictures
        self.blocked = False
        self.ranks: list[tuple[float, float]] = []
        self.look: Look | None = None
        self.pictures: tuple[Tensor, Tensor] | None = None  # of the first seed

    @property
    def over(self) -> bool:
        return self.blocked or (self.look is not None and (self.unchanged or self.look.stops))

    @property
    def drops(self) -> list[float]:
        return [fit(clean) - fit(changed) for clean, changed in self.ranks]

    def values(self) -> dict[str, Any]:
        """What a trial records. A blocked picture leaves no comparison."""
        drops, look = self.drops, self.look
        adversarial = bool(look and look.rejects and not self.blocked)
        return {
            "kind": self.kind, "text": marked(self.caption, self.text), "caption": self.caption, "unchanged": self.unchanged,
            "blocked": self.blocked, "looks": list(self.plan.sizes), "drops": drops, "drop": fmean(drops),
            "p": look.p if look else 1.0, "adversarial": adversarial, "rank": fmean(clean for clean, _ in self.ranks),
        }  # fmt: skip

    def artifacts(self) -> dict[str, Evidence]:
        """The pictures of the first seed, side by side."""
        if self.pictures is None or not self.ctx.on_target:
            return {}
        (own, other), put, title = self.ranks[0], self.ctx.artifacts.put_image, heading(self.caption)
        return {
            "clean": put(self.pictures[0], f"{title} | as written: fit {fit(own):.2f}"),
            "changed": put(self.pictures[1], f"{title} | {marked(self.caption, self.text)}: fit {fit(other):.2f}"),
        }


def compare(ctx: Context, comparisons: Sequence[Comparison]) -> None:
    """Run them all to their end, look by look. Pictures that several need are drawn once."""
    for size in comparisons[0].plan.sizes if comparisons else ():
        _extend(ctx, [comparison for comparison in comparisons if not comparison.over], size)


def _extend(ctx: Context, running: Sequence[Comparison], size: int) -> None:
    def missing(c: Comparison) -> list[int]:
        return c.seeds[len(c.ranks) : size]

    order = sorted({(text, seed, c.caption) for c in running for text in (c.caption, c.drawn) for seed in missing(c)})
    if not order:
        return
    drawn = draw(ctx, [text for text, _, _ in order], [seed for _, seed, _ in order])
    ranks = caption_ranks(ctx, drawn.images, [caption for _, _, caption in order])
    place = {key: i for i, key in enumerate(order)}
    for c in running:
        pairs = [(place[c.caption, seed, c.caption], place[c.drawn, seed, c.caption]) for seed in missing(c)]
        c.blocked = any(drawn.blocked[i] or drawn.blocked[j] for i, j in pairs)
        if c.pictures is None:
            c.pictures = drawn.images[pairs[0][0]], drawn.images[pairs[0][1]]
        c.ranks += [(ranks[i], ranks[j]) for i, j in pairs]
        c.look = told(c.drops, c.plan.sizes, c.margin, HARMLESS, LEAST_SPREAD, c.plan.alpha)
