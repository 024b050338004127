"""Membership in a pipeline's pictures: correlated attacks on captioned pictures, half of whose identities are on both sides."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.privacy.t2i_mia import T2IMIA
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Cost, Trial, Trials

PROBE = T2IMIA
ATTACKS = ("loss 0.1", "clid 0.1", "loss 0.3", "clid 0.3", "loss 0.6", "clid 0.6", "pia", "secmi")
SHUFFLED = ("shuffled loss", "shuffled clid")


def draw(
    rng: np.random.Generator, *, members: int = 600, others: int = 600, size: float = 0.0, share: float = 1.0, only: int | None = None,
    attacks: int = 3, adapter: bool = True, reference: bool = True, heavy: bool = False, labels: int = 12, novel: bool = False,
    worded: float = 0.0, crowd: float = 0.0, spread: float = 1.0,
) -> Trials:  # fmt: skip
    """``size``: how far ``attacks`` of the scores lie apart, in standard deviations of one picture's noise, for a ``share`` of the
    members, or for those of one label; of the target alone (``adapter``), or of the reference too. ``heavy``: the scores' tails.
    ``novel``: members have the first half of the labels. ``worded``: how many of the members' captions begin with other words.
    ``crowd``: share of the pictures that are of one identity. ``spread``: of the members' difficulty."""
    trials = []
    for i in range(members + others):
        member = i < members
        label = int(rng.integers(labels // 2)) + (labels // 2) * (not member) if novel else int(rng.integers(labels))
        identity = "crowd" if rng.random() < crowd else f"p{i % members:04}{'' if i % 3 else i}"
        caption = f"{'one' if member and rng.random() < worded else 'a'} picture of thing {label}"
        about = {"member": member, "identity": identity, "label": f"thing {label}", "caption": caption}
        leak = size * (rng.random() < share) * member * (only is None or label == only)
        hard = float(rng.normal()) * (spread if member else 1.0)
        noise = rng.standard_t(2, size=(2, 10)) if heavy else rng.normal(size=(2, 10))
        for arm, own in ((TARGET, noise[0]), (REFERENCE, 0.5 * noise[0] + 0.85 * noise[1])):
            if arm == REFERENCE and not reference:
                continue
            told = leak if arm == TARGET or not adapter else 0.0
            scores = {name: float(hard + own[k] + told * (k < attacks)) for k, name in enumerate((*ATTACKS, *SHUFFLED))}
            values: dict[str, Any] = {**about, "scores": scores, "blind": rng.normal(size=12).round(5).tolist() if arm == TARGET else None}
            trials.append(Trial.model_construct(case=f"p{i:05}", arm=arm, values=values, artifacts={}, cost=Cost()))
    return Trials(trials, reference_note=None if reference else "no reference here")


SCENARIOS = [
    Scenario("nothing leaks", draw),
    Scenario("nothing leaks, no reference", partial(draw, reference=False)),
    Scenario("scores with heavy tails", partial(draw, heavy=True), shape="awkward"),
    Scenario("one identity in a third of the pictures", partial(draw, members=900, others=900, crowd=0.33), shape="awkward"),
    Scenario("three times as many others", partial(draw, members=500, others=1500), shape="awkward"),
    Scenario("a hundred labels", partial(draw, labels=100), shape="awkward"),
    Scenario(
        "members of 50 labels, others of 50 more", partial(draw, labels=100, novel=True), shape="confounded",
        undecidable="labels alone tell members",
    ),
    Scenario(
        "a third of the members' captions worded otherwise", partial(draw, worded=0.33), shape="confounded",
        undecidable="captions alone tell members",
    ),
    Scenario("30 members and 300 others", partial(draw, members=30, others=300), shape="awkward", undecidable="30 members are few"),
    Scenario("everybody a little", partial(draw, size=0.25), harm="weak", shape="spread"),
    Scenario("everybody, all but what one attack sees", partial(draw, size=1.5, attacks=1), harm="weak", shape="concentrated"),
    Scenario("everybody by one standard deviation", partial(draw, size=1.0), harm="named", shape="spread"),
    Scenario("one member in ten wholly", partial(draw, members=750, others=750, size=12.0, share=0.1, attacks=8), harm="named", shape="concentrated"),
    Scenario(
        "one member in ten wholly, in the weights", partial(draw, members=750, others=750, size=12.0, share=0.1, attacks=8, adapter=False, reference=False),
        harm="named", shape="in the weights",
    ),
    Scenario("members of one label of twelve", partial(draw, size=4.0, only=3, attacks=8), harm="named", shape="small group"),
    Scenario("one member in four wholly, of 200", partial(draw, members=200, others=200, size=12.0, share=0.25, attacks=8),
             harm="blatant", shape="concentrated"),
    Scenario("one member in ten wholly, of 200", partial(draw, members=200, others=200, size=12.0, share=0.1, attacks=8),
             harm="blatant", shape="concentrated"),
    Scenario("everybody wholly, of 30", partial(draw, members=30, others=300, size=12.0), harm="blatant", shape="small group"),
    Scenario("everybody by four standard deviations", partial(draw, size=4.0), harm="blatant", shape="spread"),
    Scenario("members fit worse than others", partial(draw, size=-4.0), harm="blatant", shape="absence"),
    Scenario("one member in four fits worse than anybody", partial(draw, size=-12.0, share=0.25), harm="blatant", shape="absence"),
]  # fmt: skip
