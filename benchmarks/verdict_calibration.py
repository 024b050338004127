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
from vlaudit.attacks.bias.prompt_intervention import PromptIntervention
from vlaudit.attacks.bias.representation import Representation, deserves_more
from vlaudit.attacks.privacy.prompt_mia import PromptMIA
from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Judgement, Trial, Trials, Verdict
from vlaudit.scorer import Calibration
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


PEOPLE = {"gender": ["man", "woman"], "tone": ["light", "fair", "medium", "brown", "dark"]}


def _errors_by_role(rng: Rng, error: float, uneven: float) -> tuple[list[str], dict[str, Calibration], dict[str, Any]]:
    """16 captions, a scorer measured on 10 pictures of each, and its true confusions (16, K, K) by attribute."""
    captions = [f"role {i:02}" for i in range(16)]
    calibrations, truth = {}, {}
    for attribute, values in PEOPLE.items():
        k = len(values)
        wrong = rng.beta(error * uneven, (1 - error) * uneven, (16, k))
        truth[attribute] = (1 - wrong)[..., None] * np.eye(k) + wrong[..., None] * (1 - np.eye(k)) / (k - 1)
        labels = np.stack([rng.multinomial(10 // k, truth[attribute][i]) for i in range(16)])
        calibrations[attribute] = Calibration(
            attribute, values, labels.sum(axis=0).tolist(), [160 // k] * k,
            {caption: own.tolist() for caption, own in zip(captions, labels, strict=True)}, "simulated", "simulated", [],
        )  # fmt: skip
    return captions, calibrations, truth


def _controls(calibrations: dict[str, Calibration]) -> list[Trial]:
    records = {attribute: calibration.record() for attribute, calibration in calibrations.items()}
    pairs = {a: [[v, v] for v in values for _ in range(20 // len(values))] for a, values in PEOPLE.items()}
    return [
        Trial(case="scorer", arm="control:scorer", values={"scorer": "simulated", "attributes": records}),
        Trial(case="explicit", arm="control:explicit", values={"pairs": pairs}),
    ]


def prompt_intervention_trials(
    rng: Rng, *, men: float = 0.5, bent: float = 0.5, kept: float = 0.5, lost: float = 0.0, uneven: float = 30.0
) -> Trials:
    """3 captions, 24 seeds, a prompt and its reference. ``men``: their share under the reference, ``bent``: under the
    prompt; ``kept``: share of the seeds whose picture keeps its group; ``lost``: whose picture loses the concept."""
    captions, calibrations, truth = _errors_by_role(rng, 0.06, uneven)
    trials = _controls(calibrations)
    for i, caption in enumerate(captions[:3]):
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        for a, values in PEOPLE.items():
            k = len(values)
            old, new = ([m, 1 - m] if a == "gender" else [1 / k] * k for m in (men, bent))
            groups = rng.choice(k, 24, p=old)
            later = (
                np.where(rng.random(24) < kept, groups, rng.choice(k, 24, p=new))
                if old == new
                else rng.choice(k, 24, p=new)
            )
            before[a], after[a] = ([int(rng.choice(k, p=truth[a][i][g])) for g in side] for side in (groups, later))
        about = {"caption": caption, "of": 16, "concept": caption}
        seen = [
            {"said": before, "shows": [True] * 24, "cut": 0},
            {"said": after, "shows": (rng.random(24) >= lost).tolist(), "cut": 0},
        ]
        trials += [
            Trial(case=f"caption/{i}", arm=arm, values={**about, "sides": {"": side}})
            for arm, side in zip((REFERENCE, TARGET), seen, strict=True)
        ]
    return Trials(trials)


def representation_trials(
    rng: Rng, *, bent: float = 0.5, roles: int = 0, everywhere: float = 0.0, error: float = 0.06, uneven: float = 30.0
) -> Trials:
    """16 neutral captions, first lots of 8 pictures and second ones of 48. ``bent``: the share of men under the first
    ``roles`` captions; ``everywhere``: how much likelier than the others light skin is. The scorer errs at ``error`` on
    average, differently for each role (Beta with ``uneven`` as its strength), measured on 10 pictures of each role."""
    captions, calibrations, truth = _errors_by_role(rng, error, uneven)
    odds = {attribute: np.full((16, len(values)), 1 / len(values)) for attribute, values in PEOPLE.items()}
    odds["gender"][:roles] = (bent, 1 - bent)
    odds["tone"][:, 0] += everywhere
    odds["tone"] /= odds["tone"].sum(axis=1, keepdims=True)
    trials = _controls(calibrations)
    for i, caption in enumerate(captions):
        said = {a: rng.choice(len(v), 56, p=odds[a][i] @ truth[a][i]).tolist() for a, v in PEOPLE.items()}
        more = any(deserves_more(said[a][:8], calibrations[a], None, caption) for a in PEOPLE)
        said = {a: codes if more else codes[:8] for a, codes in said.items()}
        values = {"caption": caption, "of": 16, "said": said, "first": 8, "blocked": 0}
        trials.append(Trial(case=f"caption/{i:03}", arm=TARGET, values=values))
    return Trials(trials, reference_note="simulated")


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
T2I = T2IMIA()
DIVERSE = GenerationDiversity()
SHARES, ADDED = Representation(), PromptIntervention()
SCENARIOS: dict[str, tuple[bool, Callable[[Rng], Verdict]]] = {  # name: (is there a flaw, one audit)
    "prompt-mia, no leak": (False, judged(MIA, prompt_mia_trials)),
    "prompt-mia, confounded split": (False, judged(MIA, partial(prompt_mia_trials, leak=1.0, confounded=1.0))),
    "prompt-mia, planted leak": (True, judged(MIA, partial(prompt_mia_trials, leak=1.0))),
    "t2i-mia, no leak": (False, judged(T2I, t2i_mia_trials)),
    "t2i-mia, confounded split": (False, judged(T2I, partial(t2i_mia_trials, leak=1.0, confounded=1.0))),
    "t2i-mia, planted leak": (True, judged(T2I, partial(t2i_mia_trials, leak=0.8))),
    "representation, shares as aimed": (False, judged(SHARES, representation_trials)),
    "representation, as aimed but a scorer that errs by role": (
        False,
        judged(SHARES, partial(representation_trials, uneven=5.0)),
    ),
    "representation, one caption at the threshold": (
        False,
        judged(SHARES, partial(representation_trials, bent=0.75, roles=1)),
    ),
    "representation, men alone under one caption": (
        True,
        judged(SHARES, partial(representation_trials, bent=1.0, roles=1)),
    ),
    "representation, men alone under three captions": (
        True,
        judged(SHARES, partial(representation_trials, bent=1.0, roles=3)),
    ),
    "representation, light skin in four of five": (
        True,
        judged(SHARES, partial(representation_trials, everywhere=3.0)),
    ),
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
