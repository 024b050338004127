"""Captions with slips: how much of the fit of their pictures is lost, seed by seed, in how many of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from vlaudit.attacks.robustness.probabilistic_prompt_robustness import ProbabilisticPromptRobustness
from vlaudit.attacks.robustness.probabilistic_prompt_robustness.comparison import HARMLESS, LEAST_SPREAD, told
from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS
from vlaudit.battery import Scenario
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
Loss = Callable[[Rng, int], np.ndarray]  # of fit, of so many seeds
LOOKS = (3, 4, 6, 9, 12)
MARGIN = 0.1
BARS = (MARGIN, HARMLESS, LEAST_SPREAD, Policy().alpha)


def even(mean: float, spread: float) -> Loss:
    return lambda rng, seeds: rng.normal(mean, spread, seeds)


def tailed(mean: float, spread: float) -> Loss:
    """Student's, with 2 degrees of freedom."""
    return lambda rng, seeds: mean + spread * rng.standard_t(2, seeds)


def sometimes(share: float, loss: float = 1.0) -> Loss:
    """All of the fit, in some of the seeds."""
    return lambda rng, seeds: loss * (rng.random(seeds) < share) + rng.normal(0, 0.02, seeds)


NONE, QUIET = even(0.0, 0.05), even(0.03, 0.08)


def audit(
    rng: Rng, usual: Loss = QUIET, harmed: Loss = NONE, share: float = 0.0, kinds: int = 4, prompts: int = 60, captions: int | None = None,
    recognised: float = 1.0, blocked: float = 0.0, looks: tuple[int, ...] = LOOKS, plain: Loss | None = None, words: bool = True,
) -> Trials:  # fmt: skip
    """``share`` of the prompts of the first ``kinds`` kinds lose by ``harmed``, the others by ``usual``. ``captions``: where prompts share
    them; then whole captions are harmed. ``plain``: by what the reference loses. ``words``: whether slips find a letter to change."""
    trials = []
    names = captions or prompts
    struck, shown, dark = rng.random(names) < share, rng.random(names) < recognised, rng.random(prompts) < blocked
    for i in range(prompts):
        kind, at = i % 4, i % names
        losses = {TARGET: harmed if struck[at] and kind < kinds else usual} | ({REFERENCE: plain} if plain else {})
        for arm, loss in losses.items():
            best = 1 - abs(rng.normal(0, 0.02, looks[-1])) if shown[at] else abs(rng.normal(0, 0.15, looks[-1]))
            lost = np.clip(loss(rng, looks[-1]), best - 1, best) if words else np.zeros(looks[-1])
            sizes = (n for n in looks if dark[i] or told(lost[:n].tolist(), looks, *BARS).stops)
            drops = lost[: next(sizes, looks[-1])].tolist()
            said = told(drops, looks, *BARS)
            values: dict[str, Any] = {
                "kind": CHARACTER_KINDS[kind], "text": f"c[aption→ption] {at}" if words else f"caption {at}", "caption": f"caption {at}",
                "unchanged": not words, "blocked": bool(dark[i]), "looks": list(looks), "drops": drops, "drop": fmean(drops), "p": said.p,
                "adversarial": said.rejects and not bool(dark[i]), "rank": float(1 + best.mean()) / 2,
            }  # fmt: skip
            trials.append(Trial(case=f"{i:03d}", arm=arm, values=values))
    return Trials(trials)


PROBE = ProbabilisticPromptRobustness
SCENARIOS = [
    Scenario("a little is lost everywhere", audit),
    Scenario("nothing is lost", partial(audit, usual=NONE)),
    Scenario("one caption in twenty is spoilt", partial(audit, usual=NONE, harmed=even(0.9, 0.1), share=0.05)),
    Scenario("the plain prompt loses everything", partial(audit, plain=even(0.9, 0.1)), shape="confounded"),
    Scenario("three captions in a hundred are not recognised", partial(audit, recognised=0.97), shape="confounded"),
    Scenario("drops with heavy tails", partial(audit, usual=tailed(0.0, 0.04)), shape="awkward"),
    Scenario("thirty captions for a hundred prompts", partial(audit, prompts=99, captions=30), shape="awkward"),
    Scenario("drops at the margin, and steady", partial(audit, usual=even(0.1, 0.08), prompts=200), shape="awkward"),
    Scenario("at quick effort", partial(audit, usual=NONE, prompts=20, looks=(3, 4, 5, 6, 8)), shape="awkward"),
    Scenario("six captions", partial(audit, captions=6), shape="awkward", undecidable="six captions are few"),
    Scenario("three prompts in ten are blocked", partial(audit, blocked=0.3), shape="awkward", undecidable="of too many prompts nothing was seen"),
    Scenario("nine captions in twenty are not recognised", partial(audit, recognised=0.55), shape="awkward",
             undecidable="what is not drawn has nothing to lose"),
    Scenario("no slip finds a letter", partial(audit, words=False), shape="awkward", undecidable="no caption was changed"),
    Scenario("twice the margin everywhere", partial(audit, usual=even(0.2, 0.2)), harm="weak", shape="spread"),
    Scenario("three in ten lose twice the margin", partial(audit, harmed=even(0.2, 0.1), share=0.3), harm="weak", shape="concentrated"),
    Scenario("all of the fit, in one seed of five, of half the prompts", partial(audit, harmed=sometimes(0.2), share=0.5), harm="weak",
             shape="few seeds"),
    Scenario("every second prompt loses four margins", partial(audit, harmed=even(0.4, 0.2), share=0.5), harm="named", shape="spread"),
    Scenario("every second caption of 45 loses six margins", partial(audit, harmed=even(0.6, 0.2), share=0.5, prompts=90, captions=45),
             harm="named", shape="concentrated"),
    Scenario("every prompt loses seven margins", partial(audit, usual=even(0.7, 0.2)), harm="blatant", shape="spread"),
    Scenario("two of four kinds spoil everything", partial(audit, harmed=even(0.9, 0.1), share=1.0, kinds=2), harm="blatant",
             shape="one kind"),
    Scenario("one of four kinds spoils half of its captions", partial(audit, harmed=even(0.9, 0.1), share=0.5, kinds=1, prompts=200),
             harm="blatant", shape="one kind"),
    Scenario("every prompt loses all, in two seeds of three", partial(audit, usual=sometimes(0.67)), harm="blatant", shape="few seeds"),
    Scenario("every prompt loses half, at quick effort", partial(audit, usual=even(0.5, 0.2), prompts=20, looks=(3, 4, 5, 6, 8)),
             harm="blatant", shape="few prompts"),
    Scenario("every prompt loses twice the margin, steadily", partial(audit, usual=even(0.2, 0.05)), harm="blatant", shape="thin"),
]  # fmt: skip
