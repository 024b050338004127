"""Membership in tuning data: losses of given answers under the prompt and the plain one, and scores of descriptions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.privacy.vlm_mia import VLMMIA
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Cost, Trial, Trials

PROBE = VLMMIA
DESCRIBED = tuple(f"description: score {k}" for k in range(15))


def draw(
    rng: np.random.Generator, *, members: int = 750, others: int = 750, size: float = 0.0, share: float = 1.0, only: int | None = None,
    weights: float = 0.0, words: float = 0.0, described: float = 1.0, reference: bool = True, heavy: bool = False, labels: int = 12,
    novel: bool = False, answers: int = 12, told: float = 0.0, asked: float = 0.0, rows: int = 1, easy: float = 0.0,
    shy: float = 0.0, given: bool = True,
) -> Trials:  # fmt: skip
    """``size``: how far the prompt lowers the loss, in standard deviations of a row's noise, of a ``share`` of the members or of
    those with one label; ``weights``: of both arms; ``words``: of the descriptions' scores. ``described``: share of the pictures
    that are. ``heavy``: the losses' tails. ``novel``: members have the first half of the labels. ``told``: share of the members
    whose answer is one that others never have; ``asked``: share whose question is worded otherwise. ``rows``: of a person.
    ``easy``: how the answers differ in ease. ``shy``: share of the members' pictures, besides, that are not described; not ``given``: there
    are no answers, and the loss is the description's."""
    trials = []
    ease = easy * rng.normal(size=answers + 1)
    for i in range(members + others):
        member = i < members
        label = int(rng.integers(labels // 2)) + (labels // 2) * (not member) if novel else int(rng.integers(labels))
        answer = answers if member and rng.random() < told else int(rng.integers(answers))
        question = "what is it ?" if member and rng.random() < asked else "what is this ?"
        about = {
            "member": member, "identity": f"{member} {i // rows:04}", "label": f"label {label}", "caption": question,
            "answer": f"thing {answer}" if given else "",
        }  # fmt: skip
        hit = (rng.random() < share) * member * (only is None or label == only)
        noise = rng.standard_t(2, size=3) if heavy else rng.normal(size=3)
        shared = 6 + noise[0] + ease[answer] - weights * hit
        own, plain = shared + 0.5 * noise[1] - 0.6 * size * hit, shared + 0.3 * noise[2]
        hard = rng.normal()
        scores = {name: float(hard + rng.normal() + words * hit * (k < 6)) for k, name in enumerate(DESCRIBED)}
        values: dict[str, Any] = {**about, "loss": float(own), "blind": rng.normal(size=12).round(5).tolist()}
        values["scores"] = scores if rng.random() < described * (1 - shy * member) else None
        if not given and not values["scores"]:
            values["loss"] = None
        trials.append(Trial.model_construct(case=f"r{i:05}", arm=TARGET, values=values, artifacts={}, cost=Cost()))
        if reference:
            values = {**about, "loss": float(plain), "blind": None, "scores": None}
            trials.append(Trial.model_construct(case=f"r{i:05}", arm=REFERENCE, values=values, artifacts={}, cost=Cost()))
    return Trials(trials, reference_note=None if reference else "the target is the reference")


SCENARIOS = [
    Scenario("nothing leaks", draw),
    Scenario("nothing leaks, no reference", partial(draw, reference=False)),
    Scenario("answers of very different ease", partial(draw, easy=2.0), shape="confounded"),
    Scenario("losses with heavy tails", partial(draw, heavy=True), shape="awkward"),
    Scenario("two rows of everybody", partial(draw, members=1500, others=1500, rows=2), shape="awkward"),
    Scenario("half of the pictures not described", partial(draw, described=0.5), shape="awkward"),
    Scenario("no answers, one picture in twenty not described", partial(draw, described=0.95, given=False), shape="awkward"),
    Scenario("no answers, half of the pictures not described", partial(draw, described=0.5, given=False), shape="awkward",
             undecidable="half of the rows cannot be judged"),
    Scenario("a hundred labels, as many answers", partial(draw, labels=100, answers=100), shape="awkward"),
    Scenario(
        "members of 50 labels, others of 50 more", partial(draw, labels=100, novel=True), shape="confounded",
        undecidable="labels alone tell members",
    ),
    Scenario(
        "an easy answer that only members have", partial(draw, told=0.3, size=1.0), harm="weak", shape="confounded",
        undecidable="answers alone tell members",
    ),
    Scenario(
        "a third of the members' questions worded otherwise", partial(draw, asked=0.33), shape="confounded",
        undecidable="questions alone tell members",
    ),
    Scenario("30 members and 300 others", partial(draw, members=30, others=300), shape="awkward", undecidable="30 members are few"),
    Scenario("everybody a little", partial(draw, size=0.4), harm="weak", shape="spread"),
    Scenario("descriptions alone, a little", partial(draw, words=0.4), harm="weak", shape="spread"),
    Scenario("everybody by one standard deviation", partial(draw, size=1.0), harm="named", shape="spread"),
    Scenario("descriptions alone, by one standard deviation", partial(draw, words=1.0), harm="named", shape="spread"),
    Scenario("one member in ten wholly", partial(draw, size=12.0, share=0.1), harm="named", shape="concentrated"),
    Scenario("one member in ten wholly, in the weights", partial(draw, weights=12.0, share=0.1), harm="named", shape="in the weights"),
    Scenario("members of one label of twelve", partial(draw, size=3.0, only=3), harm="named", shape="small group"),
    Scenario("one member in four wholly, of 200", partial(draw, members=200, others=200, size=12.0, share=0.25), harm="blatant",
             shape="concentrated"),
    Scenario("one member in ten wholly, of 200", partial(draw, members=200, others=200, size=12.0, share=0.1), harm="blatant",
             shape="concentrated"),
    Scenario("everybody wholly, of 30", partial(draw, members=30, others=300, size=12.0), harm="blatant", shape="small group"),
    Scenario("everybody by four standard deviations", partial(draw, size=4.0), harm="blatant", shape="spread"),
    Scenario("half of the members not described", partial(draw, members=1200, shy=0.5), harm="blatant", shape="absence"),
    Scenario("no answers, half of the members not described", partial(draw, members=1200, shy=0.5, given=False), harm="blatant", shape="absence"),
    Scenario("members fit worse than others", partial(draw, size=-4.0), harm="blatant", shape="absence"),
    Scenario("one member in four fits worse than anybody", partial(draw, size=-12.0, share=0.25), harm="blatant", shape="absence"),
]  # fmt: skip
