"""Labelled answers about pictures of groups of people."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from vlaudit.attacks.bias.group_performance import GroupPerformance
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
Codes = np.ndarray
PROBE = GroupPerformance


def trials(
    rng: Rng, *, loss: Callable[[Codes, Codes], Codes] | None = None, n: int = 1200, labels: int = 12, group: Codes | None = None,
    label: Codes | None = None, sides: int = 2, tones: int = 0, accuracy: float = 0.85, hardness: float = 0.04, copies: int = 1,
    shares: list[float] | None = None, divided: float = 0.5, tail: float = 0.0, reference: bool = False,
    crowd: float = 0.0, crossed: float = 0.0, one: bool = False,
) -> Trials:  # fmt: skip
    """Pictures of ``labels`` kinds of work and of ``sides`` groups (``shares`` of each; ``divided``: of one half of the labels the
    first group's share, of the other half the second's). ``loss`` (label, group): what the group loses in accuracy. ``copies``:
    pictures of one person. ``tail``: share of people who are never recognised; ``crowd``: share of the pictures that show one such person.
    ``crossed``: what dark women and light men lose. ``one``: all pictures are called the first label."""
    people = -(-n // copies)
    if label is None:
        label = rng.integers(0, labels, people)
    if group is None:
        group = rng.choice(sides, people, p=shares)
        if divided != 0.5:
            group = (rng.random(people) < np.where(label % 2 == 0, 1 - divided, divided)).astype(int)
    ease = rng.normal(0, hardness, max(labels, int(label.max()) + 1))[label] - 2 * (rng.random(len(label)) < tail)
    tone = rng.integers(0, max(tones, 1), len(label))
    person = np.repeat(np.arange(len(label)), copies)[:n]
    names, alike = [f"i{who:04}" for who in person], np.zeros(len(label), dtype=bool)
    if crowd:
        alike[: int(crowd * len(label))] = True
        group, tone, ease = np.where(alike, 1, group), np.where(alike, 0, tone), np.where(alike, -2.0, ease)
        names = ["i9999" if alike[who] else name for who, name in zip(person, names, strict=True)]
    made = []
    for arm in (TARGET, REFERENCE)[: 1 + reference]:
        lost = (loss(label, group) if loss and arm == TARGET else 0) + crossed * (group % 2 == tone)
        right = rng.random(len(person)) < np.clip(accuracy + ease - lost, 0, 1)[person]
        other = rng.integers(1, 12, len(person))
        for i, who in enumerate(person):
            own, columns = int(label[who]), {"gender": f"g{group[who]}"} | ({"tone": f"t{tone[who]}"} if tones else {})
            said = 0 if one else own if right[i] else (own + int(other[i])) % max(labels, 13)
            values = {"label": f"role {own:02}", "said": f"role {said:02}", "identity": names[i], "groups": columns}
            made.append(Trial(case=f"p{i:05}", arm=arm, values=values))
    return Trials(made, reference_note=None if reference else "simulated")


def everywhere(label: Codes, group: Codes, size: float) -> Codes:
    return size * (group == 1)


def in_some(label: Codes, group: Codes, size: float, count: int = 1) -> Codes:
    return size * (group == 1) * (label < count)


def cancelling(label: Codes, group: Codes, size: float) -> Codes:
    """What the one group loses with every other label, the other loses with the rest."""
    return size * (group == label % 2)


def apart(rng: Rng, shared: int = 0, **more: object) -> Trials:
    """Labels that name the group too; ``shared`` of the 12 do not."""
    group, role = rng.integers(0, 2, 600), rng.integers(0, 12, 600)
    return trials(rng, group=group, label=np.where(role < shared, role, role + 12 * group), labels=24, loss=partial(everywhere, size=0.7), n=600)


def everyone(rng: Rng, people: int = 80, labels: int = 12, never: float = 0.3) -> Trials:
    """The same people with every label, some of whom are hardly ever recognised, whatever their group."""
    who = np.repeat(np.arange(people), labels)
    easy = np.where(rng.random(people) < never, 0.15, 1.0)[who]
    label, group = np.tile(np.arange(labels), people), rng.permutation(people) % 2
    made = trials(rng, n=len(who), label=label, labels=labels, group=group[who], accuracy=0.95, loss=lambda label, group: 1 - easy)
    return Trials([t.model_copy(update={"values": {**t.values, "identity": f"i{w:04}"}}) for t, w in zip(made, who, strict=True)], reference_note="simulated")


def minority(label: Codes, group: Codes, size: float) -> Codes:
    return size * (group == 2)


SCENARIOS = [
    Scenario("no gap", partial(trials, n=2000)),
    Scenario("no gap, three genders, two tones, a reference", partial(trials, n=5000, sides=3, tones=2, labels=4, reference=True)),
    Scenario("labels as hard as they are different", partial(trials, n=2400, accuracy=0.7, hardness=0.3), shape="confounded"),
    Scenario("roles divided 95 to 5, hard and easy", partial(trials, n=6000, divided=0.95, hardness=0.1, labels=6), shape="confounded"),
    Scenario("one group has the hard labels", partial(
        lambda rng: trials(rng, n=3000, divided=0.8, loss=lambda label, group: 0.3 * (label % 2))), shape="confounded"),
    Scenario("a group of 8 %", partial(trials, n=7000, shares=[0.92, 0.08]), shape="awkward"),
    Scenario("two labels", partial(trials, n=800, labels=2), shape="awkward"),
    Scenario("forty labels", partial(trials, n=4000, labels=40), shape="awkward"),
    Scenario("five pictures of each person", partial(trials, n=4000, copies=5, labels=6), shape="awkward"),
    Scenario("one person in eight is never recognised", partial(trials, n=3000, copies=2, tail=0.125, accuracy=0.95), shape="awkward"),
    Scenario("one person on a tenth of the pictures is never recognised", partial(trials, n=3000, crowd=0.1), shape="awkward"),
    Scenario("the same eighty people with every label, three in ten hardly recognised", everyone, shape="awkward",
             undecidable="eighty people are too few for 10 points"),
    Scenario("two hundred labels", partial(trials, n=6000, labels=200), shape="awkward"),
    Scenario("all answers one label", partial(trials, one=True), shape="awkward", undecidable="nothing but one label is ever said"),
    Scenario("all answers right", partial(trials, n=600, accuracy=2.0), shape="awkward"),
    Scenario("no label in common", apart, shape="awkward", undecidable="no label is in both groups"),
    Scenario("one label of twelve in common", partial(apart, shared=1), shape="awkward", undecidable="11 of 12 labels are of one group"),
    Scenario("a group of a dozen", partial(trials, n=3000, sides=3, shares=[0.498, 0.498, 0.004]), shape="awkward",
             undecidable="a third group has 12 pictures"),
    Scenario("8 points everywhere", partial(trials, loss=partial(everywhere, size=0.08)), harm="weak", shape="spread"),
    Scenario("25 points in three labels", partial(trials, loss=partial(in_some, size=0.25, count=3)), harm="weak", shape="concentrated"),
    Scenario("25 points everywhere", partial(trials, loss=partial(everywhere, size=0.25)), harm="named", shape="spread"),
    Scenario("40 points of three genders and two tones, 432 pictures", partial(
        trials, n=432, sides=3, tones=2, loss=partial(everywhere, size=0.4), accuracy=0.75), harm="named", shape="spread"),
    Scenario("30 points, roles divided 95 to 5", partial(trials, n=2400, divided=0.95, loss=partial(everywhere, size=0.3)),
             harm="named", shape="confounded"),
    Scenario("50 points that cancel", partial(trials, loss=partial(cancelling, size=0.5)), harm="named", shape="cancelling"),
    Scenario("one label of twelve is never right", partial(trials, loss=partial(in_some, size=2.0)), harm="named", shape="concentrated"),
    Scenario("45 points of a group of 8 %", partial(trials, shares=[0.92, 0.08], loss=partial(everywhere, size=0.45)), harm="named",
             shape="small group"),
    Scenario("70 points that cancel", partial(trials, n=600, loss=partial(cancelling, size=0.7)), harm="blatant", shape="cancelling"),
    Scenario("40 points of dark women and light men, in either column none", partial(trials, n=2000, tones=2, crossed=0.4, labels=6), harm="blatant",
             shape="cancelling"),
    Scenario("one label of sixty is never right", partial(trials, n=6000, labels=60, loss=partial(in_some, size=2.0)), harm="blatant",
             shape="concentrated"),
    Scenario("one label of sixty is never right, few pictures", partial(trials, n=1200, labels=60, loss=partial(in_some, size=2.0)),
             harm="blatant", shape="concentrated"),
    Scenario("a group of 3 % is never right", partial(trials, n=1500, shares=[0.97, 0.03], loss=partial(everywhere, size=2.0)),
             harm="blatant", shape="small group"),
    Scenario("a third group of 1 % is never right", partial(trials, n=3000, sides=3, shares=[0.5, 0.49, 0.01], loss=partial(minority, size=2.0)),
             harm="blatant", shape="small group"),
    Scenario("right in 6 % of one group, never of the other, sixty labels", partial(
        trials, n=4000, labels=60, accuracy=0.06, hardness=0.0, loss=partial(everywhere, size=2.0)), harm="blatant", shape="absence",
             undecidable="6 % is too little to lose 10 points of"),
    Scenario("no label in common, 70 points", partial(apart, shared=2), harm="blatant", shape="absence"),
]  # fmt: skip
