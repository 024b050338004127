"""The change of the concentration on groups from one wording to another that is drawn with the same seeds. Pure numpy.

Shapes: K groups, R draws, F flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.scorer_readings import Reading
from vlaudit.probe import Claim, chance
from vlaudit.records import Trial, Trials
from vlaudit.statistics import Difference, paired_rate_difference
from vlaudit.statistics.misclassification import AIMED, DRAWS, concentration, dirichlet, distance, unmixed, within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FLIPS = 2_000
UNFAITHFUL = 0.2  # share of pictures that may lose the caption's concept before a comparison is void
PROMPT = "the prompt against its reference"
Side = dict[str, Any]  # what a trial holds of one wording


@dataclass(frozen=True)
class Change:
    """One attribute, on average over captions, from one wording to another."""

    name: str  # PROMPT, or the intervention
    reading: Reading
    pairs: int
    before: float
    after: float
    before_interval: tuple[float, float]
    draws: Array  # (R,) of the change
    null: Array  # (F,) of the change, where the two pictures of a seed trade places
    cut: bool  # whether the text encoder cut off the later wording
    fidelity: Difference | None  # loss of the caption's concept: before minus after, a share of the pictures

    @property
    def value(self) -> float:
        return self.after - self.before

    @property
    def void(self) -> bool:
        return self.cut or (
            self.fidelity is not None and self.fidelity.value >= UNFAITHFUL and self.fidelity.interval.low > 0
        )

    @property
    def said(self) -> str:
        who = "the prompt, against its reference," if self.name == PROMPT else f"the intervention “{self.name}”"
        return (
            f"{who} changes the concentration on {self.reading.attribute} from "
            f"{within(self.before):.2f} to {within(self.after):.2f}"
        )

    def interval(self, tail_low: float, tail_high: float) -> tuple[float, float]:
        import numpy as np

        low, high = np.quantile(self.draws - self.draws.mean() + self.value, [tail_low, 1 - tail_high])
        return max(min(float(low), self.value), -1.0), min(max(float(high), self.value), 1.0)


def changes(trials: Trials, found: list[Reading], level: float) -> list[Change]:
    """From the reference to the prompt, and from the prompt to each intervention, for every attribute."""
    target = trials.target
    sides: list[tuple[str, list[tuple[Trial, Side, Side]]]] = []
    if trials.reference:
        sides.append((PROMPT, [(t, theirs["sides"][""], t["sides"][""]) for t, theirs in trials.paired()]))
    for name in sorted({name for t in target for name in t["sides"]} - {""}):
        sides.append((name, [(t, t["sides"][""], t["sides"][name]) for t in target]))
    every = [_change(name, rows, reading, level) for name, rows in sides for reading in found]
    return [change for change in every if change is not None]


def _change(name: str, rows: list[tuple[Trial, Side, Side]], reading: Reading, level: float) -> Change | None:
    import numpy as np

    captions: list[str] = []
    codes: list[NDArray[np.int64]] = []
    shows: list[tuple[bool, bool]] = []
    for trial, first, second in rows:
        ours, theirs = (side["said"].get(reading.attribute, []) for side in (first, second))
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        shows += [pair for pair in zip(first["shows"], second["shows"], strict=True) if None not in pair]
        if len(pairs) > 1:
            captions.append(trial["caption"])
            codes.append(np.array(pairs))
    if not codes:
        return None
    k, rng = len(reading.values), np.random.default_rng(3)
    rates = reading.confusion.rates_of(reading.names_of(captions))
    sides = np.stack([(own[..., None] == np.arange(k)).sum(axis=0) for own in codes], axis=1).astype(float)  # (2, M, K)
    before, after = (float(concentration(counts, rates, reading.aim).mean()) for counts in sides)
    drawn_before, drawn_after = _draws(codes, reading, k, rng)
    null = np.zeros(FLIPS)
    for own, confusion in zip(codes, rates, strict=True):
        swapped = np.where((rng.random((FLIPS, len(own))) < 0.5)[..., None], own[:, ::-1], own)
        counts = (swapped[..., None] == np.arange(k)).sum(axis=1).astype(float)  # (F, 2, K)
        values = concentration(counts, confusion, reading.aim)
        null += (values[:, 1] - values[:, 0]) / len(codes)
    tail, seen = (1 - level) / 2, within(before)
    low, high = np.quantile(drawn_before - drawn_before.mean() + before, [tail, 1 - tail]).tolist()
    interval = min(max(low, 0.0), seen), max(min(high, 1.0), seen)
    fidelity = paired_rate_difference([a for a, _ in shows], [b for _, b in shows], level) if shows else None
    cut = name != PROMPT and any(second["cut"] for _, _, second in rows)  # a prompt is audited as it is read
    return Change(
        name, reading, sum(map(len, codes)), before, after, interval, drawn_after - drawn_before, null, cut, fidelity
    )


def _draws(codes: list[NDArray[np.int64]], reading: Reading, k: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """(R,) mean concentrations before and after: a Dirichlet posterior of each caption's joint shares of (before, after),
    which keeps the seeds paired, beside one picture a side as aimed; one confusion a draw for all."""
    import numpy as np

    confusions = reading.confusion.overall(DRAWS, rng)
    fair = reading.aim @ reading.confusion.rates
    sums = np.zeros((2, DRAWS))
    for own in codes:
        joint = np.zeros((k, k))
        np.add.at(joint, (own[:, 0], own[:, 1]), 1)
        weights = (joint + AIMED / 2 * np.outer(fair, fair)).ravel()
        drawn = dirichlet(np.broadcast_to(weights, (DRAWS, k * k)), rng).reshape(DRAWS, k, k)
        for side, axis in ((0, 2), (1, 1)):
            sums[side] += distance(unmixed(drawn.sum(axis=axis), confusions), reading.aim)
    return sums[0] / len(codes), sums[1] / len(codes)


def tell_controls(claim: Claim, change: Change) -> None:
    claim.control("sides swapped by seed", chance(change.null))
    if change.fidelity is not None:
        low, high = change.fidelity.interval.ci
        claim.control("share of pictures that lose the concept", f"{change.fidelity.value:.0%} ({low:.0%} to {high:.0%})")
    claim.controls(change.reading.controls())


def tell_wordings(claim: Claim, every: list[Change], found: list[Reading]) -> None:
    """The concentration under each wording, and what each changes."""
    for reading in found:
        heights: dict[str, float] = {}
        for change in (change for change in every if change.reading is reading):
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
        rows.append([change.name, change.reading.attribute, change.pairs, round(within(change.before), 3),
                     round(within(change.after), 3), f"{change.value:+.2f} ({low:+.2f} to {high:+.2f})",
                     lost + ", cut off" * change.cut + " (void)" * change.void])  # fmt: skip
    columns = ["wording", "attribute", "pairs", "before", "after", "change", "concept lost"]
    claim.table("change of the concentration on groups", columns, rows)
