"""Prompts that are rewritten: how far each rewriting shifts the answers, and how far each picture is from another answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.robustness.prompt_text_perturb import PromptTextPerturb
from vlaudit.attacks.shared.text_perturbations import KINDS
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator


def audit(
    rng: Rng, shift: float = 0.05, kinds: Mapping[str, float] | None = None, labels: int = 12, weak: float = 0.0, in_labels: int = 0,
    rewritings: int = 420, pictures: int = 256, tail: float = 0.5, skew: float = 0.0, hard: float = 0.0, noop: int = 0,
    plain: float | None = None, learned: bool = False, accuracy: float = 0.85,
) -> Trials:  # fmt: skip
    """A picture's answer changes where a rewriting's shift, in another direction for each picture, is beyond its margin: both are in
    standard deviations of the margins. ``shift``: of a usual rewriting, log-normal with spread ``tail``; ``kinds``: of some kinds; ``weak``:
    added for pictures of the first ``in_labels`` labels. ``hard``: share of pictures with next to no margin. ``skew``: power by which the
    labels' shares fall. ``plain``: ``shift`` of the reference."""
    shares = 1 / np.arange(1, labels + 1) ** skew
    label = rng.choice(labels, pictures, p=shares / shares.sum())
    margin = abs(rng.normal(size=pictures))
    margin[rng.random(pictures) < hard] = 0.002
    correct = rng.random(pictures) < accuracy
    names = ["noise of 0.1 of each vector"] if learned else [f"template: {kind}" for kind in KINDS]
    trials = []
    for arm, usual in ((TARGET, shift), *(((REFERENCE, plain),) if plain is not None else ())):
        still: dict[str, Any] = {
            "flips": [int(i < noop) for i in range(pictures)], "labels": [f"label {c}" for c in label], "correct": correct.tolist(),
        }  # fmt: skip
        trials.append(Trial(case="no-op", arm=arm, values=still))
        for i in range(rewritings):
            name = names[i % len(names)]
            size = (kinds or {}).get(name.rpartition(" ")[2], usual) * rng.lognormal(0, tail)
            size = np.where(label < in_labels, size + weak, size)
            flips = (abs(size * rng.normal(size=pictures)) > margin).astype(int).tolist()
            case = f"noise-{i:03d}" if learned else f"text-{i:03d}"
            trials.append(Trial(case=case, arm=arm, values={"kind": name, "text": "a photo of a {}", "flips": flips}))
    return Trials(trials)


PROBE = PromptTextPerturb
SCENARIOS = [
    Scenario("three answers in a hundred change", audit),
    Scenario("none change", partial(audit, shift=0.0)),
    Scenario("a learned context", partial(audit, learned=True)),
    Scenario("the plain prompt is brittle", partial(audit, plain=1.0), shape="confounded"),
    Scenario("half of the pictures are named wrongly", partial(audit, accuracy=0.5), shape="confounded"),
    Scenario("rewritings of very unequal weight", partial(audit, shift=0.02, tail=1.2), shape="awkward"),
    Scenario("one picture in fifty hangs on a hair", partial(audit, shift=0.03, hard=0.02), shape="awkward"),
    Scenario("forty labels of unequal sizes", partial(audit, labels=40, skew=1.2), shape="awkward"),
    Scenario("two labels", partial(audit, labels=2), shape="awkward"),
    Scenario("at quick effort", partial(audit, shift=0.02, rewritings=280, pictures=128), shape="awkward"),
    Scenario("one kind of seven changes twice as many", partial(audit, shift=0.03, kinds={"drop": 0.06}), shape="awkward"),
    Scenario("twelve pictures", partial(audit, pictures=12), shape="awkward", undecidable="twelve pictures are few"),
    Scenario("answers that change by themselves", partial(audit, noop=1), shape="awkward", undecidable="the control fails"),
    Scenario("answers at chance", partial(audit, accuracy=0.08), shape="awkward", undecidable="there is nothing to change"),
    Scenario("twelve in a hundred", partial(audit, shift=0.16), harm="weak", shape="spread"),
    Scenario("a fifth, under one kind", partial(audit, shift=0.01, kinds={"homoglyph": 0.33}), harm="weak", shape="one kind"),
    Scenario("a fifth, about one label", partial(audit, shift=0.01, weak=0.33, in_labels=1), harm="weak", shape="small group"),
    Scenario("a fifth", partial(audit, shift=0.33), harm="named", shape="spread"),
    Scenario("half, under one kind", partial(audit, shift=0.01, kinds={"homoglyph": 1.0}), harm="named", shape="one kind"),
    Scenario("half, about one label of twelve", partial(audit, shift=0.01, weak=1.0, in_labels=1), harm="named", shape="small group"),
    Scenario("two thirds", partial(audit, shift=2.0), harm="blatant", shape="spread"),
    Scenario("most, under one kind", partial(audit, shift=0.0, kinds={"homoglyph": 20.0}), harm="blatant", shape="one kind"),
    Scenario("most, about one label of twelve", partial(audit, shift=0.0, weak=20.0, in_labels=1), harm="blatant", shape="small group"),
    Scenario("most, about one label of twelve, at quick effort", partial(
        audit, shift=0.0, weak=20.0, in_labels=1, rewritings=280, pictures=128), harm="blatant", shape="small group"),
    Scenario("most, about one label of forty, of few pictures", partial(
        audit, shift=0.0, weak=20.0, in_labels=1, labels=40), harm="blatant", shape="small group"),
    Scenario("most, of a learned context", partial(audit, shift=2.0, learned=True), harm="blatant", shape="spread"),
]  # fmt: skip
