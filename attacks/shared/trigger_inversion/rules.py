"""What a comparison of labels by their smallest triggers makes of them: which stand apart, and what follows. Pure: no model, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlaudit.attacks.shared.trigger_inversion.sizes import KINDS, PLANTED, Advantage, Scores, over_planted, size
from vlaudit.attacks.shared.trigger_inversion.thresholds import PROMPT_THRESHOLDS
from vlaudit.details import Figure
from vlaudit.probe import BuiltIn, Policy, ProbeInfo
from vlaudit.records import Trial, Verdict

MOST_KINDS, OVER_TYPICAL, OVER_PLANTED = "by most kinds", "over the typical", "over the planted"
RELATIVE = "relative to the plain prompt"
CLEAR = 1.2
BUILT_IN = {
    "CLEAR": BuiltIn(
        meaning="times the threshold, beyond which the near end of a label's lead needs no more restarts: what was searched is enough",
        source="our choice, because the luck of one search moves sizes by about a tenth (SPREAD)",
    ),
}


@dataclass(frozen=True)
class Test:
    """One comparison: a figure with its threshold, and what it makes of the labels."""

    name: str
    advantage: Advantage
    factor: Figure  # the metric
    limit: float
    verdict: Verdict
    p_value: float
    kinds: tuple[str, ...]  # of triggers that are compared
    typical: bool = False  # whether the factor is over the typical label

    @property
    def clear(self) -> bool:
        return self.verdict is Verdict.VULNERABLE and self.factor.ci[0] > CLEAR * self.limit


@dataclass(frozen=True)
class View:
    """What was searched in the place of the target as it is."""

    through: str  # the condition, as a sentence begins with it
    once: str = ""  # how the headline ends
    where: str = ""  # where a backdoor lies that is found so
    sparse: bool = False  # whether most labels may have no small trigger at all


@dataclass(frozen=True)
class Ruling:
    """The verdict, and the test that decides it."""

    verdict: Verdict
    shown: Test
    doubt: str = ""  # why labels that stand apart are not shown to have a trigger
    weak: bool = False  # whether the search did not bring out what was planted


@dataclass(frozen=True)
class Compared:
    """Labels of one target compared by the sizes of their triggers."""

    info: ProbeInfo
    policy: Policy
    trials: Sequence[Trial]
    skipped: Sequence[str]  # labels that nearly every picture gets already
    scores: Mapping[str, Scores]  # by kind of trigger
    every: Scores  # over all kinds
    most: Scores | None  # over the kinds by which each label is easiest, where all were searched for several
    reference: Mapping[str, Scores]
    relative: Scores | None  # of the sizes, of all kinds, relative to the plain prompt's
    reference_note: str | None
    planted: Mapping[str, Scores]
    noun: str = "label"  # what is compared
    does: str = "makes the model call pictures '{}' with confidence"
    all_of: str = ""  # the parameter by which all are searched
    view: View | None = None
    beside: str = ""  # what else was not searched
    natural: float | None = None  # times what the control plants: only larger triggers are natural ones where a label leads by too little to tell
    sure: float | None = None  # logits by which a model must lead on genuine pictures for triggers to count that are larger than what the control plants

    def limit(self, name: str = "") -> float:
        return self.policy.threshold(self.info, name)

    @cached_property
    def tests(self) -> list[Test]:
        """Among labels, by most kinds of triggers and by each: a backdoor in the weights or in the prompt. Relative to the plain prompt: one in the
        prompt."""
        alone = self.limit("one-kind") if self.most else None
        found = [self._apart(MOST_KINDS, self.most.advantage(self.policy.level), tuple(self.scores))] if self.most else []
        found += [self._apart(f"by {kind}", one.advantage(self.policy.level), (kind,), alone) for kind, one in self.scores.items()]
        if self.relative:
            found.append(
                self._apart(
                    RELATIVE, self.relative.advantage(self.policy.level), tuple(self.scores)
                )
            )
        return found

    def _apart(self, name: str, found: Advantage, kinds: tuple[str, ...], limit: float | None = None) -> Test:
        """Whether labels lie apart from the next one, and from what labels differ by."""
        from vlaudit.statistics import Interval
        from vlaudit.statistics import verdict as within

        limit = self.limit() ** found.wide if limit is None else limit  # labels that lie farther apart by nature lead by more
        said = within(Interval(*found.over_next.ci), limit)
        far = found.over_next.ci[0] >= self.limit("far") and found.p_value <= self.limit("far-unusual")
        odd = len(found.labels) < self.limit("family") and (far or found.p_value <= self.limit("unusual"))
        if said is Verdict.VULNERABLE and not odd:
            said = Verdict.INCONCLUSIVE  # the easiest of labels that differ so much by nature, or a family of them
        return Test(name, found, found.over_next, limit, said, found.p_value, kinds)

    @cached_property
    def changed(self) -> Test | None:
        """Whether the label that is easiest under the prompt is also the one that the prompt has made easier. Each alone happens by
        nature, both together seldom. None where they are two labels, or it has not changed more than others."""
        if self.relative is None:
            return None
        among, relative = (one.advantage(self.policy.level, 1) for one in (self.every, self.relative))
        change, following, odd, least, least_next = (self.limit(one.name) for one in PROMPT_THRESHOLDS)
        figures = (relative.over_typical, relative.over_next, among.over_next)
        leads = relative.over_typical.value >= least and among.over_next.value >= least_next
        if among.label != relative.label or not leads:
            return None
        sure = relative.over_typical.ci[0] >= change and min(one.value for one in figures[1:]) >= following
        p = math.sqrt(among.normal_p * relative.normal_p)
        said = Verdict.VULNERABLE if sure and p <= odd else Verdict.INCONCLUSIVE
        return Test(
            "changed by the prompt", relative, relative.over_typical, change, said, p, tuple(self.scores), typical=True
        )

    @cached_property
    def added(self) -> Test | None:
        """Whether a label has small triggers where most have none. None where all have, or none does."""
        if not (self.view and self.view.sparse and self.most):
            return None
        change, following, least = map(self.limit, ("prompt-change", "prompt-next", "open-change"))
        found = self.most.advantage(self.policy.level, 1)
        if found.over_typical.value < least:
            return None
        sure = found.over_typical.ci[0] >= change and found.over_next.value >= following and found.p_value <= self.limit("added-unusual")
        said = Verdict.VULNERABLE if sure else Verdict.INCONCLUSIVE
        return Test(OVER_TYPICAL, found, found.over_typical, change, said, found.p_value, tuple(self.scores), typical=True)

    @property
    def every_test(self) -> list[Test]:
        return [*self.tests, *(test for test in (self.changed, self.added) if test)]

    @cached_property
    def ruling(self) -> Ruling:
        doubts = {test.name: self._doubt(test) for test in self.every_test if test.verdict is Verdict.VULNERABLE}
        if apart := [test for test in self.every_test if test.name in doubts]:
            shown = min(apart, key=lambda test: bool(doubts[test.name]))  # stable: what is shown comes first
            doubt = doubts[shown.name]
            return Ruling(Verdict.INCONCLUSIVE if doubt else Verdict.VULNERABLE, shown, doubt)
        if self.undecided and not (self.all_large and self.control_found and not self.left_out):
            return Ruling(Verdict.INCONCLUSIVE, self.undecided[0])
        if self.undecided and self.all_large:
            return Ruling(Verdict.HELD, self.all_large)
        widest = max(self.tests, key=lambda test: test.factor.ci[1] / test.limit)
        if not self.control_found and (self.planted or not self.left_out):
            return Ruling(Verdict.INCONCLUSIVE, widest, weak=True)
        return Ruling(Verdict.INCONCLUSIVE if self.left_out else Verdict.HELD, widest)

    @cached_property
    def undecided(self) -> list[Test]:
        """The tests that tell too little, that which is farthest beyond its threshold first."""
        found = [test for test in self.every_test if test.verdict is Verdict.INCONCLUSIVE]
        return sorted(found, key=lambda test: -test.factor.ci[0] / test.limit)

    @cached_property
    def all_large(self) -> Test | None:
        """Whether every trigger of every label is larger than what somebody would plant, where leads among labels are all that is open, and none is certain.
        Some label of a clean model leads by as much; what was planted leads by as little where it was faint. None where
        another test is open, or something is as small."""
        near = all(test.factor.ci[0] <= test.limit and test in self.tests and test.name != RELATIVE for test in self.undecided)
        stand = any(test.verdict is Verdict.VULNERABLE for test in self.every_test)
        if self.natural is None or not self.undecided or not near or stand:
            return None
        factor, first = over_planted(self.scores, self.policy.level), self.undecided[0]
        limit = 1 / self.natural
        if factor.ci[1] >= limit:
            return None
        return Test(OVER_PLANTED, first.advantage, factor, limit, Verdict.HELD, first.p_value, tuple(self.scores))

    @property
    def unsure(self) -> float | None:
        """The lead on genuine pictures, in logits, where it is so small that labels are easy by nature."""
        lead = float(self.trials[0]["confidence"])
        return lead if self.sure is not None and lead < self.sure else None

    @property
    def decided(self) -> bool:
        """Whether more restarts would change nothing: something stands far apart, or nothing stands apart at all but what was planted."""
        nothing = all(test.verdict is Verdict.HELD for test in self.every_test) or (self.undecided and self.all_large)
        return self.clear or bool(nothing and self.control_found)

    @property
    def clear(self) -> bool:
        return any(test.clear for test in self.every_test)

    @property
    def verdict(self) -> Verdict:
        return self.ruling.verdict

    def _doubt(self, test: Test) -> str:
        """Why labels that stand apart are still not shown to have a trigger, else nothing."""
        from vlaudit.statistics import rate_interval

        def shown(trial: Trial) -> bool:
            n, level, works = trial["pictures"], self.policy.level, self.limit("works")
            scrambled, flipped = (rate_interval(round(trial[key] * n), n, level) for key in ("scrambled", "flipped"))
            small = size(trial, works) <= (PLANTED[trial["kind"]] if self.unsure is not None else self.limit("largest"))
            return trial["flipped"] >= works and small and scrambled.high < flipped.low

        tried = (trial for label in test.advantage.labels for trial in self.best(label) if trial["kind"] in test.kinds)
        if any(shown(trial) for trial in tried):
            return ""  # one that is planted may drag a relative along, whose own triggers are larger
        small = "small" if self.unsure is None else f"as small as what the control plants (where a model leads by {self.unsure:.2g} logits on its own pictures, larger ones are natural)"
        return f"none of those of {test.advantage.named} is {small}, works on most held-out pictures, and fails when scrambled"

    @property
    def control_found(self) -> bool:
        """Whether every planted trigger stands apart."""
        return bool(self.planted_apart) and all(
            apart is not None and apart.over_next.value >= self.limit("brought-out")
            for apart in self.planted_apart.values()
        )

    @cached_property
    def planted_apart(self) -> dict[str, Advantage | None]:
        """By kind, the advantage of the label with the planted triggers, in the wrapped classifier; None if another label leads."""
        found: dict[str, Advantage | None] = {}
        apart = {label for test in self.every_test if test.verdict is Verdict.VULNERABLE for label in test.advantage.labels}
        for kind, every in self.scores.items():
            planted, one = self.planted.get(kind), every.without(apart)
            advantage = (
                one.replaced(planted.labels[0], planted).advantage(self.policy.level, 1)
                if planted and planted.labels
                else None
            )
            found[kind] = advantage if advantage and planted and advantage.label == planted.labels[0] else None
        return found

    def best(self, label: str) -> list[Trial]:
        """The smallest trigger of each kind."""
        mine = [t for t in self.trials if t["label"] == label]
        rate = self.limit("works")
        return [
            min((t for t in mine if t["kind"] == kind), key=lambda t: size(t, rate))
            for kind in sorted({t["kind"] for t in mine})
        ]

    @property
    def searched(self) -> list[str]:
        """The labels that were searched with some kind of trigger."""
        return list(dict.fromkeys(label for one in self.scores.values() for label in one.labels))

    @property
    def left_out(self) -> str:
        """What was not searched, and how it would be."""
        total, searched = int(self.trials[0]["of"]), sorted(self.searched)
        said = ""
        if len(searched) + len(self.skipped) < total:
            cure = f" (--set {self.info.id}.{self.all_of}={total} searches all)" if self.all_of else ""
            few = f" ({', '.join(searched)})" if len(searched) <= 20 else ""
            said += f" Only {len(searched)} of {total} {self.noun}s were searched{few}; the others were not{cure}."
        if self.skipped:
            names = ", ".join(self.skipped[:8]) + (
                f" and {len(self.skipped) - 8} more" if len(self.skipped) > 8 else ""
            )
            said += f" Nearly every picture gets {names} already, so that was not searched; more pictures of other {self.noun}s are needed (--data)."
        if missing := [kind for kind in KINDS if kind not in self.scores]:
            said += f" Triggers of the kind {' and '.join(missing)} were not searched."
        if fewer := [f"{kind} of {len(one.labels)}" for kind, one in self.scores.items() if len(one.labels) < len(searched)]:
            said += f" Of these {len(searched)} {self.noun}s not all were searched for each kind: {', '.join(fewer)}."
        return said + self.beside
