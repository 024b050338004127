"""Gaps in answering yes between the two sides of pairs: of each question, and of each question under each label. Pure numpy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.bias.counterfactual_gap.pairs import GIVEN, OWN
from vlaudit.probe import BuiltIn, Claim, chance
from vlaudit.records import Evidence, Trial, Trials
from vlaudit.statistics import Interval, max_t_p, sign_flip_p, standard_error, t_interval
from vlaudit.statistics.strata import RootMeanSquare, at_least, bend, root_mean_square

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLANK = "blank picture"  # the control's case, and its arm
DRAWS = 499
SHOWN = 3  # pairs in the report
TURNS = 0.5
BUILT_IN = {
    "TURNS": BuiltIn(
        meaning="difference in P(yes) between the two sides of a pair beyond which the answer turns", source="our choice, because at half the likelier answer changes",
    ),
}  # fmt: skip
SIZED = 4  # of the widest gaps under one label, those whose intervals are looked at
TITLES = {OWN: "asked for its own label", GIVEN: "asked the data's own questions, right answers"}


@dataclass(frozen=True, eq=False)
class Gap:
    """What one question measures on all pairs that differ in the same two groups. ``values`` (n,) in [-1, 1]."""

    measures: str
    column: str
    groups: tuple[str, str]
    values: NDArray[np.float64]
    cluster: NDArray[np.int64]
    strata: list[str]  # of each pair: its label, or the text where a measure has many
    cases: list[str]
    logits: NDArray[np.float64]  # (m,) differences in log-odds, of the pairs that have both
    rates: tuple[float, float]  # of yes, of each group
    flips: float
    read: float
    elsewhere: bool  # whether it asks for a label that the pairs do not have
    label: str = ""  # where only pairs of one label are meant

    @property
    def title(self) -> str:
        return TITLES.get(self.measures, f"“{self.measures}”") + (f" (of a {self.label})" if self.label else "")

    @property
    def key(self) -> tuple[str, str, tuple[str, str]]:
        return self.measures, self.column, self.groups

    @property
    def pairs(self) -> int:
        return len(self.values)

    @property
    def clusters(self) -> int:
        return len(set(self.cluster.tolist()))

    @property
    def mean(self) -> float:
        """Above 0: the first group gets more yes."""
        return float(self.values.mean())

    @property
    def rare(self) -> float:
        """How often the rarer of yes and no is said."""
        yes = sum(self.rates) / 2
        return min(yes, 1 - yes)

    def interval(self, level: float) -> tuple[float, float]:
        """Of the mean, by clusters."""
        return t_interval(self.values, self.cluster, level).ci

    def size(self, level: float, tests: int) -> Interval:
        """Of the mean's absolute value: the lower end simultaneous over so many tests, the upper of it alone."""
        return Interval(at_least(self.values, self.cluster, level, tests), absolute(self.interval(level))[1], level)

    def ratio(self) -> float | None:
        """How many times as often the one group gets the rarer answer as the other."""
        rates = [rate if sum(self.rates) < 1 else 1 - rate for rate in self.rates]
        return max(rates) / min(rates) if min(rates) > 1e-6 else None

    def by_label(self) -> Iterator[Gap]:
        """The same question on the pairs of each label."""
        import numpy as np

        strata = np.array(self.strata)
        for label in dict.fromkeys(self.strata):
            row = np.flatnonzero(strata == label)
            yield Gap(
                self.measures, self.column, self.groups, self.values[row], self.cluster[row], [label] * len(row),
                [self.cases[i] for i in row], self.logits[:0], self.rates, self.flips, self.read, self.elsewhere, label,
            )  # fmt: skip


