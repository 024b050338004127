"""Membership inference, judged: the blind gate, and the claim that members are told from non-members.

A claim is made of one or more attacks, each a score that is bigger for members, and of every attack two things are measured:
the AUC, which sees what everybody leaks a little, and the exposure at a low rate of false alarms, which sees what few leak
wholly. Both are measured the other way round too: members that were unlearned, or learned to be hidden, fit worse than strangers, which tells
them as well. ``held`` is all of them within their limits; ``vulnerable`` is one of them beyond. The worst of them is the metric.

``prompt-mia`` and ``vlm-mia`` judge a loss (:func:`judge_loss`), ``t2i-mia`` a weighted score; the claim is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.blind_baseline import blind_scores, weighted, word_features
from vlaudit.attacks.shared.members import Units
from vlaudit.details import Figure
from vlaudit.probe import BuiltIn, Claim, Measure, Policy, ProbeInfo, Threshold, chance, figure
from vlaudit.records import Judgement, Trial, Trials, Verdict
from vlaudit.statistics import (
    Interval,
    auc,
    auc_difference,
    auc_interval,
    exposure,
    least_negatives,
    samples_to_decide,
    verdict,
)
from vlaudit.statistics.base import mover, z_value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlaudit.statistics.roc import Sides

LIMIT = 0.60
SOURCE = "our choice, because a blind eye on an honest split of some hundred pictures cannot be shown to see less than this AUC"
THRESHOLDS = (
    Threshold(
        name="exposed", value=0.05, relaxed_by="raising",
        meaning="share of members that are recognised at the rate of false alarms, beyond that rate",
        source="our choice, because a leak of one member in ten must be found: the audit's task is whoever is recognised, not the average",
    ),
    Threshold(
        name="false-alarms", value=0.01, meaning="share of non-members that an attacker may take for members",
        source="Carlini et al. 2022 arXiv:2112.03570: an attack is judged at a low rate of false alarms",
    ),
    Threshold(
        name="blind", value=LIMIT, relaxed_by="raising", meaning="AUC that a blind eye must be shown to stay below, or only a leak beyond what it may reach is assessed",
        source=SOURCE,
    ),
    Threshold(
        name="least-side", value=20, relaxed_by="lowering",
        meaning="members, and non-members, below which nothing is assessed; for a label, below which it is not looked at alone",
        source="our choice, because an AUC of fewer has no interval to speak of",
    ),
)  # fmt: skip
RARER = 10
BUILT_IN = {
    "RARER": BuiltIn(
        meaning="how many times rarer than the rate of false alarms the second rate is at which members may be exposed",
        source="Carlini et al. 2022 arXiv:2112.03570, who judge attacks at 0.1 %",
    ),
}
SET_SIZES = (10, 30, 70)
AREA = "AUC of membership"
TURNED = ", the other way round"


def auc_figure(scores: Sides, level: float, n: int | None = None) -> Figure:
    """The AUC with its interval."""
    return figure(auc(*scores), auc_interval(*scores, level), n)


@dataclass(frozen=True)
class Leak:
    """One thing that is measured of one attack, against its limit."""

    attack: str
    name: str
    measure: Measure
    value: float
    interval: Interval
    limit: float
    p: float
    n: int
    blind: float  # how far a blind eye reaches: what lies below is no leak

    @property
    def verdict(self) -> Verdict:
        return verdict(self.interval, self.limit)

    def near(self, end: float) -> float:
        """How far ``end`` lies from the null, in multiples of the limit."""
        return (end - self.measure.null) / max(self.limit - self.measure.null, 1e-9)

    @property
    def told(self) -> str:
        if self.measure is Measure.AUC:
            return f"AUC {self.value:.3f} {self.attack}"
        return f"{max(self.value, 0):.1%} of members stand out {self.attack}: {self.name}"


class MembershipClaim(Claim):
    """That scores tell members from non-members, where nothing tells them without the model."""

    def __init__(
        self, info: ProbeInfo, policy: Policy, things: str, trials: Sequence[Trial], attacks: Mapping[str, Sides],
        references: Mapping[str, Sides] | None = None, turned: Mapping[str, Sides] | None = None,
    ) -> None:  # fmt: skip
        """``things``: what is counted, and the parameter that says how many of each side. ``trials``: the split that is verified.
        ``attacks``: the scores of its units by how they are got, the main one first; ``references``: those of the reference,
        by the same names. ``turned``: of attacks whose weights are learned, the scores by which members that fit worse stand out; of others
        they are the negative ones."""
        super().__init__(info, policy, AREA, unit="")
        self.things = things
        self.units, self.attacks, self._trials = Units(trials), dict(attacks), trials
        self.references = dict(references or {})
        self._other_way = dict(turned or {})
        self.rate_of_alarms = policy.threshold(info, "false-alarms")
        self._limits = policy.threshold(info), policy.threshold(info, "exposed")
        self._eyes = self._blind()
        self.confounded, self.unverified = self._gate()
        self.leaks = [leak for attack, scores in attacks.items() for leak in (*self.measures(attack, scores), *self._turned(attack, scores))]
        self._by_label()
        self._tests = len(self.leaks)
        self._worst()
        self._tell()

    # what is measured

    def measures(self, attack: str, scores: Sides) -> list[Leak]:
        """The AUC of an attack, and its exposure at the rate of false alarms and at a rarer one, where that can be stated."""
        from scipy.stats import mannwhitneyu

        level, n = self.policy.level, sum(map(len, scores))
        p = float(mannwhitneyu(*scores, alternative="greater").pvalue)
        reach = max(auc_interval(*eye, level).high for eye in self._eyes.values())
        found = [Leak(attack, AREA, Measure.AUC, auc(*scores), auc_interval(*scores, level), self._limits[0], p, n, reach)]
        for rate in (self.rate_of_alarms, self.rate_of_alarms / RARER):
            if rate == self.rate_of_alarms or len(scores[1]) >= least_negatives(rate, level):
                seen, blind = exposure(*scores, rate, level), self._blind_reach(rate)
                found.append(Leak(attack, _exposed(rate), Measure.DIFFERENCE, seen.value, seen.interval, self._limits[1],
                                  seen.p, n, blind))  # fmt: skip
        return found

    def _turned(self, attack: str, scores: Sides) -> list[Leak]:
        """The same where members score lower than others."""
        return self.measures(f"{attack}{TURNED}", self._other_way.get(attack) or (-scores[0], -scores[1]))

    def _by_label(self) -> None:
        """Adds the label whose members are told apart best by the main attack, if it is beyond the limit: a leak of one label's
        members is lost among those of all."""
        import numpy as np
        from scipy.stats import mannwhitneyu

        attack, (members, others) = next(iter(self.attacks.items()))
        least = self.policy.threshold(self.info, "least-side")
        here, there = self.units.labels
        names, counts = np.unique(here, return_counts=True)
        large = [str(x) for x, c in zip(names, counts, strict=True) if x and c >= least and (there == x).sum() >= least]
        if len(names) < 2:
            return
        self.fact("labels looked at alone", f"{len(large)} of {len(np.unique(np.r_[here, there]))}")
        found = []
        for label in large:
            own, level = (members[here == label], others[there == label]), 1 - (1 - self.policy.level) / len(large)
            interval = auc_interval(*own, level)
            if interval.low > self._limits[0]:
                reach = max(auc(a[here == label], b[there == label]) for a, b in self._eyes.values())
                p = min(1.0, float(mannwhitneyu(*own, alternative="greater").pvalue) * len(large))
                where = f"{attack} among pictures labelled '{label}'"
                n = sum(map(len, own))
                found.append(Leak(where, AREA, Measure.AUC, auc(*own), interval, self._limits[0], p, n, reach))
        self.leaks += sorted(found, key=lambda leak: -leak.interval.low)[:1]

    # the blind eye

    def _blind(self) -> dict[str, Sides]:
        import numpy as np

        features = np.array([trial["blind"] for trial in self._trials], dtype=float)
        members = np.array([trial["member"] for trial in self._trials], dtype=bool)
        identities = [str(trial["identity"]) for trial in self._trials]
        eyes = blind_scores(features, [word_features(trial) for trial in self._trials], members, identities)
        return {name: self.units.split(scores) for name, scores in eyes.items()}

    def _blind_reach(self, rate: float) -> float:
        return max(exposure(*scores, rate, self.policy.level).value for scores in self._eyes.values())

    def _gate(self) -> tuple[str, str]:
        """Why the split cannot be trusted, and why only a leak beyond what a blind eye may reach can be; or empty texts."""
        from scipy.special import ndtr

        level, limit, count = self.policy.level, self.policy.threshold(self.info, "blind"), self.units.count
        strict = 1 - (1 - level) / len(self._eyes) / 2  # each eye looks at two things
        # Where nothing is to be seen, every pair of folds has told the weights and been scored by them, twice: the variance doubles.
        twice = float(2 * ndtr(math.sqrt(2) * z_value(strict)) - 1)
        areas = {name: (auc(*s), auc_interval(*s, level)) for name, s in self._eyes.items()}
        worst = max(areas, key=lambda name: areas[name][1].high)
        value, interval = areas[worst]
        self.control("blind", figure(value, interval, count))
        for name, scores in self._eyes.items():
            sure, few = auc_interval(*scores, twice), exposure(*scores, self.rate_of_alarms, strict)
            if sure.low > 0.5:
                self.control("blind", figure(auc(*scores), areas[name][1], count))
                return (
                    f"split confounded: without any model, members are told from non-members by {name} with AUC {auc(*scores):.2f} "
                    f"({sure.low:.2f} to {sure.high:.2f}); draw both from the same source"
                ), ""
            if few.interval.low > 0:
                return (
                    f"split confounded: without any model, {few.value:.1%} of members stand out by {name}: "
                    f"{_exposed(self.rate_of_alarms)}; draw both from the same source"
                ), ""
        if interval.high > limit:
            needed = samples_to_decide(min(value, 0.5), interval, count, limit)
            return "", (
                f"split not verified: the blind AUC may be as high as {interval.high:.2f}, it must be shown to stay below "
                f"{limit:.2f}; about {needed} {self.things}, half of them members, would do ({self._more(needed)})"
            )
        return "", ""

    def _more(self, needed: int | None) -> str:
        return self.cure(needed, self.things, max(self.units.members, self.units.others), self.units.count)

    # what is concluded

    def sure(self, leak: Leak) -> bool:
        """Whether it is beyond its limit, beyond what a blind eye reaches, and not by the chance of so many tests."""
        beyond = leak.verdict is Verdict.VULNERABLE and leak.interval.low > leak.blind
        return beyond and leak.p * self._tests <= self.policy.alpha

    def _worst(self) -> None:
        """Make the worst of what was measured the metric: of what is surely a leak the one farthest beyond its limit, else the
        one that may lie farthest."""
        leaks = [leak for leak in self.leaks if self.sure(leak)]
        if leaks:
            self.worst = max(leaks, key=lambda leak: leak.near(leak.interval.low))
        else:
            # Few that fit worse are a finding where they are sure; that there might be some does not forbid held, or it would be said seldom.
            open_ = [leak for leak in self.leaks if leak.measure is Measure.AUC or leak.interval.low > 0 or not leak.attack.endswith(TURNED)]
            self.worst = max(open_, key=lambda leak: leak.near(leak.interval.high))
        leak = self.worst
        self.quantity, self.threshold, self.unit = leak.name, leak.limit, "" if leak.measure is Measure.AUC else "share"
        self._measure, self._null = leak.measure, leak.measure.null
        self.measured(leak.value, leak.interval, leak.n, min(1.0, leak.p * self._tests))
        self.said = f"members are told from non-members with {leak.told}" if leak.measure is Measure.AUC else leak.told
        if leak.attack in self.references:
            theirs, level = self.references[leak.attack], self.policy.level
            if leak.measure is Measure.AUC:
                self.reference(auc(*theirs), auc_interval(*theirs, level))
                self.differs(auc_difference(self.attacks[leak.attack], theirs, level))
            else:
                seen = exposure(*theirs, self.rate_of_alarms, level)
                self.reference(seen.value, seen.interval)
                self.delta(leak.value - seen.value, mover(leak.value, leak.interval, seen.value, seen.interval, correlation=0.0))

    def concludes(self, where: Callable[[Leak], str] = lambda leak: "") -> Judgement:
        """``where``: whose flaw it is, if there is one."""
        leak = self.worst
        if self.confounded:
            return self.not_assessed(self.confounded)
        if self.sure(leak):
            return self.vulnerable(self.said + where(leak))
        if self.unverified:
            return self.not_assessed(self.unverified)
        if leak.verdict is Verdict.VULNERABLE and leak.interval.low <= leak.blind:
            return self.inconclusive(f"{self.said}, but a blind eye reaches {leak.blind:.3f}: the split is not verified so far out")
        if leak.verdict is Verdict.VULNERABLE:
            return self.inconclusive(f"{self.said}, but with so many tests its p is {self._told['p_value']:.2g}")
        now = max(self.units.members, self.units.others)
        return self.says(self.said + self.would_decide(f"{self.things}, half of them members,", by=self.things, now=now, n=self.units.count))

    # what stands beside it

    def _tell(self) -> None:
        """The ROC of every attack, all that was measured, what sets of pictures tell, and the permuted control."""
        import numpy as np
        from sklearn.metrics import roc_curve

        grid = np.linspace(0, 1, 51)
        for attack, (members, others) in self.attacks.items():
            truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
            false, true, _ = roc_curve(truth, np.concatenate([members, others]))
            self.curve(f"ROC of membership, {attack}", grid.tolist(), np.interp(grid, false, true).tolist(), reference=grid.tolist(),
                       xlabel="false-positive rate", ylabel="true-positive rate")  # fmt: skip
        rows = [[x.attack, x.name, *(round(float(y), 4) for y in (x.value, *x.interval.ci)), x.limit] for x in self.leaks]
        self.table("What tells members apart", ["attack", "measure", "value", "low", "high", "limit"], rows)
        self.fact("members", self.units.members).fact("non-members", self.units.others)
        rate = self.rate_of_alarms / RARER
        if self.units.others < (needed := least_negatives(rate, self.policy.level)):
            self.fact(_exposed(rate), f"not stated: it needs {needed} non-members")
        self.control("permuted members", _permuted(next(iter(self.attacks.values()))))
        self._sets()

    def _sets(self) -> None:
        """Whether the owner of some pictures could tell that they were used, all attacks weighted into one score: how often
        Welch's one-sided test finds it, and finds it of pictures that were not."""
        import numpy as np
        from scipy.special import stdtr

        def p_values(used: NDArray[np.float64], free: NDArray[np.float64]) -> NDArray[np.float64]:
            size = used.shape[1]
            a, b = (side.var(axis=1, ddof=1) / size + 1e-12 for side in (used, free))
            freedom = (size - 1) * (a + b) ** 2 / (a**2 + b**2)
            return np.asarray(stdtr(freedom, (free.mean(axis=1) - used.mean(axis=1)) / np.sqrt(a + b)))

        columns = {name: np.concatenate(sides) for name, sides in self.attacks.items()}
        side = np.arange(self.units.count) < self.units.members
        scores = weighted(columns, side, [str(i) for i in range(self.units.count)])
        members, others = scores[side], scores[~side]
        rng, rows = np.random.default_rng(0), []
        for size in SET_SIZES:
            if size > min(len(members), len(others) // 2):
                rows.append([size, "too few pictures", "", ""])
                continue
            own, free = (np.stack([rng.choice(pool, n, replace=False) for _ in range(200)]) for pool, n in ((members, size), (others, 2 * size)))
            test = [p_values(used, free[:, size:]) for used in (own, free[:, :size])]
            rows.append([size, f"{np.median(test[0]):.2g}", *(f"{(p < 0.01).mean():.0%}" for p in test)])
        self.table("Sets of pictures", ["pictures", "median p", "found at p < 0.01", "of sets that were not used"], rows)


def _exposed(rate: float) -> str:
    """The name of the measure."""
    return f"members exposed at {rate * 100:g} % false alarms"


def _permuted(scores: Sides) -> Figure:
    """The AUC where membership is shuffled."""
    import numpy as np
    from scipy.stats import rankdata

    cut, ranks = len(scores[0]), rankdata(np.concatenate(scores))
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks, (200, 1)), axis=1)
    draws = (shuffled[:, :cut].mean(axis=1) - (cut + 1) / 2) / (len(ranks) - cut)
    return chance(draws, float(np.mean(draws)))


