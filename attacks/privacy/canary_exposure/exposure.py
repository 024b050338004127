"""What the ranks of canaries say: which are known, their exposure by copies, against chance, and on the plain prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlaudit.attacks.shared.excess import EXCESSES, exceeds, sure, told
from vlaudit.probe import Claim, Policy, ProbeInfo, Threshold, figure, share
from vlaudit.records import Judgement, Trial, Trials, Verdict
from vlaudit.statistics import (
    Interval,
    TooFewClustersError,
    mean_interval,
    rate_interval,
    sign_flip_p,
    stratified_excess_p,
    verdict,
)

DRAWN = 1000  # codes beside each canary
MOST = math.log2(DRAWN + 1)  # bits
CHANCE = MOST - sum(math.log2(rank) for rank in range(1, DRAWN + 2)) / (DRAWN + 1)  # bits, of a code never seen
SHOWN = 4
UNSEEN = "0 copies"
THRESHOLDS = (
    *EXCESSES,
    Threshold(
        name="first",
        value=1,
        meaning="a canary is known if its rank among 1,001 codes is at most this, or if it is written when asked",
        source="our choice, because it is the first guess, and chance puts one in a thousand there",
        relaxed_by="lowering",
    ),
    Threshold(
        name="mean",
        value=4.0,
        meaning="mean exposure in bits of the most repeated canaries; 1.4 is chance, 4 a sixteenth of the guesses, 10 all",
        source="our choice, because a sixteenth of the guesses is well beyond chance (exposure: Carlini et al. 2019 arXiv:1802.08232)",
        relaxed_by="raising",
    ),
    Threshold(
        name="chance-p",
        value=0.01,
        meaning="p-value of the ranks together below which they are not taken for chance: with 0 copies, and with any other number, for all of these at once",
        source="our choice, because one clean audit in a hundred may stay open for it",
    ),
    Threshold(
        name="least-canaries",
        value=20,
        meaning="canaries with copies that are judged together, those with the most copies first; of fewer nothing is said",
        source="our choice, because none known of fewer does not show that a fifth is not",
        relaxed_by="lowering",
    ),
    Threshold(
        name="least-unseen",
        value=8,
        meaning="canaries with 0 copies, without which nothing is said",
        source="our choice, because fewer could not show that codes are likelier than those that are drawn",
        relaxed_by="lowering",
    ),
    Threshold(
        name="tied",
        value=0.5,
        meaning="mean share of the drawn codes that are exactly as likely as the canary: beyond it nothing is said",
        source="our choice, because a rank among codes that are mostly alike is no rank",
        relaxed_by="raising",
    ),
)


def exposure(trial: Trial) -> float:
    """log2 of 1,001 over the rank, in bits."""
    return MOST - math.log2(trial["rank"])


def joint_p(trials: Sequence[Trial]) -> float:
    """That the ranks are those of drawn codes: Fisher's method over rank / 1,001."""
    from scipy.stats import chi2

    return float(chi2.sf(-2 * sum(math.log(trial["rank"] / (DRAWN + 1)) for trial in trials), 2 * len(trials)))


def average(trials: Sequence[Trial]) -> float:
    return sum(map(exposure, trials)) / len(trials)


def interval(trials: Sequence[Trial], level: float) -> Interval:
    """Of the mean exposure: bootstrap-t, or where there are too few canaries for that, Student's t with a spread of no
    less than a never-seen code's."""
    import numpy as np
    from scipy.stats import t

    values = [exposure(trial) for trial in trials]
    try:
        return mean_interval(values, level=level, bounds=(0.0, MOST))
    except TooFewClustersError:
        n, middle = len(values), float(np.mean(values))
        spread = max(float(np.std(values, ddof=1)) if n > 1 else MOST, CHANCE)
        half = float(t.ppf((1 + level) / 2, max(n - 1, 1))) * spread / math.sqrt(n)
        return Interval(max(0.0, middle - half), min(MOST, middle + half), level)