def gaps(trials: list[Trial]) -> list[Gap]:
    """One gap a question and pair of groups, in a fixed order."""
    import numpy as np

    rows: dict[Any, list[Any]] = defaultdict(list)
    for trial in trials:
        for measures, text, sign, *sides in trial["asked"]:
            rows[measures, trial["column"], tuple(trial["groups"])].append((trial, text, sign, sides))
    labels = {text for trial in trials for measures, text, *_ in trial["asked"] if measures == OWN}
    found = []
    for measures, column, groups in sorted(rows):
        own = rows[measures, column, groups]
        nets = np.array([[sides[0], sides[1]] for *_, sides in own]) * np.array([[sign] for _, _, sign, _ in own])
        values = np.clip((nets[:, 0] - nets[:, 1]) / 2, -1, 1)
        cluster, cases = np.array([t["cluster"] for t, *_ in own]), [t.case for t, *_ in own]
        strata = [text if measures == GIVEN else str(t["label"]) for t, text, *_ in own]
        logits = np.array([sign * (s[2] - s[3]) for *_, sign, s in own if s[2] is not None and s[3] is not None])
        rates = tuple(((nets.mean(axis=0) + 1) / 2).tolist())
        turned, read = float((nets[:, 0] * nets[:, 1] < 0).mean()), float(np.mean([s[4:6] for *_, s in own]))
        found.append(Gap(measures, column, groups, values, cluster, strata, cases, logits, rates, turned, read, measures in labels))
    return found


def absolute(ends: tuple[float, float]) -> tuple[float, float]:
    """Ends of the absolute value of what lies between two ends."""
    return max(0.0, ends[0], -ends[1]), max(abs(ends[0]), abs(ends[1]))


@dataclass(frozen=True)
class Cell:
    """A question, or a question under one label, with the interval of its gap's size; ``p``: that clusters lean to either side alike."""

    gap: Gap
    interval: Interval
    p: float = 1.0


@dataclass(frozen=True)
class Largest:
    """Of the questions the one with the widest gap beyond doubt, and of the questions under one label."""

    worst: Gap  # beyond doubt
    widest: Gap  # of which the largest gap is not ruled out
    value: float  # the larger of the mean and the root mean square over labels
    interval: Interval
    p: float
    null: NDArray[np.float64]  # (R,) the largest mean where pairs trade places
    spread: dict[tuple[str, str, tuple[str, str]], float]  # root mean square over labels by question, at least the mean
    cell: Cell | None  # the clearest under one label
    confused: Cell | None  # the same, of questions for a label that the pairs do not have
    turned: Cell | None  # of all of them that whose answers turn to one side most surely more often than by chance


def largest(usable: list[Gap], level: float) -> Largest:
    """Means, and root mean squares over labels, against flips of the signs of whole clusters.

    The lower ends are simultaneous over the questions. The upper one is the largest of those of each question alone, which needs no correction:
    it misses the largest gap only if that question's own interval does (intersection-union test, Berger 1982).
    """
    import numpy as np

    third = 1 - (1 - level) / 3
    count = 1 + max(int(gap.cluster.max()) for gap in usable)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(DRAWS, count))
    null, squares, null_squares, bends = [], [], [], []
    for gap in usable:
        codes = np.unique(gap.strata, return_inverse=True)[1]
        cells, sizes = np.zeros((count, codes.max() + 1)), np.bincount(codes)
        np.add.at(cells, (gap.cluster, codes), gap.values)
        null.append(signs @ cells.sum(axis=1) / gap.pairs)
        if gap.elsewhere:
            continue
        mean = cells.sum(axis=0) / sizes
        errors = [standard_error(gap.values[codes == i], gap.cluster[codes == i]) for i in range(len(sizes))]
        squares.append(float((mean**2).mean()))
        null_squares.append(((signs @ cells / sizes) ** 2).mean(axis=1))
        bends.append(bend(mean, np.array(errors), 1 / len(sizes)))
    means, flat = np.array([gap.mean for gap in usable]), np.stack(null, axis=1)
    nothing = np.zeros((3, len(usable)))
    spread = RootMeanSquare(nothing[0], nothing[1], nothing[2], np.ones(len(usable)))
    within = [i for i, gap in enumerate(usable) if not gap.elsewhere]
    if within:
        found = root_mean_square(np.array(squares), np.stack(null_squares, axis=1), np.array(bends), third)
        for mine, theirs in zip(vars(spread).values(), vars(found).values(), strict=True):
            mine[within] = theirs
    sized = [gap.size(level, len(usable)) for gap in usable]
    sure = np.maximum([size.low for size in sized], spread.low)
    high = np.maximum([size.high for size in sized], spread.high)
    best = int(np.lexsort((np.abs(means), sure))[-1])
    interval = Interval(float(sure[best]), max(float(high.max()), float(sure[best])), level)
    value = min(max(abs(float(means[best])), float(spread.value[best]), interval.low), interval.high)
    p = min(1.0, 2 * min(*max_t_p(np.abs(means), np.abs(flat)), *spread.p))
    by_question = {gap.key: max(abs(gap.mean), float(rms)) for gap, rms in zip(usable, spread.value, strict=True)}
    cells_of = [[cell for gap in usable if gap.elsewhere == elsewhere for cell in gap.by_label()] for elsewhere in (False, True)]
    clearest, confused = (_clearest(cells, level) for cells in cells_of)
    turned = _turned([cell for cells in cells_of for cell in cells], level)
    return Largest(usable[best], usable[int(np.argmax(high))], value, interval, p, np.abs(flat).max(axis=1), by_question, clearest, confused, turned)


