"""The change of the concentration on groups from one wording to another that is drawn with the same seeds. Pure numpy.

Shapes: K groups, R draws, F flips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.scorer_readings import Reading, fate
from vlaudit.probe import Claim, Policy, ProbeInfo, chance
from vlaudit.records import Trial, Trials
from vlaudit.statistics import Difference, paired_rate_difference
from vlaudit.statistics.misclassification import (
    AIMED,
    DRAWS,
    concentration,
    dirichlet,
    distance,
    on_simplex,
    shortfall,
    shortfall_estimate,
    unmixed,
    within,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FLIPS = 1_000
PROMPT = "the prompt against its reference"
Side = dict[str, Any]  # what a trial holds of one wording


@dataclass(frozen=True)
class Change:
    """One quantity of one attribute, from one wording to another: the concentration on average over captions or under one, or how
    far one group falls short over all captions together."""

    name: str  # PROMPT, or the intervention
    reading: Reading
    where: str  # "" on average, else “caption” or 'group'
    kind: str  # "concentration" or "shortfall"
    pairs: int
    captions: int  # that the pairs are of
    before: float
    after: float
    before_interval: tuple[float, float]
    draws: Array  # (R,) of the change
    null: Array  # (F,) of the change, where the two pictures of a seed trade places
    cut: bool  # whether the text encoder cut off the later wording
    fidelity: Difference | None  # loss of the caption's concept: before minus after, a share of the pictures
    unfaithful: float  # share of pictures that may lose the caption's concept before a comparison is void

    @property
    def value(self) -> float:
        return min(max(self.after - self.before, -1.0), 1.0)  # estimates without bias may lie beyond the ends

    @property
    def single(self) -> bool:
        """Whether it is about one caption or one group, which an average hides."""
        return bool(self.where)

    @property
    def void(self) -> bool:
        return self.cut or (
            self.fidelity is not None and self.fidelity.value >= self.unfaithful and self.fidelity.interval.low > 0
        )

    @property
    def quantity(self) -> str:
        attribute = self.reading.attribute
        if self.kind == "shortfall":
            return f"shortfall of {self.where} ({attribute})"
        return f"concentration on {attribute}" + (f" under {self.where}" if self.where else "")

    @property
    def said(self) -> str:
        who = "the prompt, against its reference," if self.name == PROMPT else f"the intervention “{self.name}”"
        return f"{who} changes the {self.quantity} from {within(self.before):.2f} to {within(self.after):.2f}"

    def interval(self, tail_low: float, tail_high: float) -> tuple[float, float]:
        import numpy as np

        low, high = np.quantile(self.draws - self.draws.mean() + self.value, [tail_low, 1 - tail_high])
        if self.single:  # under a caption that the scorer reads badly the draws may lie higher than what is expected
            high = max(high, np.quantile(self.draws, 1 - tail_high))
        return max(min(float(low), self.value), -1.0), min(max(float(high), self.value), 1.0)


def changes(
    trials: Trials, found: list[Reading], info: ProbeInfo, policy: Policy
) -> tuple[list[Change], dict[str, str]]:
    """From the reference to the prompt, and from the prompt to each intervention, for every attribute. And the captions that tell
    nothing of it, each with the reason."""
    target = trials.target
    sides: list[tuple[str, list[tuple[Trial, Side, Side]]]] = []
    if trials.reference:
        sides.append((PROMPT, [(t, theirs["sides"][""], t["sides"][""]) for t, theirs in trials.paired()]))
    for name in sorted({name for t in target for name in t["sides"]} - {""}):
        sides.append((name, [(t, t["sides"][""], t["sides"][name]) for t in target if name in t["sides"]]))
    left_out: dict[str, str] = {}
    every: list[Change] = []
    for name, rows in sides:
        kept = []
        for trial, first, second in rows:
            why = _fate(first, first, info, policy) or _fate(second, first, info, policy)
            if why is None:
                kept.append((trial, first, second))
            elif name == PROMPT or not trials.reference:
                left_out[f"“{trial['caption']}”"] = why
        if name == PROMPT or not trials.reference:
            asked = {t["caption"] for t, *_ in rows}
            left_out |= {
                f"“{t['caption']}”": "it was drawn on one side only" for t in target if t["caption"] not in asked
            }
        every += [change for reading in found for change in _changes(name, kept, reading, info, policy)]
    return every, left_out


def _fate(side: Side, first: Side, info: ProbeInfo, policy: Policy) -> str | None:
    """Why a caption tells nothing. The first side must show it; what the later one loses is asked of all captions together."""
    codes: list[int | None] = next(iter(side["said"].values()), [])
    read = sum(code is not None for code in codes)
    shows = [shown for shown in first["shows"] if shown is not None]
    return fate(read, len(codes) - read, shows or None, info, policy)


def _changes(
    name: str, rows: Sequence[tuple[Trial, Side, Side]], reading: Reading, info: ProbeInfo, policy: Policy
) -> list[Change]:
    import numpy as np

    captions: list[str] = []
    codes: list[NDArray[np.int64]] = []
    shows: list[list[tuple[bool, bool]]] = []  # of the same captions
    for trial, first, second in rows:
        ours, theirs = (side["said"].get(reading.attribute, []) for side in (first, second))
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        if len(pairs) > 1:
            captions.append(trial["caption"])
            codes.append(np.array(pairs))
            shows.append([pair for pair in zip(first["shows"], second["shows"], strict=True) if None not in pair])
    if not codes:
        return []
    k, aim, rng = len(reading.values), reading.aim, np.random.default_rng(3)
    rates = reading.rates_of(captions)
    each_group = [g for g in range(k) if k > 2 or aim[0] != aim[1]]  # of two equal ones, the concentration says it

    def measures(counts: Array) -> Array:
        """(..., W) of counts (..., M, K): on average, by caption, and each group's shortfall over all together."""
        each = concentration(counts, rates, aim)
        short = np.maximum(shortfall_estimate(counts.sum(axis=-2), rates.mean(axis=0), aim)[..., each_group], 0)
        return np.concatenate([each.mean(axis=-1)[..., None], each, short], axis=-1)

    sides = np.stack([(own[..., None] == np.arange(k)).sum(axis=0) for own in codes], axis=1).astype(float)  # (2, M, K)
    before, after = measures(sides)
    drawn = [_measured(shares, aim, each_group) for shares in _draws(codes, reading, captions, k, rng)]
    swapped = np.empty((FLIPS, 2, len(codes), k))
    for i, own in enumerate(codes):
        turned = np.where((rng.random((FLIPS, len(own))) < 0.5)[..., None], own[:, ::-1], own)
        swapped[:, :, i] = (turned[..., None] == np.arange(k)).sum(axis=1)
    null = measures(swapped)
    change, null = drawn[1] - drawn[0], null[:, 1] - null[:, 0]
    tail = (1 - policy.level) / 2
    ends = np.quantile(drawn[0] - drawn[0].mean(axis=0) + before, [tail, 1 - tail], axis=0)
    cut = name != PROMPT and any(second["cut"] for _, _, second in rows)  # a prompt is audited as it is read
    unfaithful, total = policy.threshold(info, "unfaithful"), sum(map(len, codes))
    together = _lost([pair for own in shows for pair in own], policy.level)
    places = [("", "concentration", total, together)]
    places += [
        (f"“{caption}”", "concentration", len(own), _lost(seen, policy.level))
        for caption, own, seen in zip(captions, codes, shows, strict=True)
    ]
    places += [(f"'{reading.values[g]}'", "shortfall", total, together) for g in each_group]
    return [
        Change(name, reading, where, kind, pairs, 1 if where.startswith("“") else len(codes), float(before[w]), float(after[w]),
               (min(max(float(ends[0, w]), 0.0), within(float(before[w]))), max(min(float(ends[1, w]), 1.0), within(float(before[w])))),
               change[:, w], null[:, w], cut, lost, unfaithful)
        for w, (where, kind, pairs, lost) in enumerate(places)
    ]  # fmt: skip


