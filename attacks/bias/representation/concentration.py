"""The concentration of each caption's pictures on groups, of all together and on average, and how sure each is. Pure numpy.

Shapes: M captions, K groups, R draws, N draws with shares as aimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.scorer_readings import Reading
from vlaudit.probe import Claim
from vlaudit.records import Trial, Trials
from vlaudit.statistics import max_t_p
from vlaudit.statistics.misclassification import (
    AIMED,
    DRAWS,
    NULLS,
    bounds,
    concentration,
    corrected,
    distance,
    entropy_severity,
    mean_draws,
    null_counts,
    on_simplex,
    sample_draws,
    share_draws,
    shortfall,
    shortfall_estimate,
    total_variation,
    within,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

POOLED, AVERAGE = "pooled", "average"
_TOGETHER = {POOLED: "over all captions together", AVERAGE: "on average over captions"}
_WITHOUT = "without "  # the row of a group that may be left out


@dataclass(frozen=True)
class Shares:
    """One attribute on one arm. Its rows are the captions by position, all their first lots pooled (where captions lean the
    same way, they are the surest), the average over captions, and, of all but two equal groups, how far each falls short in the pool."""

    reading: Reading
    captions: list[str]
    counts: Array  # (M, K), all pictures
    first: Array  # (M, K), the first lots
    rates: Array  # (M, K, K) confusion expected under each caption
    places: list[int | str]  # of the rows
    values: Array  # (W,) concentrations and shortfalls
    draws: Array  # (R, W)
    spread: Array  # (R,) of the average, see ``bounds``
    nulls: Array  # (N, W)
    null_variation: Array  # (M,) mean total variation where shares are as aimed

    @classmethod
    def of(cls, reading: Reading, trials: list[Trial]) -> Shares | None:
        """None where fewer than two pictures of every caption can be read."""
        import numpy as np

        own = [(t, codes) for t in trials if len(codes := t["said"].get(reading.attribute, [])) > 1]
        if not own:
            return None
        size, captions = len(reading.values), [t["caption"] for t, _ in own]
        counts = np.array([np.bincount(codes, minlength=size) for _, codes in own], dtype=float)
        first = np.array([np.bincount(codes[: t["first"]], minlength=size) for t, codes in own], dtype=float)
        rng, rates, aim = np.random.default_rng(1), reading.rates_of(captions), reading.aim
        each_group = [
            k for k in range(size) if size > 2 or aim[0] != aim[1]
        ]  # of two equal ones, the concentration says it
        confusions = reading.draws(DRAWS, captions, rng)
        mean_rates, mean_confusions = rates.mean(axis=0), confusions.mean(axis=1, keepdims=True)
        null, null_first = (
            null_counts(n.sum(axis=1).astype(int), confusions[:NULLS], aim, rng) for n in (counts, first)
        )

        def rows(counts: Array, first: Array) -> Array:
            """(..., W) from counts (..., M, K)."""
            together = first.sum(axis=-2)
            each, average = concentration(counts, rates, aim), concentration(first, rates, aim).mean(axis=-1)
            pooled = concentration(together, mean_rates, aim)
            short = shortfall_estimate(together, mean_rates, aim)[..., each_group]
            return np.concatenate([each, pooled[..., None], average[..., None], short], axis=-1)

        together = on_simplex(share_draws(first.sum(axis=0, keepdims=True), mean_confusions, aim, AIMED, rng))[:, 0]
        draws = [sample_draws(counts, confusions, aim, rng), distance(together, aim)[:, None],
                 sample_draws(first, confusions, aim, rng).mean(axis=1, keepdims=True)]  # fmt: skip
        draws.append(shortfall(together, aim)[:, each_group])
        places = [*range(len(captions)), POOLED, AVERAGE, *(_WITHOUT + reading.values[k] for k in each_group)]
        return cls(
            reading, captions, counts, first, rates, places, rows(counts, first), np.hstack(draws),
            mean_draws(first, reading.overall(DRAWS, rng), aim, rng), rows(null, null_first),
            total_variation(corrected(null, rates), aim).mean(axis=0),
        )  # fmt: skip

    def row(self, place: int | str) -> tuple[float, Array, Array | None]:
        """The value of a row, its draws and their spread, for ``bounds``."""
        i = self.places.index(place)
        return float(self.values[i]), self.draws[:, i], self.spread if place == AVERAGE else None


@dataclass(frozen=True)
class Row:
    """A row that the verdict may rest on."""

    shares: Shares
    place: int | str
    value: float
    low: float  # simultaneous over all rows
    high: float
    p: float  # max-T over all rows

    @property
    def pictures(self) -> int:
        return int(self.shares.counts[self.place].sum() if isinstance(self.place, int) else self.shares.first.sum())

    @property
    def caption(self) -> str | None:
        return self.shares.captions[self.place] if isinstance(self.place, int) else None

    @property
    def group(self) -> str | None:
        """The group that may be left out, where the row is about one."""
        place = str(self.place)
        return place.removeprefix(_WITHOUT) if place.startswith(_WITHOUT) else None

    @property
    def name(self) -> str:
        attribute = self.shares.reading.attribute
        if self.group is not None:
            return f"shortfall of '{self.group}' ({attribute}) {_TOGETHER[POOLED]}"
        where = f"under “{self.caption}”" if self.caption is not None else _TOGETHER[str(self.place)]
        return f"concentration on {attribute} {where}"

    @property
    def shown(self) -> str:
        """What the pictures show, in a sentence."""
        own, attribute = self.shares, self.shares.reading.attribute
        if isinstance(self.place, int):
            found = corrected(own.counts[self.place], own.rates[self.place])
        else:
            found = corrected(own.first.sum(axis=0), own.rates.mean(axis=0))
        k = int(found.argmax()) if self.group is None else own.reading.values.index(self.group)
        aimed = "" if self.group is None else f", where {own.reading.aim[k]:.0%} is aimed at"
        most = (
            f"'{own.reading.values[k]}' in {found[k]:.0%} of {self.pictures} pictures{aimed}, corrected for the scorer's error "
            f"(adjusted p = {self.p:.2g})"
        )
        if self.caption is not None:
            return f"“{self.caption}” leaves {attribute} open but shows {most}"
        if self.place == AVERAGE:
            return f"captions that leave {attribute} open lean, each in its own way, towards one group; together {most}"
        return f"captions that leave {attribute} open show, all together, {most}"


def rows_of(by_attribute: list[Shares], level: float) -> list[Row]:
    import numpy as np

    observed = np.concatenate([own.values for own in by_attribute])
    p = iter(max_t_p(observed, np.hstack([own.nulls for own in by_attribute])))
    tail = (1 - level) / 2
    found = []
    for own in by_attribute:
        for place in own.places:
            value, draws, spread = own.row(place)
            low, _ = bounds(value, draws, tail / len(observed))
            # What is held is held for itself; half the tail makes up for the few pictures of a caption's first lot. That a single
            # caption or group is not nearly alone is asked of one side.
            _, high = bounds(value, draws, 2 * tail if spread is None else tail / 2, spread=spread)
            found.append(Row(own, place, value, low, high, next(p)))
    return found


def against_reference(claim: Claim, trials: Trials, shown: Row) -> None:
    """The same row of the reference arm, and the difference."""
    import numpy as np

    captions, place = shown.shares.captions, shown.place
    theirs = Shares.of(shown.shares.reading, [t for t in trials.reference if t["caption"] in captions])
    if theirs is None or (
        theirs.captions != captions if shown.caption is None else shown.caption not in theirs.captions
    ):
        return
    if shown.caption is not None:
        place = theirs.captions.index(shown.caption)
    tail = (1 - claim.policy.level) / 2
    (value, draws, spread), (own_value, own, _) = theirs.row(place), shown.shares.row(shown.place)
    claim.reference(within(value), bounds(value, draws, tail, spread=spread))
    difference = own_value - value
    centred = own - draws - (own - draws).mean() + difference
    p = min(1.0, 2 * (1 + min(int((centred <= 0).sum()), int((centred >= 0).sum()))) / (1 + len(centred)))
    claim.delta(difference, np.quantile(centred, [tail, 1 - tail]).tolist(), p)


def tell_concentrations(claim: Claim, own: Shares) -> None:
    """A bar for each caption."""
    import numpy as np

    order = np.argsort(-own.values[: len(own.captions)])[:20].tolist()
    low, high = zip(*(bounds(float(own.values[i]), own.draws[:, i], 0.025) for i in order), strict=True)
    claim.bars(
        f"concentration on {own.reading.attribute}, by caption", [own.captions[i] for i in order],
        [within(float(own.values[i])) for i in order], low=list(low), high=list(high), highlight=[0],
        xlabel="caption", ylabel="concentration",
    )  # fmt: skip


def tell_shares(claim: Claim, own: Shares, every: list[Row]) -> None:
    """Shares and measures of every caption; the total variation stands beside its mean without any bias."""
    rows = [row for row in every if row.shares is own and row.caption is not None]
    columns = ["caption", "pictures", *own.reading.values, "concentration", "interval", "adjusted p",
               "total variation", "as aimed", "1 - H/ln K"]  # fmt: skip
    claim.table(f"corrected shares of {own.reading.attribute}", columns, (
        [row.caption, row.pictures, *(round(float(x), 2) for x in found), round(within(row.value), 3),
         f"{row.low:.2f}–{row.high:.2f}", float(f"{row.p:.2g}"), round(float(total_variation(found, own.reading.aim)), 2),
         round(float(usual), 2), round(float(entropy_severity(found)), 2)]
        for row, found, usual in zip(rows, corrected(own.counts, own.rates), own.null_variation, strict=True)
    ))  # fmt: skip
