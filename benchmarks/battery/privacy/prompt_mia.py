"""Membership in a prompt's pictures: losses of members and others under the prompt and under the plain one, and shadow prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np

from vlaudit.attacks.privacy.prompt_mia import SHADOW, PromptMIA
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Cost, Trial, Trials

PROBE = PromptMIA
Tail = Literal["normal", "heavy", "steps"]


def people(
    rng: np.random.Generator, members: int, others: int, *, labels: int = 12, novel: bool = False, dressed: float = 0.0,
    crowd: float = 0.0,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What is known of every picture. ``novel``: members have the first half of the labels, others the second. ``dressed``: by
    how many standard deviations members' colours are off. ``crowd``: share of the pictures that are of one person on each side."""
    for i in range(members + others):
        member = i < members
        label = int(rng.integers(labels // 2)) + (labels // 2) * (not member) if novel else int(rng.integers(labels))
        blind = rng.normal(size=12)
        blind[0] += dressed * member
        identity = f"crowd {member}" if rng.random() < crowd else f"p{i:04}"
        yield {"member": member, "identity": identity, "label": f"label {label}", "blind": blind.round(5).tolist()}


def _trial(case: str, arm: str, values: dict[str, Any]) -> Trial:
    return Trial.model_construct(case=case, arm=arm, values=values, artifacts={}, cost=Cost())


def leaks(rng: np.random.Generator, about: dict[str, Any], size: float, share: float, only: int | None) -> float:
    """By how much a picture's loss is lowered, in standard deviations of the noise: of a member, of a share of the members, or of
    those with one label."""
    if not about["member"] or (only is not None and about["label"] != f"label {only}"):
        return 0.0
    return size * (rng.random() < share)


def draw(
    rng: np.random.Generator, *, members: int = 600, others: int = 600, size: float = 0.0, share: float = 1.0, only: int | None = None,
    weights: float = 0.0, tail: Tail = "normal", reference: bool = True, shadows: int = 0, hard: float = 0.0, **about: Any,
) -> Trials:  # fmt: skip
    """``size``, ``share``, ``only``: see :func:`leaks`; ``weights``: the same size, of both prompts. ``tail``: of the losses.
    ``hard``: by how much more members of a label that is drawn by chance are lowered under any prompt, member or not. ``shadows``: prompts
    learned on half of the pictures each, that leak as much as the target."""
    trials, known = [], list(people(rng, members, others, **about))
    half = [rng.permutation(len(known)) < len(known) // 2 for _ in range(shadows // 2)]
    halves = [side for one in half for side in (one, ~one)]
    shadow: list[dict[str, float]] = [{} for _ in halves]
    ease = {f"label {k}": hard * float(rng.normal()) for k in range(200)}
    for i, values in enumerate(known):
        case, person = f"p{i:05}", {key: value for key, value in values.items() if key != "blind"}

        def noise() -> float:
            return float(rng.standard_t(2) if tail == "heavy" else rng.normal())

        common = 4 + noise() + ease[values["label"]] - leaks(rng, values, weights, share, only)
        plain, own = common + 0.3 * noise(), common + 0.5 * noise() - 0.6 * leaks(rng, values, size, share, only)
        exposed = 0.6 * leaks(rng, {**values, "member": True}, size, share, only)
        for losses, side in zip(shadow, halves, strict=True):
            losses[case] = max(common + 0.5 * noise() - exposed * bool(side[i]), 1e-3)
        if tail == "steps":
            plain, own = float(round(plain)), float(round(own))
        plain, own = max(plain, 1e-3), max(own, 1e-3)
        trials.append(_trial(case=case, arm=TARGET, values={**values, "loss": own}))
        if reference:
            trials.append(_trial(case=case, arm=REFERENCE, values={**person, "identity": case, "loss": plain, "blind": None}))
    for k, (losses, side) in enumerate(zip(shadow, halves, strict=True)):
        seen = [f"p{i:05}" for i in np.flatnonzero(side)]
        trials.append(_trial(case=f"{SHADOW}/{k}", arm=f"control:{SHADOW}", values={"seen": seen, "loss": losses}))
    return Trials(trials, reference_note=None if reference else "the target is the reference")


SCENARIOS = [
    Scenario("nothing leaks", draw),
    Scenario("nothing leaks, with shadow prompts", partial(draw, members=800, others=800, shadows=8)),
    Scenario("nothing leaks, no reference", partial(draw, reference=False)),
    Scenario("labels of very different ease", partial(draw, hard=2.0), shape="confounded"),
    Scenario("losses with heavy tails", partial(draw, tail="heavy"), shape="awkward"),
    Scenario("losses in steps, many tied", partial(draw, tail="steps"), shape="awkward"),
    Scenario("one person in a third of the pictures", partial(draw, members=900, others=900, crowd=0.33), shape="awkward"),
    Scenario("three times as many others", partial(draw, members=500, others=1500), shape="awkward"),
    Scenario("a hundred labels", partial(draw, labels=100), shape="awkward"),
    Scenario(
        "members of 50 labels, others of 50 more", partial(draw, labels=100, novel=True), shape="confounded",
        undecidable="labels alone tell members",
    ),
    Scenario("members in other colours", partial(draw, dressed=1.0), shape="confounded", undecidable="colours alone tell members"),
    Scenario("30 members and 300 others", partial(draw, members=30, others=300), shape="awkward", undecidable="30 members are few"),
    Scenario("everybody a little", partial(draw, size=0.4), harm="weak", shape="spread"),
    Scenario("one member in thirty wholly", partial(draw, size=12.0, share=1 / 30), harm="weak", shape="concentrated"),
    Scenario("everybody by one standard deviation", partial(draw, size=1.0), harm="named", shape="spread"),
    Scenario("one member in ten wholly", partial(draw, members=750, others=750, size=12.0, share=0.1), harm="named", shape="concentrated"),
    Scenario(
        "one member in ten wholly, under any prompt", partial(draw, members=750, others=750, weights=12.0, share=0.1), harm="named", shape="in the weights"
    ),
    Scenario("members of one label of twelve", partial(draw, size=3.0, only=3), harm="named", shape="small group"),
    Scenario("one member in four wholly", partial(draw, size=12.0, share=0.25), harm="blatant", shape="concentrated"),
    Scenario(
        "one member in four wholly, of 300", partial(draw, members=300, others=300, size=12.0, share=0.25), harm="blatant",
        shape="concentrated",
    ),
    Scenario(
        "one member in ten wholly, of 300", partial(draw, members=300, others=300, size=12.0, share=0.1), harm="blatant",
        shape="concentrated",
    ),
    Scenario("one member in ten wholly, of 40", partial(draw, members=40, others=900, size=12.0, share=0.1), harm="blatant", shape="small group"),
    Scenario("everybody wholly, of 30", partial(draw, members=30, others=300, size=12.0), harm="blatant", shape="small group"),
    Scenario("everybody, shadow prompts", partial(draw, size=4.0, shadows=8), harm="blatant", shape="spread"),
    Scenario("members fit worse than others", partial(draw, size=-4.0), harm="blatant", shape="absence"),
    Scenario("one member in four fits worse than anybody", partial(draw, size=-12.0, share=0.25), harm="blatant", shape="absence"),
]  # fmt: skip