def _lost(shows: list[tuple[bool, bool]], level: float) -> Difference | None:
    return paired_rate_difference([a for a, _ in shows], [b for _, b in shows], level) if shows else None


def _measured(shares: Array, aim: Array, each_group: list[int]) -> Array:
    """(R, W) of shares (R, M, K)."""
    import numpy as np

    each = distance(shares, aim)
    short = shortfall(shares.mean(axis=1), aim)[:, each_group]
    return np.concatenate([each.mean(axis=1)[:, None], each, short], axis=1)


def _draws(
    codes: list[NDArray[np.int64]], reading: Reading, captions: list[str], k: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(R, M, K) shares before and after: a Dirichlet posterior of each caption's joint shares of (before, after), which keeps
    the seeds paired, beside one picture a side as aimed; one confusion a draw and caption for both sides."""
    import numpy as np

    confusions = reading.draws(DRAWS, captions, rng)
    fair = reading.aim @ reading.confusion.rates
    joint = np.zeros((len(codes), k, k))
    for place, own in enumerate(codes):
        np.add.at(joint[place], (own[:, 0], own[:, 1]), 1)
    weights = (joint + AIMED / 2 * np.outer(fair, fair)).reshape(len(codes), k * k)
    drawn = dirichlet(np.broadcast_to(weights, (DRAWS, *weights.shape)), rng).reshape(DRAWS, len(codes), k, k)
    before, after = (on_simplex(unmixed(drawn.sum(axis=axis), confusions)) for axis in (3, 2))
    return before, after


def tell_controls(claim: Claim, change: Change) -> None:
    claim.control("sides swapped by seed", chance(change.null))
    if change.fidelity is not None:
        low, high = change.fidelity.interval.ci
        claim.control(
            "share of pictures that lose the concept", f"{change.fidelity.value:.0%} ({low:.0%} to {high:.0%})"
        )
    claim.controls(change.reading.controls())


def tell_wordings(claim: Claim, every: list[Change], found: list[Reading]) -> None:
    """The concentration under each wording, and what each changes."""
    for reading in found:
        heights: dict[str, float] = {}
        for change in (change for change in every if change.reading is reading and not change.where):
            prompt = change.name == PROMPT
            heights.setdefault("reference" if prompt else "the target as it is", within(change.before))
            heights.setdefault("the target as it is" if prompt else f"with “{change.name}”", within(change.after))
        if heights:
            title, axes = f"concentration on {reading.attribute}", {"xlabel": "wording", "ylabel": "concentration"}
            claim.bars(title, list(heights), list(heights.values()), **axes)
    tail, rows = (1 - claim.policy.level) / 2, []
    for change in every:
        low, high = change.interval(tail, tail)
        lost = "not measured" if change.fidelity is None else f"{change.fidelity.value:.0%}"
        rows.append([change.name, change.quantity, change.pairs, round(within(change.before), 3),
                     round(within(change.after), 3), f"{change.value:+.2f} ({low:+.2f} to {high:+.2f})",
                     lost + ", cut off" * change.cut + " (void)" * change.void])  # fmt: skip
    columns = ["wording", "of", "pairs", "before", "after", "change", "concept lost"]
    claim.table("change of the concentration on groups", columns, rows)
