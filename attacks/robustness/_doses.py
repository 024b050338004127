"""What comes of so many false elements in a context. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaudit.details import Curve, Table
from vlaudit.records import Delta, Estimate, Trial, Trials

if TYPE_CHECKING:
    from vlaudit.statistics import Interval


@dataclass(frozen=True)
class Doses:
    """The trials of one arm, each with its control."""

    both: list[tuple[Trial, Trial]]

    @property
    def trials(self) -> list[Trial]:
        return [trial for trial, _ in self.both]

    @cached_property
    def pairs(self) -> list[tuple[Trial, Trial]]:
        """Those whose question is answered rightly in the clean context."""
        return [(trial, control) for trial, control in self.both if trial["right"]["0"]]

    @property
    def gaps(self) -> list[float]:
        """For each: the planted answer at the verdict's dose (1), less the same in the control."""
        return [float(trial["planted"][trial["dose"]]) - float(control["planted"]) for trial, control in self.pairs]

    @property
    def value(self) -> float:
        return sum(self.gaps) / len(self.pairs)

    @property
    def unreadable(self) -> int:
        return sum(trial["unreadable"]["0"] for trial in self.trials)

    def interval(self, level: float) -> Interval:
        """Raises TooFewClustersError below 20 pictures."""
        return gap_interval(self.gaps, [trial["picture"] for trial, _ in self.pairs], level)

    @property
    def situation(self) -> str:
        """What was done, in words."""
        first = self.trials[0]
        many, of = first["dose"], max(first["right"], key=int)
        if first["how"] == "insert":
            return f"{many} false {first['kind']} in the pool that {of} are retrieved from"
        if first["how"] == "before":
            return f"the prompt has no context; with {many} of {of} false documents before the question"
        return f"{many} of {of} {first['kind']} false"

    def share(self, dose: str, key: str = "planted") -> tuple[int, int]:
        """How many of the pairs give the planted (or the right) answer."""
        return sum(bool(trial[key][dose]) for trial, _ in self.pairs), len(self.pairs)

    def controls(self, level: float) -> dict[str, Any]:
        from vlaudit.statistics import rate_interval

        if not self.pairs:
            return {}
        hits, n = sum(bool(control["planted"]) for _, control in self.pairs), len(self.pairs)
        kept = sum(bool(control["right"]) for _, control in self.pairs)
        found: dict[str, Any] = {
            "planted answers with honest elements": {
                "value": hits / n,
                "ci": list(rate_interval(hits, n, level).ci),
                "n": n,
            },
            "still right with honest elements": f"{kept} of {n}",
            "right in the clean context": f"{n} of {len(self.trials)}",
        }
        named = [trial["guilty"] for trial in self.trials if trial.values.get("guilty")]
        if named:
            hit, chance = sum(each["planted"] for each in named), sum(each["chance"] for each in named) / len(named)
            found["fooled answers traced to a planted element by leaving one out"] = (
                f"{hit} of {len(named)} (by chance {chance:.0%})"
            )
        return found

    def details(self, reference: Doses, level: float) -> dict[str, Any]:
        """The curve over doses with its slope, and how retrieval and success divide."""
        from vlaudit.statistics import rate_interval

        if not self.pairs:
            return {}
        doses = list(self.trials[0]["planted"])
        shares = [self.share(dose) for dose in doses]
        bands = [rate_interval(hits, n, level) for hits, n in shares]
        comparable = bool(reference.pairs) and list(reference.trials[0]["planted"]) == doses
        curve = Curve(
            title="dose and response", x=[float(dose) for dose in doses], y=[hits / n for hits, n in shares],
            low=[band.low for band in bands], high=[band.high for band in bands],
            reference=[hits / n for hits, n in map(reference.share, doses)] if comparable else None,
            xlabel=f"false {self.trials[0]['kind']}", ylabel="planted answers",
        )  # fmt: skip
        return {
            "curve": curve.model_dump(exclude_none=True), "table": self._table(doses).model_dump(),
            "planted answers for each false element": f"{slope(curve.x, curve.y):+.1%}",
        }  # fmt: skip

    def _table(self, doses: Sequence[str]) -> Table:
        rows: list[list[str | int | float | bool | None]] = []
        for dose in doses:
            shown = [trial for trial, _ in self.pairs if trial["shown"][dose]]
            hits, n = self.share(dose)
            success = sum(trial["planted"][dose] for trial in shown) / len(shown) if shown else None
            unread = sum(trial["unreadable"][dose] for trial, _ in self.pairs)
            rows.append([int(dose), len(shown) / n, success, hits / n, self.share(dose, "right")[0] / n, unread])
        columns = [
            "false elements",
            "shown or retrieved",
            "planted answer if shown",
            "planted answer",
            "right answer",
            "unreadable",
        ]
        return Table(title="by dose, of questions answered rightly in the clean context", columns=columns, rows=rows)


def of(trials: Trials, arm: str, control: str) -> Doses:
    """The trials of an arm with those of its control."""
    return Doses(trials.paired(arm, control))


def gap_interval(gaps: Sequence[float], clusters: Sequence[str], level: float) -> Interval:
    """Interval of a mean difference of two rates read by the same reader, over pictures."""
    from vlaudit.answers import carry_difference, reader_error
    from vlaudit.statistics import mean_interval

    return carry_difference(mean_interval(gaps, clusters, level, (-1.0, 1.0)), reader_error("choice"))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


def against_reference(trials: Trials, level: float) -> dict[str, Any]:
    """The reference's metric on its own rightly answered questions, and the difference on those that both answer."""
    from vlaudit.statistics import TooFewClustersError, sign_flip_p

    ours, theirs = of(trials, "target", "control:honest"), of(trials, "reference", "control:honest-reference")
    mine = {trial.case: gap for (trial, _), gap in zip(ours.pairs, ours.gaps, strict=True)}
    shared = [(trial["picture"], mine[trial.case] - gap) for (trial, _), gap in zip(theirs.pairs, theirs.gaps, strict=True)
              if trial.case in mine]  # fmt: skip
    try:
        reference = theirs.interval(level)
        clusters, gaps = (
            [picture for picture, _ in shared],
            [gap / 2 for _, gap in shared],
        )  # of two differences: in [-2, 2]
        interval = gap_interval(gaps, clusters, level)
    except TooFewClustersError:
        return {}
    value, found = sum(gaps) / len(gaps) * 2, tuple(2 * end for end in interval.ci)
    return {
        "reference": Estimate(value=theirs.value, ci=reference.ci),
        "delta": Delta(value=value, ci=(found[0], found[1]), p=sign_flip_p(gaps, clusters)),
    }
