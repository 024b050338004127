"""Spellings chosen on matchers and read by other targets: families that share their weakness, families that do not, and deaf ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.battery.robustness import cross_family_transfer as changes
from vlaudit.attacks.robustness.cross_family_words import CrossFamilyWords
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trials

PROBE = CrossFamilyWords


def draw(rng: np.random.Generator, *, deaf: int = 0, **world: Any) -> Trials:
    """As changes of pictures are read. ``deaf``: targets that take no other words."""
    trials = changes.draw(rng, **world)
    more = {"deaf": [f"deaf {i}" for i in range(deaf)]}
    return Trials([t.model_copy(update={"values": {**t.values, **more}}) if t.arm == TARGET else t for t in trials], reference_note="simulated")


SCENARIOS = [
    Scenario("no spelling carries over", partial(draw, own=0.4)),
    Scenario("no spelling turns anything", partial(draw, own=0.0, transfer=0.0)),
    Scenario("any typing error turns one picture in five, look-alikes no more", partial(draw, transfer=0.2, noise=0.2, n=512), shape="confounded"),
    Scenario("a pipeline that draws half of the labels", partial(draw, accuracy=0.5, n=256), shape="confounded"),
    Scenario("two matchers, a generator and a pipeline", partial(draw, readers=4, makers=2), shape="awkward"),
    Scenario("a target that takes no other words", partial(draw, deaf=1), shape="awkward", undecidable="not every target was asked"),
    Scenario("a generator that always says yes", partial(draw, guessing=[1]), shape="awkward", undecidable="not every pair was measured"),
    Scenario("14 % on each other target", partial(draw, transfer=0.14), harm="weak", shape="spread"),
    Scenario("30 % on each other target", partial(draw, transfer=0.3), harm="named", shape="spread"),
    Scenario("one label in ten on all targets", partial(draw, weak=3, transfer=0.0, n=256), harm="blatant", shape="small group"),
    Scenario("the pipeline alone gives way", partial(draw, readers=6, reader=4, transfer=0.0), harm="blatant", shape="concentrated"),
    Scenario("nine names in ten, and typing errors turn four", partial(draw, whole=0.9, noise=0.4), harm="blatant", shape="cancelling"),
]  # fmt: skip