def _clearest(cells: list[Gap], level: float) -> Cell | None:
    """Half of the level is for questions for the pairs' own label, half for all others."""
    own = [cell.measures == OWN for cell in cells]
    tests = [2 * own.count(mine) for mine in own]
    rows = [row for row in zip(cells, tests, strict=True) if row[0].clusters > 1]
    rows.sort(key=lambda row: -abs(row[0].mean) * row[0].clusters ** 0.5)
    sized = [(Cell(cell, cell.size(level, n)), n) for cell, n in rows[:SIZED]]  # intervals take time
    if not sized:
        return None
    clearest, n = max(sized, key=lambda row: (row[0].interval.low, abs(row[0].gap.mean) * row[0].gap.clusters**0.5))
    return replace(clearest, p=min(1.0, n * _sign_p(clearest.gap)))


def _turned(cells: list[Gap], level: float) -> Cell | None:
    """The question under one label of which most surely more answers turn to one side than by chance: than such answers turn elsewhere, and than
    the same ones turn to the other side. Few pairs tell it where hardly any answer turns, which a test of signs cannot, among many labels."""
    import numpy as np
    from scipy.stats import binom

    counts, rates = [], defaultdict(list)
    for cell in cells:
        means = np.bincount(cell.cluster, weights=cell.values)[np.unique(cell.cluster)] / np.bincount(cell.cluster)[np.unique(cell.cluster)]
        sides = sorted((int((means > TURNS).sum()), int((means < -TURNS).sum())))
        counts.append((*sides, len(means)))
        rates[_kind(cell)].append(counts[-1])
    usual = {kind: sum(less + more for less, more, _ in rows) / 2 / sum(n for *_, n in rows) for kind, rows in rates.items()}
    chances = [max(usual[_kind(cell)], (less + 1) / (n + 2)) for cell, (less, _, n) in zip(cells, counts, strict=True)]
    if not cells:
        return None
    _, more, n = np.array(counts).T
    odds = binom.sf(more - 1, n, chances)
    at = int(np.argmin(odds))
    return Cell(cells[at], Interval(0.0, 1.0, level), min(1.0, float(2 * len(cells) * odds[at])))


def _kind(cell: Gap) -> str:
    """Of cells whose answers turn about as often: all that ask for the pairs' own label, all that ask for another, and those of one question."""
    return "elsewhere" if cell.elsewhere else cell.measures


def rarest(usable: list[Gap], share: float, level: float) -> Cell | None:
    """Of the questions with a rare answer the one whose gap is widest beyond doubt."""
    rows = [Cell(gap, gap.size(level, len(usable)), 1.0) for gap in usable if gap.rare <= share]
    widest = max(rows, key=lambda row: row.interval.low, default=None)
    if widest is None:
        return None  # a test of signs would count what the likelihoods of two noes differ by, in either direction
    return replace(widest, p=min(1.0, len(usable) * sign_flip_p(widest.gap.values, list(widest.gap.cluster))))


