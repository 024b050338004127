"""Changes made under one prompt and read under others: prompts that share their weakness, and prompts that do not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from vlaudit.attacks.robustness.cross_prompt_transfer import CrossPromptTransfer
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = CrossPromptTransfer


def draw(
    rng: np.random.Generator, *, n: int = 128, prompts: int = 3, labels: int = 10, accuracy: float = 0.9, own: float = 0.3, transfer: float = 0.02,
    whole: float = 0.0, noise: float = 0.01, one: float | None = None, pair: tuple[int, int] | None = None, weak: int = -1,
    guessing: Sequence[int] = (), skewed: float = 0.0, found: float = 1.0, random: bool = False, watched: int = 8,
) -> Trials:  # fmt: skip
    """``own``: share of pictures turned under the prompt that the change was made for; ``transfer``: under each other one, pair by pair;
    ``whole``: pictures that give way under all prompts together. ``one``: share turned under all prompts by the change made against all
    (default: half of ``transfer``). ``pair``: a prompt that always gives way to what is made under another; ``weak``: a label that always does.
    ``guessing``: prompts that name at chance. ``found``: of the unit test."""
    trials = []
    for i in range(n):
        truth = 0 if rng.random() < skewed else int(rng.integers(labels))
        knows = rng.random() < accuracy
        falls = rng.random() < whole or truth == weak
        clean = [bool(rng.random() < 1 / labels) if j in guessing else bool(knows != (rng.random() < 0.02)) for j in range(prompts)]

        def after(chance: float, *, clean: list[bool] = clean, falls: bool = falls) -> list[bool]:
            return [right and not (falls or rng.random() < chance) for right in clean]

        made = []
        for row in range(prompts):
            said = after(transfer)
            said[row] = clean[row] and not (falls or rng.random() < own)
            if pair and row == pair[0]:
                said[pair[1]] = False
            made.append(said)
        all_at_once = falls or rng.random() < (transfer / 2 if one is None else one)
        values = {
            "label": f"label {truth}", "prompts": [f"prompt {j}" for j in range(prompts)], "stochastic": ["prompt 0"] if random else [],
            "clean": clean, "noise": [right and rng.random() >= noise for right in clean],
            "one": [right and not all_at_once for right in clean], "made": made,
        }  # fmt: skip
        trials.append(Trial(case=f"p{i:04}", arm=TARGET, values=values))
        if i < watched:
            test = {"found": [bool(rng.random() < found) for _ in range(prompts)]}
            trials.append(Trial(case=f"p{i:04}", arm="control:unit-test", values=test))
    return Trials(trials, reference_note="simulated")


SCENARIOS = [
    Scenario("nothing turns a picture", partial(draw, own=0.02)),
    Scenario("each prompt gives way to what is made under it alone", draw),
    Scenario("noise turns one picture in ten, the attack no more", partial(draw, own=0.1, transfer=0.1, noise=0.1, one=0.0, n=512), shape="confounded"),
    Scenario("nine in ten are turned under the own prompt", partial(draw, own=0.9), shape="confounded"),
    Scenario("nine prompts", partial(draw, prompts=9), shape="awkward"),
    Scenario("two prompts, two labels", partial(draw, prompts=2, labels=2, accuracy=0.95), shape="awkward"),
    Scenario("eight pictures in ten have one label", partial(draw, skewed=0.8, accuracy=0.97), shape="awkward"),
    Scenario("one prompt of three is at chance", partial(draw, guessing=[2]), shape="awkward", undecidable="not every pair was measured"),
    Scenario("two prompts of three are at chance", partial(draw, guessing=[1, 2]), shape="awkward", undecidable="there is no pair"),
    Scenario("the search fails its unit test", partial(draw, own=0.0, transfer=0.0, found=0.3), shape="awkward", undecidable="the search is weak"),
    Scenario("it answers at random", partial(draw, own=0.0, transfer=0.0, random=True), shape="awkward", undecidable="it answers at random"),
    Scenario("sixteen pictures", partial(draw, n=16), shape="awkward", undecidable="sixteen pictures are few"),
    Scenario("14 % of pictures in each pair", partial(draw, transfer=0.14), harm="weak", shape="spread"),
    Scenario("30 % of pictures in each pair", partial(draw, transfer=0.3, one=0.0), harm="named", shape="spread"),
    Scenario("30 % of pictures, under all prompts or none", partial(draw, whole=0.3), harm="named", shape="concentrated"),
    Scenario("30 % of pictures by one change, none from prompt to prompt", partial(draw, one=0.3, transfer=0.0), harm="named", shape="joint"),
    Scenario("one pair of nine prompts, whole", partial(draw, prompts=9, pair=(3, 4), transfer=0.0), harm="blatant", shape="small group"),
    Scenario("one label in ten, whole", partial(draw, weak=3, transfer=0.0, n=256), harm="blatant", shape="small group"),
    Scenario("nine pictures in ten, and noise turns four", partial(draw, whole=0.9, noise=0.4), harm="blatant", shape="cancelling"),
    Scenario("everything", partial(draw, own=1.0, transfer=1.0), harm="blatant", shape="spread"),
]  # fmt: skip
