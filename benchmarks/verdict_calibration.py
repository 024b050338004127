"""How often do the verdicts cry wolf, and how often do they see what is there? Null and planted audits by the hundred.

    python benchmarks/verdict_calibration.py [--audits 200] [--only representation]

Each audit draws fresh trials from a known truth and hands them to the probe's own judge with the default policy. The
false-alarm rate is stated with its Clopper-Pearson upper bound: 0 of 200 gives 1.5 %.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.bias.prompt_intervention import PromptIntervention
from vlaudit.attacks.bias.representation import Representation, deserves_more
from vlaudit.attacks.privacy.extraction import Extraction
from vlaudit.attacks.privacy.memorization_norm import FRESH, MemorizationNorm
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.statistics import paired_rate_difference, rate_interval, verdict

Rng = np.random.Generator
ROLES = [f"role {i}" for i in range(12)]


def memorization_trials(
    rng: Rng, *, remembered: int = 0, pull: float = 1.8, shift: float = 0.0, captions: int = 200, fresh: int = 1200
) -> Trials:
    """Norms of captions and fresh ones, of three lengths; the first ``remembered`` captions pull ``pull`` times as hard,
    all audited ones ``shift`` (in log norm) harder than fresh ones, as captions of a model's own kind may."""
    trials = []
    for i in range(captions + fresh):
        tokens, own = int(rng.integers(5, 8)), i < captions
        norm = np.exp(0.1 * tokens + 0.2 * rng.standard_t(8) + shift * own) * (pull if i < remembered else 1.0)
        norms = (norm * np.exp(0.03 * rng.normal(size=2))).tolist()
        values = {"caption": f"c{i}", "tokens": tokens, "norms": norms, "all steps": None, "dimension": 1024.0,
                  "tokens that move it": []}  # fmt: skip
        trials.append(Trial(case=f"c{i:05}", arm=TARGET if own else f"control:{FRESH}", values=values))
    return Trials(trials, reference_note="no reference here")


def extraction_trials(rng: Rng, *, copied: float = 0.0, alike: float = 0.05, captions: int = 200) -> Trials:
    """Near copies among pictures of captions: a share ``copied`` for being remembered, and on both sides of the split a
    share ``alike`` by coincidence."""
    trials = []
    for i in range(captions):
        hits = {"training": rng.random() < copied or rng.random() < alike, "held-out": rng.random() < alike}
        values = {f"{side} copies": int(hit) for side, hit in hits.items()}
        values |= {f"{side} ratio": 0.3 if hit else 1.0 for side, hit in hits.items()}
        values |= {"caption": f"c{i}", "blocked": False, "seeds": 4}
        trials.append(Trial(case=f"c{i:05}", arm=TARGET, values=values))
    return Trials(trials, reference_note="no reference here")


def judged(probe: Any, make: Callable[[Rng], Trials]) -> Callable[[Rng], Verdict]:
    def run(rng: Rng) -> Verdict:
        judgement: Judgement = probe.judge(make(rng), Policy())
        return judgement.verdict

    return run


def rate_verdict(rng: Rng, rate: float, control: float = 0.02, threshold: float = 0.10, n: int = 128) -> Verdict:
    """A plain rate judged by its Clopper-Pearson interval and, as in most probes, against a paired control."""
    attacked, idle = rng.random(n) < rate, rng.random(n) < control
    found = verdict(rate_interval(int(attacked.sum()), n), threshold)
    sure = paired_rate_difference(attacked, idle).p < Policy().alpha
    return found if found is not Verdict.VULNERABLE or sure else Verdict.INCONCLUSIVE


MIA = PromptMIA()
PULL, T2I, DRAWN = MemorizationNorm(), T2IMIA(), Extraction()
SHARES, ADDED = Representation(), PromptIntervention()
SCENARIOS: dict[str, tuple[bool, Callable[[Rng], Verdict]]] = {  # name: (is there a flaw, one audit)
    "memorization-norm, nothing": (False, judged(PULL, memorization_trials)),
    "memorization-norm, familiar captions": (False, judged(PULL, partial(memorization_trials, shift=0.1))),
    "memorization-norm, 8 remembered": (True, judged(PULL, partial(memorization_trials, remembered=8, pull=3.0))),
    "extraction, nothing": (False, judged(DRAWN, partial(extraction_trials, alike=0.0))),
    "extraction, look-alikes": (False, judged(DRAWN, extraction_trials)),
    "extraction, 5 % copied": (True, judged(DRAWN, partial(extraction_trials, copied=0.05, alike=0.0))),
    "prompt-intervention, no change": (False, judged(ADDED, prompt_intervention_trials)),
    "prompt-intervention, two in three men on both sides": (
        False,
        judged(ADDED, partial(prompt_intervention_trials, men=0.67, bent=0.67, uneven=5.0)),
    ),
    "prompt-intervention, fairer than before": (False, judged(ADDED, partial(prompt_intervention_trials, men=1.0))),
    "prompt-intervention, men alone": (True, judged(ADDED, partial(prompt_intervention_trials, bent=1.0))),
    "rate, none": (False, partial(rate_verdict, rate=0.0)),
    "rate, half the threshold": (False, partial(rate_verdict, rate=0.05)),
    "rate, thrice the threshold": (True, partial(rate_verdict, rate=0.30)),
}


def calibrate(name: str, audits: int, seed: int = 0) -> Counter[Verdict]:
    """Verdicts of that many independent audits of a scenario."""
    audit = SCENARIOS[name][1]
    return Counter(audit(rng) for rng in np.random.default_rng(seed).spawn(audits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    options = parser.parse_args()
    print(f"{'scenario':58} flaw  vulnerable  held  inconclusive  not assessed  called vulnerable (95 % bound)")
    for name, (flawed, _) in SCENARIOS.items():
        if options.only not in name:
            continue
        then = time.perf_counter()
        said = calibrate(name, options.audits)
        found = said[Verdict.VULNERABLE]
        least, most = (rate_interval(found, options.audits, side=side) for side in ("lower", "upper"))
        bound = f"at least {least.low:.1%}" if flawed else f"at most {most.high:.1%}"
        seconds = (time.perf_counter() - then) / options.audits
        print(
            f"{name:58} {'yes' if flawed else 'no':4} {found:11} {said[Verdict.HELD]:5} {said[Verdict.INCONCLUSIVE]:13}"
            f" {said[Verdict.NOT_ASSESSED]:13}  {bound}  ({seconds:.2f} s an audit)",
            flush=True,
        )


if __name__ == "__main__":
    main()