def _sign_p(gap: Gap) -> float:
    import numpy as np
    from scipy.stats import binomtest

    sums = np.bincount(gap.cluster, weights=gap.values)
    more, less = int((sums > 0).sum()), int((sums < 0).sum())
    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


@dataclass(frozen=True)
class Label:
    """A label under two groups: how many independent pairs were asked about, and how many the data hold."""

    title: str
    pairs: int
    there: int


def thin_labels(trials: Trials, least: float) -> tuple[list[Label], int]:
    """Those of fewer pairs than ``least``, fewest first, and how many pairs would give every label as many, where the data have them."""
    asked: dict[tuple[str, str, str, str | None], set[int]] = defaultdict(set)
    there: dict[tuple[str, str, str, str | None], int] = {}
    for trial in trials.target:
        key = (trial["column"], *trial["groups"], trial["label"])
        asked[key].add(trial["cluster"])
        told: Any = trial.values.get("there", 0)  # older audits do not say
        there[key] = told
    for trial in trials.control(BLANK):
        undrawn: Any = trial.values.get("undrawn", [])
        there |= {(column, first, second, label): count for column, first, second, label, count in undrawn}
    several = len({key[:3] for key in there}) > 1
    every = {
        key: Label(f"{key[3]} ({key[1]} / {key[2]})" if several else str(key[3]), len(asked[key]), max(count, len(asked[key])))
        for key, count in there.items() if key[3] is not None
    }  # fmt: skip
    few = sorted((label for label in every.values() if label.pairs < least), key=lambda label: (label.pairs, label.title))
    return few, int(sum(min(label.there, least) for label in every.values()))


def tell_controls(claim: Claim, trials: Trials, every: list[Gap], worst: Gap, null: NDArray[np.float64]) -> None:
    """What pairs that trade places, words alone and pictures of one group do to the answers."""
    import numpy as np

    claim.control("groups swapped", chance(null, float(np.median(null)), (0.0, 0.95)))
    blank = [row for trial in trials.control(BLANK) for row in trial["asked"]]
    if blank:
        widest = max(blank, key=lambda row: abs(row[4]))
        claim.control(f"{BLANK}, group named in the text: largest gap", f"{abs(widest[4]):.0%} (“{widest[1]}”)")
        own = [row[4] for row in blank if row[0] == worst.measures and (row[2], row[3]) == worst.groups]
        claim.control(f"{BLANK}, the same question", f"{sum(own) / len(own):+.0%}" if own else "not asked")
    turned, n = _within_groups(trials.target)
    if n:
        claim.control("within one group: pictures whose answers differ", f"{turned / n:.0%} of {n}")
    right = _right(trials.target)
    if right:
        claim.control("label questions answered right", f"{sum(right) / len(right):.0%} of {len(right)}")
    flips = [gap.flips for gap in every]
    claim.control("pairs whose answers differ, over all questions", f"{sum(flips) / len(flips):.0%}" if flips else "–")


def _within_groups(trials: list[Trial]) -> tuple[int, int]:
    """How often answers to one question differ between two pictures of one group and label."""
    cells: dict[Any, list[float]] = defaultdict(list)
    for trial in trials:
        for _, text, _, *sides in trial["asked"]:
            for side, group in enumerate(trial["groups"]):
                if sides[side]:
                    cells[text, trial["label"], group].append(sides[side])
    turned = n = 0
    for nets in cells.values():
        yes = sum(net > 0 for net in nets)
        turned += yes * (len(nets) - yes)
        n += len(nets) * (len(nets) - 1) // 2
    return turned, n


def _right(trials: list[Trial]) -> list[bool]:
    """Of the questions for labels: yes to a pair's own, no to another. About half, and the gaps say little of the model."""
    names = {text for trial in trials for measures, text, *_ in trial["asked"] if measures == OWN}
    return [
        (net > 0) == (measures == OWN) and net != 0
        for trial in trials
        for measures, text, _, *sides in trial["asked"]
        if text in names
        for net in sides[:2]
    ]


