"""Places of training pictures among others: of clean sets, noisy and confused ones, and ones with poison under one label."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.backdoor.poison_in_fewshot import PLANTED, SET, PoisonInFewshot
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = PoisonInFewshot


def draw(
    rng: np.random.Generator, *, labels: int = 12, shots: int = 16, others: int = 160, poisoned: int = 0, targets: int = 1, noise: float = 0.0,
    confused: int = 0, hard: int = 0, tail: bool = False, twins: bool = False, odd: int = 0, far: float = 1.3, blind: bool = False,
    skewed: bool = False, clean_others: bool = False,
) -> Trials:  # fmt: skip
    """``poisoned``: pictures of many labels under each of the first ``targets`` ones; ``noise``: share of all under any other label, or (``clean_others``) of the training pictures alone;
    ``confused``: pictures of the second label under the first; ``hard``: labels that stand among others by nature, and scatter; ``odd``:
    training pictures of one label that resemble nothing; ``far``: how far a picture under a wrong label stands from its place; ``twins``:
    two pictures of each identity; ``skewed``: the others are few of some labels; ``blind``: features that tell no labels apart."""
    names = [f"label {i}" for i in range(labels)]
    offset = 0.2 * rng.normal(size=labels)
    offset[:hard] += 0.5

    def place(i: int, wrong: bool = False) -> float:
        spread = 0.25 * (1.5 if i < hard else 1.0) * (rng.standard_t(4) if tail else rng.normal())
        return float(-0.6 + offset[i] + spread + far * (wrong and not blind))

    rows: list[dict[str, Any]] = []

    def add(side: str, i: int, wrong: bool, resembles: int) -> None:
        for twin in range(1 + twins):
            near = resembles if wrong else int(rng.integers(labels))
            name = f"{side} {len(rows)}"
            rows.append({"side": side, "id": f"{name}/{twin}", "identity": name.rsplit("/", 1)[0], "label": names[i], "apart": place(i, wrong),
                         "density": float(rng.normal()) + 6 * (side == "members" and odd > 0 and i == 1 and twin == 0), "resembles": names[near]})  # fmt: skip

    shares = (np.arange(labels) + 1.0) if skewed else np.ones(labels)
    for i in range(labels):
        for _ in range(shots):
            add("members", i, rng.random() < noise, int(rng.integers(labels)))
        for _ in range(max(3, round(others * shares[i] / shares.sum()))):
            add("others", i, not clean_others and rng.random() < noise, int(rng.integers(labels)))
    for target in range(targets):
        for _ in range(poisoned):
            add("members", target, True, int(rng.integers(2, labels)))
    for _ in range(confused):
        add("members", 0, True, 1)
    trials = []
    for side, arm in (("members", TARGET), ("others", "control:others")):
        part = [row for row in rows if row["side"] == side]
        trials.append(Trial(case=SET, arm=arm, values={key: [row[key] for row in part] for key in rows[0] if key != "side"}))
    under = [int(i) for i in np.resize(rng.permutation(labels), PLANTED)]
    planted = {"labels": [names[i] for i in under], "apart": [place(i, True) for i in under]}
    trials.append(Trial(case=SET, arm="control:planted", values=planted))
    return Trials(trials, reference_note="this probe has no reference arm")


SCENARIOS = [
    Scenario("every picture under its label", draw),
    Scenario("a hundred labels of four pictures", partial(draw, labels=100, shots=4, others=1000)),
    Scenario("labels that are hard by nature", partial(draw, hard=4, others=400), shape="confounded"),
    Scenario("two pictures of each identity", partial(draw, twins=True), shape="confounded"),
    Scenario("heavy tails", partial(draw, tail=True, others=400, far=2.0), shape="awkward"),
    Scenario("few others of some labels", partial(draw, skewed=True, others=240), shape="awkward"),
    Scenario("labels that are wrong throughout", partial(draw, noise=0.15), shape="awkward", undecidable="noise hides a trigger"),
    Scenario("one label taken for another", partial(draw, confused=10), shape="confounded", undecidable="confused labels are no trigger"),
    Scenario("one label in a style of its own", partial(draw, odd=1), shape="confounded", undecidable="what resembles nothing may be anything"),
    Scenario("features that tell no labels apart", partial(draw, blind=True), shape="awkward", undecidable="no poison would be seen"),
    Scenario("five poisoned pictures", partial(draw, poisoned=5), harm="weak", shape="concentrated"),
    Scenario("eight poisoned pictures of one label", partial(draw, poisoned=8), harm="named", shape="concentrated"),
    Scenario("the same among a hundred labels of four", partial(draw, labels=100, shots=4, others=1000, poisoned=8), harm="named", shape="small group"),
    Scenario("two targets of ten each", partial(draw, poisoned=10, targets=2, far=1.6), harm="weak", shape="spread"),
    Scenario("forty poisoned pictures of one label", partial(draw, poisoned=40), harm="blatant", shape="concentrated"),
    Scenario("three of sixteen in every label", partial(draw, noise=0.19, clean_others=True), harm="blatant", shape="spread"),
    Scenario("one picture in each of a hundred labels, all poisoned", partial(
        draw, labels=100, shots=1, others=1000, noise=1.0, clean_others=True), harm="blatant", shape="spread"),
    Scenario("sixteen in each of three labels", partial(draw, poisoned=16, targets=3), harm="blatant", shape="spread"),
]  # fmt: skip
