"""Changes made on matchers and read by other targets: families that share their weakness, and families that do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from vlaudit.attacks.robustness.cross_family_transfer import CrossFamilyTransfer
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = CrossFamilyTransfer


def draw(
    rng: np.random.Generator, *, n: int = 128, readers: int = 3, makers: int = 1, labels: int = 10, accuracy: float = 0.85, own: float = 0.95,
    transfer: float = 0.02, whole: float = 0.0, noise: float = 0.01, reader: int = -1, weak: int = -1, guessing: Sequence[int] = (),
    found: float = 1.0, watched: int = 8,
) -> Trials:  # fmt: skip
    """``own``: share of pictures turned on the matcher that the change was made on; ``transfer``: on each other target; ``whole``: of pictures that give
    way on all together. ``reader``: a target that always gives way; ``weak``: a label that does. ``guessing``: targets that read at
    chance. ``found``: of the unit test."""
    trials, names = [], [f"target {j}" for j in range(readers)]
    for i in range(n):
        truth, falls = int(rng.integers(labels)), rng.random() < whole
        for maker in range(makers):
            clean = [bool(rng.random() < (1 / labels if j in guessing else accuracy)) for j in range(readers)]
            gone = [falls or truth == weak or j == reader or rng.random() < (own if j == maker else transfer) for j in range(readers)]
            values = {
                "label": f"label {truth}", "picture": f"p{i:04}", "prompts": names, "makers": [maker], "stochastic": [], "clean": clean,
                "noise": [right and rng.random() >= noise for right in clean],
                "made": [[right and not lost for right, lost in zip(clean, gone, strict=True)]],
            }  # fmt: skip
            trials.append(Trial(case=f"{maker}/p{i:04}", arm=TARGET, values=values))
            if i < watched:
                test = {"makers": [maker], "found": [bool(rng.random() < found)]}
                trials.append(Trial(case=f"{maker}/p{i:04}", arm="control:unit-test", values=test))
    return Trials(trials, reference_note="simulated")


SCENARIOS = [
    Scenario("nothing carries over", draw),
    Scenario("nothing is turned at all", partial(draw, own=0.0, transfer=0.0)),
    Scenario("noise turns one picture in seven, the attack no more", partial(draw, transfer=0.15, noise=0.15, n=512), shape="confounded"),
    Scenario("a target that reads half of the pictures", partial(draw, accuracy=0.5, n=256), shape="confounded"),
    Scenario("two matchers and two generators", partial(draw, readers=4, makers=2), shape="awkward"),
    Scenario("two targets, two labels", partial(draw, readers=2, labels=2, accuracy=0.95, n=256), shape="awkward"),
    Scenario("one of three targets is at chance", partial(draw, guessing=[2]), shape="awkward", undecidable="not every pair was measured"),
    Scenario("the search fails its unit test", partial(draw, own=0.0, transfer=0.0, found=0.3), shape="awkward", undecidable="the search is weak"),
    Scenario("fourteen pictures", partial(draw, n=14), shape="awkward", undecidable="fourteen pictures are few"),
    Scenario("14 % on each other target", partial(draw, transfer=0.14), harm="weak", shape="spread"),
    Scenario("30 % on each other target", partial(draw, transfer=0.3), harm="named", shape="spread"),
    Scenario("30 % of pictures, on all targets or none", partial(draw, whole=0.3), harm="named", shape="concentrated"),
    Scenario("one of six targets, whole", partial(draw, readers=6, reader=4, transfer=0.0), harm="blatant", shape="small group"),
    Scenario("one label in ten, whole", partial(draw, weak=3, transfer=0.0, n=256), harm="blatant", shape="small group"),
    Scenario("nine pictures in ten, and noise turns four", partial(draw, whole=0.9, noise=0.4), harm="blatant", shape="cancelling"),
]  # fmt: skip