GAIN, LOSS, SHADOWS = "by the loss beside the plain prompt's", "by the loss alone", "by shadow prompts"


def judge_loss(
    info: ProbeInfo, trials: Trials, policy: Policy, things: str, more: Mapping[str, Sequence[float]] | None = None,
    weights: Mapping[str, Sequence[float]] | None = None, others: Callable[[Claim], str] = lambda claim: "",
) -> Judgement:  # fmt: skip
    """The judgement by the value ``loss``, smaller for members; calibrated by the reference's where there is one.

    ``things``: see :class:`MembershipClaim`. ``more``: further attacks on the target's trials, by name;
    ``weights``: scores of them that are weighted, with the loss, into one attack. ``others``: tells the claim of other scores and
    returns what they see, or what is not read, which forbids the verdict held.
    """
    import numpy as np

    target = trials.target
    units = Units(target)
    if lacks := units.lacks(policy.threshold(info, "least-side")):
        return Judgement.not_assessed(lacks)
    plain = {t.case: t["loss"] for t in trials.reference}
    calibrated = bool(plain) and all(t.case in plain for t in target)
    columns: dict[str, Any] = {LOSS: np.array([-t["loss"] for t in target])}
    before = np.array([-plain[t.case] for t in target]) if calibrated else None
    if before is not None:
        columns = {GAIN: columns[LOSS] - before, **columns}
    if weights:
        members = np.array([t["member"] for t in target], dtype=bool)
        scores = weighted({**columns, **{name: np.asarray(own) for name, own in weights.items()}}, members, [str(t["identity"]) for t in target])
        columns["by all scores weighted"] = scores
    attacks = {name: units.split(scores) for name, scores in {**columns, **(more or {})}.items()}
    references = {} if before is None else dict.fromkeys(attacks, units.split(before))
    claim = MembershipClaim(info, policy, things, target, attacks, references)
    if not calibrated:
        claim.said += f" ({trials.reference_note or 'no reference arm'})"
    seen = others(claim)
    judged = claim.concludes(lambda leak: _where(claim, leak) if calibrated else "")
    if judged.verdict is Verdict.HELD and seen:
        return claim.inconclusive(f"{judged.reason}, but {seen}")
    return judged


def _where(claim: MembershipClaim, leak: Leak) -> str:
    """Whether a leak is the prompt's or the weights'."""
    if any(claim.sure(other) and other.attack.startswith((GAIN, SHADOWS)) for other in claim.leaks):
        return "; the leak is in the prompt: it shows against the plain prompt"
    if any(before.verdict is Verdict.VULNERABLE for before in claim.measures(LOSS, claim.references[LOSS])):
        return "; the leak is in the weights: the plain prompt shows it as well"
    return "; whether it is in the prompt or in the weights cannot be told"
