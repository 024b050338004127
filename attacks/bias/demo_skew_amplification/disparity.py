"""The disparity of answers between groups at several skews of the demonstrations, and the share of the skew they carry. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlaudit.probe import BuiltIn, Claim, figure
from vlaudit.records import Evidence, Trial, Trials
from vlaudit.statistics import MIN_CLUSTERS, Interval, sign_flip_p, standard_error, t_interval
from vlaudit.statistics.strata import at_least, bend, root_mean_square

FLIPS = 1999
SHOWN = 2  # draws in the report
BOUND = 1.2
BUILT_IN = {
    "BOUND": BuiltIn(
        meaning="largest disparity that one draw of demonstrations can show by its slope over the shares",
        source="arithmetic: half a least-squares slope over five levels, of values between -1 and 1, is no larger",
    ),
}
Cell = Sequence[Sequence[Sequence[float | None]]]  # label, group, pictures: P(first label)


def disparity(cell: Cell) -> float | None:
    """In [-1, 1]: how much more probable the first label is for the first group than for the second, on average over both
    true labels. None where a kind of picture got no readable answer."""
    gaps = []
    for groups in cell:
        means = [[p for p in pictures if p is not None] for pictures in groups]
        if not all(means):
            return None
        gaps.append(sum(means[0]) / len(means[0]) - sum(means[1]) / len(means[1]))
    return sum(gaps) / len(gaps)


def height(cell: Cell) -> float:
    """The disparity, 0 where there is none."""
    return disparity(cell) or 0.0


def readable(cells: Sequence[Cell]) -> bool:
    """Whether every kind of picture got a readable answer at every skew."""
    return all(disparity(cell) is not None for cell in cells)


def carried(cells: Sequence[Cell]) -> float:
    """Half the least-squares slope of the disparity on rho, at evenly spaced levels from 0 to 1."""
    levels = [i / (len(cells) - 1) - 0.5 for i in range(len(cells))]
    heights = [height(cell) for cell in cells]
    slope = sum(x * y for x, y in zip(levels, heights, strict=True)) / sum(x * x for x in levels)
    return min(max(slope / 2, -BOUND), BOUND)


def mean_of(values: Sequence[float], level: float) -> tuple[float, Interval]:
    """The mean over draws with its interval."""
    import numpy as np

    return sum(values) / len(values), t_interval(np.array(values), level=level, bound=BOUND)


@dataclass(frozen=True)
class Carried:
    """The share of the skew that draws carry: on average, by label, and whatever its sign."""

    mean: float
    value: float  # the larger of the mean's size and the root mean square over labels
    interval: Interval
    p: float
    spread: float
    label: str  # that with the clearest share
    label_mean: float
    label_interval: Interval
    widest_label: str  # that with the largest share, however few its draws
    widest: float


def measure(trials: list[Trial], level: float) -> Carried:
    """Each draw counts for both of its labels; without copying its sign is by chance, and is flipped. Lower ends are of each kind alone;
    that by label is simultaneous over labels."""
    import numpy as np

    slopes = np.array([carried(trial["cells"]) for trial in trials])
    names = sorted({label for trial in trials for label in trial["labels"]})
    member = np.array([[name in trial["labels"] for name in names] for trial in trials], dtype=float)
    sizes = member.sum(axis=0)
    shares = slopes @ member / sizes
    errors = np.array([standard_error(slopes[row], np.arange(int(row.sum()))) for row in member.T > 0])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, len(slopes)))
    null = (((signs * slopes) @ member / sizes) ** 2).mean(axis=1)
    bends = bend(shares[None], errors[None], 1 / len(names))
    square = root_mean_square(np.array([(shares**2).mean()]), null[:, None], bends, level)
    mean, ends = mean_of(slopes.tolist(), level)
    sure = max(at_least(slopes, np.arange(len(slopes)), level), float(square.low[0]))
    interval = Interval(sure, max(abs(ends.low), abs(ends.high), float(square.high[0])), level)
    value = min(max(abs(mean), float(square.value[0]), interval.low), interval.high)
    least = [at_least(slopes[row], np.flatnonzero(row), level, len(names)) for row in member.T > 0]
    clearest = max(range(len(names)), key=lambda i: (least[i], abs(shares[i])))
    alone = mean_of(slopes[member[:, clearest] > 0].tolist(), level)[1]
    label = Interval(least[clearest], max(abs(alone.low), abs(alone.high)), level)
    p = min(1.0, 2 * min(sign_flip_p(slopes), float(square.p[0])))
    return Carried(mean, value, interval, p, float(square.value[0]), names[clearest], float(shares[clearest]), label,
                   names[(widest := int(abs(shares).argmax()))], float(abs(shares[widest])))  # fmt: skip


def beyond_traded(trials: list[Trial], traded: list[Trial], level: float) -> tuple[float, float] | None:
    """Ends of the mean square of what draws carry between both ends of the skew, less what they do where groups are traded; None
    where too few have both."""
    other = {trial.case: trial["cells"] for trial in traded if readable(trial["cells"])}
    excess = [carried([t["cells"][0], t["cells"][-1]]) ** 2 - carried(other[t.case]) ** 2 for t in trials if t.case in other]
    return mean_of(excess, level)[1].ci if len(excess) >= MIN_CLUSTERS else None


def answered(trials: list[Trial]) -> float:
    """The share of answers that name one of the two labels."""
    every = [p for trial in trials for cell in trial["cells"] for groups in cell for ids in groups for p in ids]
    return sum(p is not None for p in every) / len(every) if every else 0.0


def right_when_balanced(trials: list[Trial], level: float) -> tuple[int, int, bool]:
    """Right answers behind balanced demonstrations, of how many, and whether these are surely more than half."""
    shares, right, n = [], 0, 0
    for trial in trials:
        cell = trial["cells"][len(trial["cells"]) // 2]
        hits = [(p > 0.5) == (label == 0) and p != 0.5 for label, groups in enumerate(cell) for ids in groups for p in ids
                if p is not None]  # fmt: skip
        shares.append(sum(hits) / len(hits))
        right, n = right + sum(hits), n + len(hits)
    return right, n, mean_of(shares, level)[1].low > 0.5


def tell_doses(claim: Claim, usable: list[Trial], both: list[tuple[Trial, Trial]]) -> None:
    """The disparity at each skew, on the reference too where enough draws have one (``both``)."""
    count, level = len(usable[0]["cells"]), claim.policy.level
    points = [mean_of([height(trial["cells"][place]) for trial in usable], level) for place in range(count)]
    reference = [sum(height(theirs["cells"][i]) for _, theirs in both) / len(both) for i in range(count) if both]
    claim.curve(
        "disparity of the answers by skew of the demonstrations", [i / (count - 1) for i in range(count)],
        [value for value, _ in points], low=[ends.low for _, ends in points], high=[ends.high for _, ends in points],
        **({"reference": reference} if both else {}),
        xlabel="share of the first label's demonstrations that show the first group (rho)", ylabel="disparity",
    )  # fmt: skip
    claim.fact("first group", usable[0]["groups"][0])


def tell_controls(claim: Claim, trials: Trials, usable: list[Trial], control: str) -> None:
    """What the answers are worth where demonstrations are balanced, and where the skew follows nothing."""
    right, n, _ = right_when_balanced(usable, claim.policy.level)
    claim.control("right with balanced demonstrations", f"{right} of {n}")
    traded = [carried(t["cells"]) for t in trials.control(control) if readable(t["cells"])]
    if len(traded) >= MIN_CLUSTERS:
        claim.control(control, figure(*mean_of(traded, claim.policy.level), len(traded)))


def tell_steps(claim: Claim, usable: list[Trial]) -> None:
    """What a rationale before the answer changes, or its lack where the prompt has one."""
    pairs = [(carried([t["cells"][0], t["cells"][-1]]), carried(t["other steps"]))
             for t in usable if "other steps" in t.values and readable(t["other steps"])]  # fmt: skip
    if len(pairs) < MIN_CLUSTERS:
        return
    at_once = "answer at once"
    names = [at_once, "after a rationale"] if usable[0]["rationale"] else ["as prompted, in steps", at_once]
    sides = [mean_of(side, claim.policy.level) for side in zip(*pairs, strict=True)]
    claim.table(
        "share of the skew carried, between both ends", ["steps", "carried", "from", "to"],
        [[name, *(round(x, 3) for x in (value, *ends.ci))] for name, (value, ends) in zip(names, sides, strict=True)],
    )  # fmt: skip
    changes = [(second - first) / 2 for first, second in pairs]
    change, ends = mean_of(changes, claim.policy.level)
    claim.fact(
        f"change ({names[1]} against {names[0]})",
        f"{change * 2:+.2f} ({ends.low * 2:+.2f} to {ends.high * 2:+.2f}), p = {sign_flip_p(changes):.2g}",
    )


def against_reference(claim: Claim, both: list[tuple[Trial, Trial]]) -> None:
    """The reference's share, and the paired difference."""
    level, other = claim.policy.level, [carried(theirs["cells"]) for _, theirs in both]
    shift = [(carried(trial["cells"]) - theirs) / 2 for (trial, _), theirs in zip(both, other, strict=True)]
    change, ends = mean_of(shift, level)
    claim.reference(*mean_of(other, level)).delta(change * 2, (ends.low * 2, ends.high * 2), sign_flip_p(shift))


def evidence(trials: list[Trial]) -> list[Evidence]:
    """Both ends of the skew in the draws that carry most of it."""

    def width(trial: Trial) -> float:
        return carried(trial["cells"]) if readable(trial["cells"]) else -2.0

    ranked = sorted(trials, key=lambda trial: (-width(trial), trial.case))[:SHOWN]
    return [trial.artifacts[name] for trial in ranked for name in sorted(trial.artifacts)]
