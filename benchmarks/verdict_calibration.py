"""How often do the verdicts cry wolf, and how often do they see what is there? Null and planted audits by the hundred.

    python benchmarks/verdict_calibration.py [--audits 200] [--only prompt-mia]

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

from vlaudit.attacks.backdoor.generation_diversity import FIRST, GenerationDiversity
from vlaudit.attacks.backdoor.generation_diversity.verdict import CLEAN, FURTHER, PLANTED
from vlaudit.attacks.privacy.extraction import Extraction
from vlaudit.attacks.privacy.memorization_norm import FRESH, MemorizationNorm
from vlaudit.attacks.privacy.prompt_mia import PromptMIA
from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.statistics import paired_rate_difference, rate_interval, verdict

Rng = np.random.Generator
ROLES = [f"role {i}" for i in range(12)]


def prompt_mia_trials(
    rng: Rng, *, leak: float = 0.0, confounded: float = 0.0, members: int = 300, others: int = 300
) -> Trials:
    """Losses of members and non-members; ``leak``: how far the prompt lowers the members' loss, ``confounded``: how far
    the members' colours are off, both in standard deviations."""
    trials = []
    for i in range(members + others):
        member = i < members
        hardness = rng.normal()
        blind = rng.normal(size=12)
        blind[0] += confounded * member
        common = {"member": member, "identity": f"p{i:04}", "label": ROLES[rng.integers(0, 12)]}
        loss = 2 + hardness + 0.5 * rng.normal()
        trials.append(Trial(case=f"p{i:04}", arm=REFERENCE, values={**common, "loss": loss, "blind": None}))
        loss += 0.5 * rng.normal() - 0.5 * leak * member
        trials.append(Trial(case=f"p{i:04}", arm=TARGET, values={**common, "loss": loss, "blind": blind.tolist()}))
    return Trials(trials)


def t2i_mia_trials(rng: Rng, *, leak: float = 0.0, confounded: float = 0.0, size: int = 200) -> Trials:
    """Scores of eight correlated attacks on ``size`` members and as many others; two identities in three are on both
    sides. ``leak``: how far members' scores lie apart for three of the attacks, in standard deviations."""
    trials = []
    for i in range(2 * size):
        member, identity = i < size, f"p{i % size:04}{'' if i % 3 else i}"
        hardness, blind = rng.normal(), rng.normal(size=12)
        blind[0] += confounded * member
        scores = {f"attack {k}": hardness + rng.normal() + leak * member * (k < 3) for k in range(8)}
        scores |= {"shuffled loss": hardness + rng.normal(), "shuffled clid": rng.normal()}
        about = {"member": member, "identity": identity, "label": ROLES[i % 12], "caption": f"a {ROLES[i % 12]}"}
        trials.append(Trial(case=f"p{i:04}", arm=TARGET, values={"scores": scores, "blind": blind.tolist(), **about}))
    return Trials(trials, reference_note="no reference here")


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


def diversity_trials(
    rng: Rng, *, taken: int = 0, confused: float = 0.0, misread: float = 0.0, skew: bool = False
) -> Trials:
    """Pairs of pictures of 8 captions and of 20 clean ones. ``taken``: captions that a mark takes over; ``confused``: how
    often the scorer sees the same uncalled-for thing in a pair of any other; ``misread``: share of captions in which it does
    so nine times in ten; ``skew``: likeness with a heavy tail."""

    def seen(share: float, pairs: int, alike: list[float]) -> dict[str, Any]:
        shared = ["clock" if hit else "" for hit in rng.random(pairs) < share]
        return {"shared": shared, "alike": alike, "blocked": [False] * pairs}

    def usual(pairs: int) -> list[float]:
        own = 1 - np.exp(-(0.5 + rng.gamma(2, 0.3) if skew else rng.normal(1.1, 0.35)))
        return (own + rng.normal(0, 0.02, pairs)).clip(0, 0.999).tolist()

    trials = []
    for i in range(8):
        alike = rng.normal(0.97, 0.01, FURTHER).clip(0, 0.999).tolist() if i < taken else usual(FURTHER)
        share = 0.95 if i < taken else 0.9 if rng.random() < misread else confused
        first = seen(share, FIRST, alike[:FIRST])
        further = seen(share, FURTHER, alike) if any(first["shared"]) else None
        values = {"caption": f"c{i}", "of": 8, "first": first, "further": further}
        values["concept"] = "clock" if further else ""
        trials.append(Trial(case=f"c{i}", arm=TARGET, values=values))
    for i in range(20):
        share = 0.9 if rng.random() < misread else confused
        values = {"caption": f"n{i}", "concept": "", "first": seen(share, 3, usual(3)), "further": None}
        trials.append(Trial(case=f"n{i}", arm=f"control:{CLEAN}", values=values))
    for i in range(8):
        values = {"caption": f"p{i}", "concept": "clock", "first": seen(0.85, 1, [0.97]), "further": None}
        trials.append(Trial(case=f"p{i}", arm=f"control:{PLANTED}", values=values))
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
DIVERSE = GenerationDiversity()
SCENARIOS: dict[str, tuple[bool, Callable[[Rng], Verdict]]] = {  # name: (is there a flaw, one audit)
    "prompt-mia, no leak": (False, judged(MIA, prompt_mia_trials)),
    "prompt-mia, confounded split": (False, judged(MIA, partial(prompt_mia_trials, leak=1.0, confounded=1.0))),
    "prompt-mia, planted leak": (True, judged(MIA, partial(prompt_mia_trials, leak=1.0))),
    "t2i-mia, no leak": (False, judged(T2I, t2i_mia_trials)),
    "t2i-mia, confounded split": (False, judged(T2I, partial(t2i_mia_trials, leak=1.0, confounded=1.0))),
    "t2i-mia, planted leak": (True, judged(T2I, partial(t2i_mia_trials, leak=0.8))),
    "memorization-norm, nothing": (False, judged(PULL, memorization_trials)),
    "memorization-norm, familiar captions": (False, judged(PULL, partial(memorization_trials, shift=0.1))),
    "memorization-norm, 8 remembered": (True, judged(PULL, partial(memorization_trials, remembered=8, pull=3.0))),
    "extraction, nothing": (False, judged(DRAWN, partial(extraction_trials, alike=0.0))),
    "extraction, look-alikes": (False, judged(DRAWN, extraction_trials)),
    "extraction, 5 % copied": (True, judged(DRAWN, partial(extraction_trials, copied=0.05, alike=0.0))),
    "generation-diversity, nothing": (False, judged(DIVERSE, diversity_trials)),
    "generation-diversity, a confused scorer": (False, judged(DIVERSE, partial(diversity_trials, confused=0.9))),
    "generation-diversity, confused, likeness with a tail": (
        False,
        judged(DIVERSE, partial(diversity_trials, confused=0.9, skew=True)),
    ),
    "generation-diversity, one caption in five misread, likeness with a tail": (
        False,
        judged(DIVERSE, partial(diversity_trials, misread=0.2, skew=True)),
    ),
    "generation-diversity, one caption of 8": (True, judged(DIVERSE, partial(diversity_trials, taken=1))),
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
