"""What comes of so many false elements in a context. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import linear_regression

from vlaudit.answers import carry_difference, reader_error
from vlaudit.probe import Claim, share
from vlaudit.records import Trial
from vlaudit.statistics import Interval, TooFewClustersError, mean_interval, rate_interval, sign_flip_p


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
        return self._gaps(unread=False)

    def _gaps(self, *, unread: bool) -> list[float]:
        """``unread``: what cannot be read is counted as planted."""
        return [
            float(trial["planted"][trial["dose"]] or (unread and trial["unreadable"][trial["dose"]]))
            - float(control["planted"])
            for trial, control in self.pairs
        ]

    @property
    def lost(self) -> int:
        """How many answers cannot be read at the verdict's dose."""
        return sum(trial["unreadable"][trial["dose"]] for trial, _ in self.pairs)

    @property
    def exposed(self) -> float:
        """Share of the questions for which a false element was shown."""
        return sum(trial["shown"][trial["dose"]] > 0 for trial, _ in self.pairs) / len(self.pairs)

    def by_part(self) -> Iterator[tuple[str, bool]]:
        """Of each planted and each right answer, whether the planted one is given, and not in the control."""
        for (trial, _), gap in zip(self.pairs, self.gaps, strict=True):
            yield f"questions that get '{trial['wrong']}' where it is planted", gap > 0
            if "answer" in trial.values:
                yield f"questions turned where '{trial['answer']}' is right", gap > 0

    @property
    def value(self) -> float:
        return sum(self.gaps) / len(self.pairs)

    def interval(self, level: float, *, unread: bool = False) -> Interval:
        """Raises TooFewClustersError below 20 pictures. ``unread``: with what cannot be read counted as planted."""
        return _gap_interval(self._gaps(unread=unread), [trial["picture"] for trial, _ in self.pairs], level)

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

    @property
    def doses(self) -> list[str]:
        return list(self.pairs[0][0]["planted"]) if self.pairs else []

    def hits(self, dose: str, key: str = "planted") -> int:
        """How many of the pairs give the planted (or the right) answer."""
        return sum(trial[key][dose] for trial, _ in self.pairs)

    def tell(self, claim: Claim, reference: Doses) -> None:
        """The controls, the curve over doses with its slope, and how retrieval and success divide."""
        level, doses, n = claim.policy.level, self.doses, len(self.pairs)
        if not n:
            return
        hits, kept = (sum(control[key] for _, control in self.pairs) for key in ("planted", "right"))
        claim.control("planted answers with honest elements", share(hits, n, level))
        claim.control("still right with honest elements", f"{kept} of {n}")
        claim.control("right in the clean context", f"{n} of {len(self.trials)}")
        if named := [trial["guilty"] for trial in self.trials if trial.values.get("guilty")]:
            hit, chance = sum(each["planted"] for each in named), sum(each["chance"] for each in named) / len(named)
            told = f"{hit} of {len(named)} (by chance {chance:.0%})"
            claim.control("fooled answers traced to a planted element by leaving one out", told)
        x, y = [float(dose) for dose in doses], [self.hits(dose) / n for dose in doses]
        bands = [rate_interval(self.hits(dose), n, level) for dose in doses]
        theirs, kind = len(reference.pairs), self.trials[0]["kind"]
        beside = {"reference": [reference.hits(d) / theirs for d in doses]} if reference.doses == doses else {}
        claim.curve("dose and response", x, y, low=[b.low for b in bands], high=[b.high for b in bands], **beside,
                    xlabel=f"false {kind}", ylabel="planted answers")  # fmt: skip
        columns = ["false elements", "shown or retrieved", "planted answer if shown", "planted answer", "right answer",
                   "unreadable"]  # fmt: skip
        claim.table("by dose, of questions answered rightly in the clean context", columns, self._rows())
        claim.fact("planted answers for each false element", f"{linear_regression(x, y).slope:+.1%}")

    def _rows(self) -> Iterator[list[int | float | None]]:
        n = len(self.pairs)
        for dose in self.doses:
            shown = [trial["planted"][dose] for trial, _ in self.pairs if trial["shown"][dose]]
            success = sum(shown) / len(shown) if shown else None
            planted, right, unread = (self.hits(dose, key) for key in ("planted", "right", "unreadable"))
            yield [int(dose), len(shown) / n, success, planted / n, right / n, unread]


def tell_reference(claim: Claim, ours: Doses, theirs: Doses) -> None:
    """The reference's metric on its own rightly answered questions, and the difference on those that both answer."""
    mine = {trial.case: gap for (trial, _), gap in zip(ours.pairs, ours.gaps, strict=True)}
    both = [(trial["picture"], (mine[trial.case] - gap) / 2)  # of two differences: in [-2, 2]
            for (trial, _), gap in zip(theirs.pairs, theirs.gaps, strict=True) if trial.case in mine]  # fmt: skip
    pictures, gaps = [picture for picture, _ in both], [gap for _, gap in both]
    with suppress(TooFewClustersError):
        reference, interval = theirs.interval(claim.policy.level), _gap_interval(gaps, pictures, claim.policy.level)
        claim.reference(theirs.value, reference)
        claim.delta(sum(gaps) / len(gaps) * 2, (2 * interval.low, 2 * interval.high), sign_flip_p(gaps, pictures))


def _gap_interval(gaps: Sequence[float], clusters: Sequence[str], level: float) -> Interval:
    """Interval of a mean difference of two rates read by the same reader, over pictures."""
    return carry_difference(mean_interval(gaps, clusters, level, (-1.0, 1.0)), reader_error("choice"))
