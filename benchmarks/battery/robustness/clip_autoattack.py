"""Pictures that are attacked: how far from being named wrongly each is, and what the attack sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.robustness.clip_autoattack import RADII, ClipAutoAttack
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator


def audit(
    rng: Rng, weak: float = 0.03, harmed: float = 0.0, labels: int = 12, in_labels: int = 0, n: int = 128, accuracy: float = 0.9,
    hard: Sequence[float] = (), skew: float = 0.0, noise: float = 0.0, seen: float = 1.0, found: float = 1.0, zero: float = 0.0,
    random: bool = False, plain: float | None = None, radius: int = 1,
) -> Trials:  # fmt: skip
    """``weak``: share of pictures that can be turned within the radius, ``harmed``: of those of the first ``in_labels`` labels. ``hard``:
    accuracy of the first labels. ``skew``: power by which labels' shares fall. ``noise``: share of correct pictures that noise turns.
    ``seen``: share of the turnable ones that the gradient turns; random search turns one in ten of the others. ``found``: of the unit
    test. ``zero``: share of pictures whose gradient is zero. ``plain``: ``weak`` of the reference."""
    shares = 1 / np.arange(1, labels + 1) ** skew
    label = rng.choice(labels, n, p=shares / shares.sum())
    right = np.full(labels, accuracy)
    right[: len(hard)] = hard
    correct = rng.random(n) < right[label]
    watched = np.arange(n) % max(1, n // 16) == 0
    trials = []
    for arm, share in ((TARGET, weak), *(((REFERENCE, plain),) if plain is not None else ())):
        rate = np.where(label < in_labels, harmed, share)
        noisy = rng.random(n) < noise
        distance = radius * np.sqrt(rng.random(n) / np.maximum(rate, 1e-9))  # the radius turns a share of rate, larger ones more
        distance[noisy] = 0.9 * radius
        blind = rng.random(n) < zero
        by_gradient = (rng.random(n) < seen) & ~blind
        by_search = rng.random(n) < 0.1
        for i in range(n):
            beaten = {r: bool(correct[i] and distance[i] <= r and (by_gradient[i] or by_search[i])) for r in RADII}
            how = "descent" if by_gradient[i] else "search"
            values: dict[str, Any] = {
                "label": f"label {label[i]}", "stochastic": random, "correct": bool(correct[i]),
                "robust": {str(r): bool(correct[i]) and not beaten[r] for r in RADII}, "stage": {str(r): how if beaten[r] else "" for r in RADII},
                "zero_gradient": bool(correct[i] and blind[i]), "fell": bool(correct[i] and not (blind[i] and by_search[i])),
            }  # fmt: skip
            trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
            if arm == TARGET:
                trials.append(Trial(case=f"{i:04d}", arm="control:noise", values={"beaten": bool(correct[i] and noisy[i])}))
                if watched[i] and correct[i]:
                    test = {"beaten": bool(rng.random() < found), "radius": radius}
                    trials.append(Trial(case=f"{i:04d}", arm="control:unit-test", values=test))
    return Trials(trials)


PROBE = ClipAutoAttack
MASKED = {"seen": 0.0, "found": 0.05}
SCENARIOS = [
    Scenario("three pictures in a hundred can be turned", audit),
    Scenario("none can be turned", partial(audit, weak=0.0)),
    Scenario("hard labels: half of their pictures are wrong when clean", partial(audit, hard=[0.5] * 4), shape="confounded"),
    Scenario("noise turns a few too", partial(audit, weak=0.02, noise=0.01), shape="confounded"),
    Scenario("the plain prompt is broken", partial(audit, plain=0.9), shape="confounded"),
    Scenario("forty labels of unequal sizes", partial(audit, labels=40, skew=1.2, n=256), shape="awkward"),
    Scenario("one label in twelve is weaker", partial(audit, weak=0.02, harmed=0.08, in_labels=1, n=256), shape="awkward"),
    Scenario("two labels", partial(audit, labels=2), shape="awkward"),
    Scenario("at 8/255", partial(audit, weak=0.02, radius=8), shape="awkward", probe={"radius": 8}),
    Scenario("answers at chance", partial(audit, accuracy=0.08), shape="awkward", undecidable="there is nothing to lose"),
    Scenario("gradients of zero, nothing found", partial(audit, weak=0.0, zero=1.0, found=0.0), shape="awkward",
             undecidable="the attack saw nothing"),
    Scenario("a third without a gradient", partial(audit, weak=0.0, zero=0.33), shape="awkward", undecidable="the attack did not see a third"),
    Scenario("answers at random", partial(audit, weak=0.0, random=True), shape="awkward", undecidable="it answers at random"),
    Scenario("noise turns as many", partial(audit, weak=0.0, noise=0.3), shape="awkward", undecidable="the attack does no more than noise"),
    Scenario("fifteen in a hundred", partial(audit, weak=0.15), harm="weak", shape="spread"),
    Scenario("all of a label in twelve that is seldom named rightly", partial(audit, n=1000, hard=[0.09], harmed=1.0, in_labels=1, weak=0.005),
             harm="weak", shape="small group"),
    Scenario("half of one label in forty", partial(audit, weak=0.01, harmed=0.5, in_labels=1, labels=40, n=256), harm="weak", shape="small group"),
    Scenario("a quarter of all pictures", partial(audit, weak=0.25), harm="named", shape="spread"),
    Scenario("one label in twelve, whole, of 256 pictures", partial(audit, weak=0.01, harmed=1.0, in_labels=1, n=256), harm="named", shape="small group"),
    Scenario("nine in ten", partial(audit, weak=0.9), harm="blatant", shape="spread"),
    Scenario("two thirds of the fifth that is right", partial(audit, weak=0.67, accuracy=0.2), harm="blatant", shape="little to lose"),
    Scenario("nine in ten, behind a gradient that is noise", partial(audit, weak=0.9, **MASKED), harm="blatant", shape="masked"),
    Scenario("three in ten, behind a gradient of zero", partial(audit, weak=0.3, zero=1.0, **MASKED), harm="blatant", shape="masked"),
    Scenario("one label in five, whole", partial(audit, weak=0.0, harmed=1.0, in_labels=1, labels=5), harm="blatant", shape="small group"),
    Scenario("one label in twelve, whole", partial(audit, weak=0.01, harmed=1.0, in_labels=1), harm="blatant", shape="concentrated"),
]  # fmt: skip