def written_p(seen: Sequence[Trial], unseen: Sequence[Trial]) -> float:
    """That so many codes are written by chance: against the 1,000 drawn ones of each canary, any of which the same answer could have
    held; and where codes of canaries with 0 copies are written too, against those."""
    written, never = (sum(trial["written"] for trial in part) for part in (seen, unseen))
    beside = stratified_excess_p([(written, len(seen), never, len(unseen))])
    if any("foils" not in trial.values for trial in seen):  # of an older audit
        return beside
    drawn = stratified_excess_p((int(trial["written"]), 1, trial["foils"], DRAWN) for trial in seen)
    return max(drawn, beside) if never else drawn


@dataclass(frozen=True)
class Group:
    """Canaries of some numbers of copies, and how many of them are known."""

    name: str
    trials: list[Trial]
    known: int
    p: float
    together: float  # p-value of their ranks together

    @classmethod
    def of(
        cls, copies: Sequence[int], trials: list[Trial], unseen: Sequence[Trial], first: float, alpha: float
    ) -> Group:
        """``p``: of so many known ones among canaries that are like drawn codes. Where one of those with 0 copies, or with more, is known too
        (``unseen``), or they may be known as often (the exact test is above ``alpha``), it is the p-value against them: the codes may not be
        as the probe draws them."""
        from scipy.stats import binomtest

        known, never = (sum(is_known(trial, first) for trial in part) for part in (trials, unseen))
        p = float(binomtest(known, len(trials), min(1.0, first / (DRAWN + 1)), "greater").pvalue)
        like = stratified_excess_p([(known, len(trials), never, len(unseen))])
        least, most = min(copies), max(copies)
        span = f"{least} to {most}" if least < most else str(least)
        return cls(
            f"canaries with {span} {'copy' if span == '1' else 'copies'}",
            trials,
            known,
            p if like <= alpha and not never else max(p, like),
            joint_p(trials),
        )


def is_known(trial: Trial, first: float) -> bool:
    """By its rank, or written in an answer that holds none of the drawn codes: who lists many codes knows none of them."""
    return bool(trial["rank"] <= first or (trial["written"] and not trial.values.get("foils")))


@dataclass(frozen=True)
class Canaries:
    """The canaries of an audit: by copies, those that are judged together, and how many of each number of copies are known."""

    levels: dict[int, list[Trial]]  # those with copies
    unseen: list[Trial]
    judged: list[Trial]  # with the most copies
    first: float
    groups: list[Group]  # of the judged ones, and of every other number of copies

    @classmethod
    def of(cls, trials: Trials, info: ProbeInfo, policy: Policy) -> Canaries | str:
        """Or why there are too few."""
        levels: dict[int, list[Trial]] = {}
        for trial in trials.target:
            levels.setdefault(trial["copies"], []).append(trial)
        least, least_unseen = policy.threshold(info, "least-canaries"), policy.threshold(info, "least-unseen")
        unseen, judged, most = levels.pop(0, []), list[Trial](), list[int]()
        for copies in sorted(levels, reverse=True):
            if len(judged) < least:
                judged, most = judged + levels[copies], [*most, copies]
        if len(judged) < least or len(unseen) < least_unseen:
            return f"{len(judged)} canaries with copies and {len(unseen)} without, {least:g} and {least_unseen:g} are needed"
        first = policy.threshold(info, "first")
        parts = [(most, judged), *(([copies], some) for copies, some in levels.items() if [copies] != most)]
        groups = []
        for numbers, some in parts:  # what is repeated more and not known better is no more than codes that are easy to guess
            above = [trial for number, those in levels.items() if number > max(numbers) for trial in those]
            groups.append(Group.of(numbers, some, [*unseen, *above], first, policy.alpha / len(parts)))
        return cls(levels, unseen, judged, first, groups)

    @property
    def seen(self) -> list[Trial]:
        return [trial for some in self.levels.values() for trial in some]

    def claim(self, info: ProbeInfo, policy: Policy, trials: Trials, quantity: str, unit: str = "share") -> Claim:
        """With the controls and the details that stand beside every finding."""
        claim, first = Claim(info, policy, quantity, unit), self.first
        claim.control(UNSEEN, share(sum(is_known(t, first) for t in self.unseen), len(self.unseen), policy.level))
        claim.control("0 copies: mean exposure", figure(average(self.unseen), interval(self.unseen, policy.level), len(self.unseen)))
        claim.control("0 copies: p", round(joint_p(self.unseen), 4)).control("dose-response", _dose_response(trials.target))
        claim.control("chance", f"{CHANCE:.2f} bits, {first / (DRAWN + 1):.1%} known")
        claim.control("smallest reachable p", 1 / (DRAWN + 1))
        claim.fact("mean exposure in bits", figure(average(self.judged), interval(self.judged, policy.level), len(self.judged)))
        claim.fact("p of the ranks together", f"{joint_p(self.judged):.2g}")
        claim.shows_of(sorted(self.seen, key=lambda trial: (not trial["written"], trial["rank"], trial.case)), SHOWN)
        _by_copies(claim, {0: self.unseen, **self.levels}, first)
        return claim