def tell_questions(claim: Claim, every: list[Gap], usable: list[Gap], found: Largest) -> None:
    """The gap of each question, in probability and in log-odds."""
    worst = found.worst
    shown = sorted(usable, key=lambda gap: -found.spread[gap.key])[:20]
    several = len({gap.groups for gap in every}) > 1
    names = [gap.measures + (f" ({' / '.join(gap.groups)})" if several else "") for gap in shown]
    ends = [gap.interval(claim.policy.level) for gap in shown]
    claim.bars(
        f"more yes to '{worst.groups[0]}' than to '{worst.groups[1]}'", names, [gap.mean for gap in shown],
        low=[low for low, _ in ends], high=[high for _, high in ends],
        highlight=[i for i, gap in enumerate(shown) if gap.key == worst.key], xlabel="question", ylabel="gap in P(yes)",
    )  # fmt: skip
    columns = ["question", "pairs", "gap in P(yes)", "root mean square over labels", "yes to each group", "answers that turn",
               "gap in log-odds", "read as yes or no"]  # fmt: skip
    claim.table("gap by question", columns, (
        [name, gap.pairs, round(gap.mean, 3), round(found.spread[gap.key], 3), " / ".join(f"{rate:.1%}" for rate in gap.rates),
         round(gap.flips, 3), round(float(gap.logits.mean()), 2) if gap.logits.size else None, round(gap.read, 3)]
        for name, gap in zip(names, shown, strict=True)
    ))  # fmt: skip
    claim.fact("questions", len(usable))
    if found.cell:
        cell = found.cell.gap
        claim.fact("clearest gap under one label", f"{cell.title}: {cell.mean:+.0%} for '{cell.groups[0]}', {cell.pairs} pairs")
    few = [gap.title for gap in every if gap.key not in found.spread]
    if few:
        claim.fact("asked of too few pairs to be judged", ", ".join(few[:10]))
    if worst.logits.size > 2:
        claim.fact("its gap in log-odds", _in_log_odds(worst.logits, claim.policy.level))


def _in_log_odds(logits: NDArray[np.float64], level: float) -> str:
    import numpy as np
    from scipy.stats import t

    error, mean = float(logits.std(ddof=1) / np.sqrt(logits.size)), float(logits.mean())
    reach = float(t.ppf((1 + level) / 2, logits.size - 1)) * error
    return f"{mean:+.2f} ({mean - reach:+.2f} to {mean + reach:+.2f})"


def against_reference(claim: Claim, trials: Trials, worst: Gap) -> None:
    """The same question (under the same label) on the reference, and the paired difference in the direction of the target's gap."""
    level = claim.policy.level
    other = next((gap for gap in gaps(trials.reference) if gap.key == worst.key), None)
    if other is not None and worst.label:
        other = next((cell for cell in other.by_label() if cell.label == worst.label), None)
    if other is None or other.cases != worst.cases:
        return
    change = (worst.values - other.values) * (1 if worst.mean >= 0 else -1)
    low, high = t_interval(change / 2, worst.cluster, level).ci
    claim.reference(abs(other.mean), absolute(other.interval(level)))
    claim.delta(float(change.mean()), (2 * low, 2 * high), sign_flip_p(change, worst.cluster.tolist()))


def evidence(trials: list[Trial], worst: Gap | None) -> list[Evidence]:
    """Pictures and answers of the pairs that are furthest apart: in the worst question, where there is one."""

    def width(trial: Trial) -> float:
        rows = [row for row in trial["asked"] if worst is None or (row[0] == worst.measures and trial.case in worst.cases)]
        return max((abs(row[3] - row[4]) for row in rows), default=0.0)

    ranked = sorted(trials, key=lambda trial: (-width(trial), trial.case))[:SHOWN]
    names = ("first picture", "second picture", "first answer", "second answer")
    return [trial.artifacts[name] for trial in ranked for name in names if name in trial.artifacts]
