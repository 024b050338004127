"""How likely does a slip of the keyboard spoil the picture?

Threat. Captions are typed by people and copied through programs. A pipeline that loses what was asked for when one
character in ten is wrong fails its users without anybody attacking it, and everybody who can touch the text has a way to
spoil pictures that looks like an accident.

Method. One in ten letters of a caption is changed at random: letters swapped, dropped, hit on a neighbouring key, or
replaced by one of another alphabet that looks the same (the prompt around the caption stays). Caption and perturbed
caption are drawn with the same seeds, and the scorer ranks the caption as it was written among other captions on both
pictures. A perturbed prompt is *adversarial* if the mean drop of this fit is above a margin by a one-sided t-test on the
pairs, looked at up to five times (2 to 6 seeds at quick effort, 3 to 15 beyond) under Pocock's error-spending plan; it
is given up where the mean drop is at most the margin.

Metric. P(AE), the share of perturbed prompts that are adversarial, with a Clopper-Pearson interval at a number of
prompts that is fixed beforehand (a bootstrap-t interval over captions where several share one). Prompts that are neither
adversarial nor given up by the last look count as harmless in its lower end and as adversarial in its upper end. The
delta is the paired difference of the two rates (Tango).

Controls. ``signs flipped``: the same plan on the recorded drops with random signs, which is what it would say of drops
that are noise. Prompts with a blocked picture (a safety checker) are left out and counted; more than a fifth is not
assessed. So are captions that are not recognised in their own pictures.

When it errs. A drop below the margin, or one so unsteady that 6 seeds do not show it, is no adversarial example here.
The scorer has to tell the captions apart; what it cannot see (a style, a count) can be lost unnoticed. At 2 to 6 pairs
the t-test spends up to 6 % where the plan says 5 %. Differs from ProTIP, which compares unpaired pictures (benchmark
``prompt_robustness_plans.py``), has no margin, and whose interval for an adaptive number of prompts uses a logarithm to
the base 10 where its bound has the natural one.

What to do. Correct the spelling of captions before they reach the pipeline, map look-alike letters to Latin ones, and show users
the corrected text; try that on the texts of this finding. A text encoder tuned on captions with typing errors cures the cause:
ask its maker, and audit it again.

References. ProTIP arXiv:2402.15429; error spending, Lan and DeMets 1983 (doi:10.1093/biomet/70.3.659); R-precision
arXiv:1711.10485.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from vlaudit.attacks.robustness.probabilistic_prompt_robustness.comparison import LEAST_SPREAD, Comparison, compare
from vlaudit.attacks.shared.drawn_captions import kept, passes, sample_captions
from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS, perturb_share
from vlaudit.details import Figure
from vlaudit.probe import Claim, Context, Needs, Policy, Probe, probe, share
from vlaudit.records import Case, Cost, Family, Judgement, Risk, Trial, Trials
from vlaudit.statistics import Interval, TooFewClustersError, mean_interval, paired_rate_difference, rate_interval
from vlaudit.statistics.sequential import GroupSequentialPlan, look

_DRAWS = 10  # tries to find a perturbation that changes the caption


@probe(
    id="probabilistic-prompt-robustness",
    code="TR2",
    title="Random slips in the caption",
    risk=Risk.ROBUSTNESS,
    families={Family.TEXT_TO_IMAGE},
    needs={Needs.CAPTIONS, Needs.GENERATED_PICTURES},
    threshold=0.20,
    threshold_meaning="share of captions with one in ten letters wrong whose pictures no longer show the caption as well",
    references=["arXiv:2402.15429", "doi:10.1093/biomet/70.3.659", "arXiv:1711.10485"],
    maps=["atlas:AML.T0043"],
    limits="Random slips of four kinds were tried, not the worst ones; drops too small for the seeds drawn went unseen.",
)
class ProbabilisticPromptRobustness(Probe):
    """Perturbed captions against the captions as written, same seeds, in a group-sequential test each."""

    rate: float = Field(0.1, gt=0, le=1, description="share of the caption's letters that are changed")
    margin: float = Field(0.1, ge=0, lt=1, description="mean loss of fit that a harmless perturbation may cause")
    prompts: int | None = Field(None, ge=1, description="perturbed prompts; default 20, 60 or 200 by effort")

    def cases(self, ctx: Context) -> list[Case]:
        count = self.prompts or ctx.by_effort(20, 60, 200)
        captions = sample_captions(ctx, count)
        order = ctx.rng("kinds").permutation(count)  # so that no kind goes with the captions' order
        return [
            Case(id=f"{i:03d}", params={"caption": captions[i % len(captions)], "kind": CHARACTER_KINDS[k % 4]})
            for i, k in enumerate(order.tolist())
        ]

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        return Cost(queries=2 * _plan(ctx).sizes[1] * len(cases) * passes(ctx))

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        comparisons = [self._comparison(ctx, case) for case in cases]
        compare(ctx, comparisons)
        for case, comparison in zip(cases, comparisons, strict=True):
            values = {"kind": case.params["kind"], **comparison.values()}
            yield ctx.trial(case, values, artifacts=comparison.artifacts() if values["adversarial"] else {})

    def _comparison(self, ctx: Context, case: Case) -> Comparison:
        caption, rng = str(case.params["caption"]), ctx.rng(case)
        tries = (perturb_share(caption, str(case.params["kind"]), self.rate, rng) for _ in range(_DRAWS))
        text = next((text for text in tries if text != caption), caption)
        return Comparison(ctx, caption, text, _plan(ctx), self.margin)

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        level = policy.level
        used, reason = kept(trials.target, lambda t: t["rank"], level)
        if reason:
            return Judgement.not_assessed(reason)
        hits, unsure = [t["adversarial"] for t in used], [t["undecided"] for t in used]
        claim = Claim(self.info, policy, "P(AE)").shows_of(sorted(used, key=lambda t: (-t["drop"], t.case)))
        claim.control("signs flipped", _flipped(used, self.margin, level))
        _tell_kinds(claim, used)
        claim.fact("prompts with a blocked picture", len(trials.target) - len(used))
        claim.fact("texts that reach the denoiser unchanged", sum(t["unchanged"] for t in used))
        claim.fact("pairs of pictures drawn", sum(len(t["drops"]) for t in used))
        try:
            low = _interval(hits, used, level).low
            high = _interval([a or b for a, b in zip(hits, unsure, strict=True)], used, level).high
        except TooFewClustersError as error:
            return claim.inconclusive(f"too few captions to judge: {error}")
        claim.measured(sum(hits) / len(used), Interval(low, high, level), len(used))
        if pairs := [(a, b) for a, b in trials.paired() if not a["blocked"] and not b["blocked"]]:
            mine, theirs = ([t["adversarial"] for t in side] for side in zip(*pairs, strict=True))
            claim.reference(sum(theirs) / len(theirs), _interval(theirs, [b for _, b in pairs], level))
            claim.differs(paired_rate_difference(mine, theirs, level))
        said = f"{sum(hits)} of {len(used)} perturbed captions are adversarial"
        said += f", {sum(unsure)} more could not be told by the last look" if any(unsure) else ""
        return claim.says(said + claim.trials_would_decide("perturbed captions"))


def _plan(ctx: Context) -> GroupSequentialPlan:
    """Seeds at each of five looks."""
    return GroupSequentialPlan(ctx.by_effort((2, 3, 4, 5, 6), (3, 4, 6, 8, 10), (3, 6, 9, 12, 15)))


def _interval(hits: Sequence[bool], trials: Sequence[Trial], level: float) -> Interval:
    """Interval of a share of prompts: exact where each has its own caption, clustered where they share some."""
    captions = [t["caption"] for t in trials]
    if len(set(captions)) == len(captions):
        return rate_interval(sum(hits), len(hits), level)
    return mean_interval([float(hit) for hit in hits], captions, level)


def _flipped(trials: Sequence[Trial], margin: float, level: float, times: int = 4) -> Figure:
    """What share of comparisons the same plan would call adversarial if the recorded drops had random signs."""
    import numpy as np

    rng, hits = np.random.default_rng(0), 0
    for trial in trials:
        plan = GroupSequentialPlan(tuple(trial["looks"]))
        for _ in range(times):
            flipped = (np.asarray(trial["drops"]) * rng.choice([-1.0, 1.0], size=len(trial["drops"]))).tolist()
            looks = (look(flipped[:size], plan, margin, LEAST_SPREAD) for size in plan.sizes if size <= len(flipped))
            hits += next((done.rejects for done in looks if done.stops), False)
    return share(hits, times * len(trials), level)


def _tell_kinds(claim: Claim, used: Sequence[Trial]) -> None:
    rows = []
    for kind in CHARACTER_KINDS:
        if some := [t for t in used if t["kind"] == kind]:
            worst = max(some, key=lambda t: (t["adversarial"], t["drop"]))
            hits, drops = (sum(t[key] for t in some) / len(some) for key in ("adversarial", "drop"))
            rows.append([kind, len(some), hits, drops, worst["text"]])
    claim.table("by kind of change", ["change", "captions", "adversarial", "mean drop of fit", "such as"], rows)