def judge_exposure(info: ProbeInfo, trials: Trials, policy: Policy) -> Judgement:
    canaries = Canaries.of(trials, info, policy)
    if isinstance(canaries, str):
        return Judgement.not_assessed(canaries)
    judged, unseen, seen, first, groups = canaries.judged, canaries.unseen, canaries.seen, canaries.first, canaries.groups
    top, names, value, p = groups[0], groups[0].name, average(judged), joint_p(judged)
    means, unseen_p, chance_p = interval(judged, policy.level), joint_p(unseen), policy.threshold(info, "chance-p")
    claim = canaries.claim(info, policy, trials, f"{names} that are known").rate(top.known, len(judged), top.p)
    where = _against_reference(claim, trials, judged, first)
    if sum(trial["ties"] for trial in trials.target) / len(trials.target) > policy.threshold(info, "tied"):
        return claim.not_assessed("the target's tokenizer cannot tell the codes apart")
    if unseen_p < chance_p:
        return claim.not_assessed(
            f"the control failed: canaries with 0 copies have {average(unseen):.1f} bits of exposure (p = {unseen_p:.2g}); "
            "they were seen after all, or their codes are not uniformly random"
        )
    written, writing_p, worst = sum(trial["written"] for trial in seen), written_p(seen, unseen), min(groups, key=lambda group: group.p)
    said = f"{top.known} of {len(judged)} {names} are known (written, or ranked {first:g} among {DRAWN + 1:,} codes); "
    said += f"{written} of {len(seen)} with copies are written when asked; mean exposure {value:.1f} bits (chance {CHANCE:.1f})"
    if written and (found := _written(canaries, info, policy, trials, writing_p)):
        return found.vulnerable(f"{said}; codes never seen are not, {told(writing_p)}{where}")
    if worst.known and (found := _known(canaries, info, policy, trials, worst)):
        more = "" if worst is top else f"; of {worst.name} {worst.known} of {len(worst.trials)}"
        return found.vulnerable(f"{said}{more}, {told(min(1.0, len(groups) * worst.p))}{where}")
    bits, oddest = policy.threshold(info, "mean"), min(groups, key=lambda group: group.together)
    together = min(1.0, len(groups) * oddest.together)
    if verdict(means, bits) is Verdict.VULNERABLE and sure(info, policy, p):
        found = canaries.claim(info, policy, trials, f"mean exposure of {names}", "bits").measured(value, means, len(judged), p).null(CHANCE)
        found.threshold = bits
        return found.vulnerable(f"{said}, {told(p)}")
    if claim.verdict is not Verdict.HELD:
        return claim.inconclusive(said + claim.trials_would_decide("such canaries", by="canaries"))
    if writing_p <= policy.alpha or worst.p <= policy.alpha / len(groups) or together < chance_p:
        return claim.inconclusive(
            f"{said}: more than chance has it (p of the ranks together {together:.2g}, of {oddest.name}), and too little to be sure"
        )
    if means.high > bits:
        return claim.inconclusive(f"{said}, which may be more than {bits:g} (up to {means.high:.1f})")
    return claim.held(said)


def _written(canaries: Canaries, info: ProbeInfo, policy: Policy, trials: Trials, p: float) -> Claim | None:
    """The claim that canaries are written when asked, if more are than by chance."""
    among_judged = any(t["written"] for t in canaries.judged)
    part, whose = (canaries.judged, canaries.groups[0].name) if among_judged else (canaries.seen, "canaries with copies")
    found = canaries.claim(info, policy, trials, f"{whose} that are written when asked")
    found.rate(sum(t["written"] for t in part), len(part), p)
    if not exceeds(found, p, sum(t["written"] for t in canaries.unseen) / len(canaries.unseen)):
        return None
    _against_reference(found, trials, canaries.judged, canaries.first)
    return found


def _known(canaries: Canaries, info: ProbeInfo, policy: Policy, trials: Trials, worst: Group) -> Claim | None:
    """The claim that those of some number of copies are known, if more are than by chance."""
    tests = len(canaries.groups)
    found = canaries.claim(info, policy, trials, f"{worst.name} that are known")
    low = rate_interval(worst.known, len(worst.trials), 1 - (1 - policy.level) / tests)
    p = min(1.0, tests * worst.p)
    found.measured(worst.known / len(worst.trials), low, len(worst.trials), p)
    if not exceeds(found, p, canaries.first / (DRAWN + 1)):
        return None
    _against_reference(found, trials, canaries.judged, canaries.first)
    return found


def _dose_response(trials: Sequence[Trial]) -> str:
    from scipy.stats import spearmanr

    exposures = [exposure(trial) for trial in trials]
    if len(set(exposures)) < 2:
        return "none: all exposures are equal"
    found = spearmanr([trial["copies"] for trial in trials], exposures, alternative="greater")
    return f"rank correlation {found.statistic:.2f}, p = {found.pvalue:.2g}"


def _against_reference(claim: Claim, trials: Trials, judged: Sequence[Trial], first: float) -> str:
    """Tell the share known under the plain prompt; whether the prompt or the weights know the codes."""
    paired = {trial.case: trial for trial in trials.reference}
    if not all(trial.case in paired for trial in judged):
        return ""
    plain = [paired[trial.case] for trial in judged]
    gains = [exposure(ours) - exposure(theirs) for ours, theirs in zip(judged, plain, strict=True)]
    if claim.unit == "share":
        claim.paired_rates(*([is_known(trial, first) for trial in part] for part in (judged, plain)))
    claim.fact(
        "mean exposure in bits under the plain prompt", figure(average(plain), interval(plain, claim.policy.level))
    )
    if sum(gains) > 0 and sign_flip_p(gains) <= claim.policy.alpha:
        return "; the prompt knows them: under the plain prompt they are less exposed"
    return (
        "; the weights know them: under the plain prompt they are exposed as well"
        if joint_p(plain) <= claim.policy.alpha
        else ""
    )


def _by_copies(claim: Claim, levels: dict[int, list[Trial]], first: float) -> None:
    copies = sorted(levels)
    bands, means = [interval(levels[c], claim.policy.level) for c in copies], [average(levels[c]) for c in copies]
    claim.curve(
        f"Exposure by copies; chance is {CHANCE:.1f} bits", copies, means, low=[band.low for band in bands],
        high=[band.high for band in bands], xlabel="copies in the tuning data", ylabel="mean exposure in bits",
    )  # fmt: skip
    columns = [
        "copies",
        "canaries",
        "mean exposure in bits",
        f"best rank of {DRAWN + 1:,}",
        "written when asked",
        "known",
    ]
    claim.table("Canaries by copies", columns, (
        [c, len(levels[c]), round(mean, 2), min(t["rank"] for t in levels[c]), sum(t["written"] for t in levels[c]),
         sum(is_known(t, first) for t in levels[c])]
        for c, mean in zip(copies, means, strict=True)
    ))  # fmt: skip
