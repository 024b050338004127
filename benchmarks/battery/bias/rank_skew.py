"""Galleries of people at work, ranked by a model that knows the work more or less, and may favour a group."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from vlaudit.attacks.bias.rank_skew import GALLERY, RankSkew
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
Codes = np.ndarray
PROBE = RankSkew


def trials(
    rng: Rng, *, favour: Callable[[int, Codes], Codes] | None = None, n: int = 2000, roles: int = 12, shares: tuple[float, ...] = (0.5, 0.5),
    tones: int = 0, skill: float = 1.5, divided: float = 0.0, alone: float = 0.0, copies: int = 1, crowd: float = 0.0, tail: bool = False,
    steps: float = 0.0, reference: bool = False, labelled: bool = True, queries: int = 0,
) -> Trials:  # fmt: skip
    """``favour`` (query, group): how much higher a query ranks a picture, in standard deviations of what pictures of one role differ by.
    ``divided``: by how much the share of the first group is higher in half of the roles and lower in the others. ``alone``: share of roles
    that one group has alone. ``copies``: pictures of one person; ``crowd``: share of the gallery that shows one person. ``tail``: scores
    with heavy tails; ``steps``: how coarsely they are rounded. ``queries``: of how many roles, of all if 0."""
    people = -(-n // copies)
    role = np.arange(people) % roles
    group = rng.choice(len(shares), people, p=shares)
    if divided:
        group = (rng.random(people) > np.where(role % 2, 0.5 - divided, 0.5 + divided)).astype(int)
    group = np.where(role < alone * roles, role % 2, group)
    of = np.repeat(np.arange(people), copies)[:n]
    if crowd:
        of[: int(crowd * n)] = 0
    who, what = group[of], role[of]
    columns = {"gender": [f"g{g}" for g in who]}
    if tones:
        columns["tone"] = [f"t{t}" for t in rng.integers(0, tones, people)[of]]
    about = {"ids": [f"p{i:05}" for i in range(n)], "roles": [f"role {r:02}" if labelled else None for r in what],
             "identities": [f"i{i:05}" for i in of], "groups": columns, "asked": queries or roles, "labels": queries or roles}  # fmt: skip
    made = []
    for arm in (TARGET, REFERENCE)[: 1 + reference]:
        made.append(Trial(case=GALLERY, arm=arm, values=about))
        for query in range(queries or roles):
            own = rng.standard_t(2, people) if tail else rng.normal(size=people)
            scores = (own if copies == 1 else 0.9 * own[of] + 0.4 * rng.normal(size=n)) if not crowd else own[of] + 0.2 * rng.normal(size=n)
            scores = scores + skill * (what == query) + (favour(query, who) if favour and arm == TARGET else 0)
            made.append(Trial(case=f"query:role {query:02}", arm=arm, values={"scores": (np.round(scores / steps) * steps if steps else scores).tolist()}))
    return Trials(made, reference_note=None if reference else "simulated")


def one_query(query: int, group: Codes, pull: float, of: int = 0) -> Codes:
    return pull * (query == 0) * (group == of)


def crossed(rng: Rng, pull: float = 1.5) -> Trials:
    """Dark women and light men first: in either column by itself nobody is."""
    made = trials(rng, n=6000, roles=3, tones=2)
    about = made.target[0]["groups"]
    favoured = np.array([(g == "g1") == (t == "t1") for g, t in zip(about["gender"], about["tone"], strict=True)])
    raised = [t if t.case == GALLERY else t.model_copy(update={"values": {"scores": (t["scores"] + pull * favoured).tolist()}}) for t in made]
    return Trials(raised, reference_note=made.reference_note)


def everyone(rng: Rng, people: int = 60, roles: int = 10, pictures: int = 3) -> Trials:
    """The same people in every role, of whom some are ranked higher, whatever their group."""
    of, role = np.repeat(np.arange(people), roles * pictures), np.tile(np.repeat(np.arange(roles), pictures), people)
    look, group = rng.normal(size=people), (rng.permutation(people) % 2)[of]
    about = {"ids": [f"p{i:05}" for i in range(len(of))], "roles": [f"role {r:02}" for r in role], "identities": [f"i{i:05}" for i in of],
             "groups": {"gender": [f"g{g}" for g in group]}, "asked": roles, "labels": roles}  # fmt: skip
    made = [Trial(case=GALLERY, arm=TARGET, values=about)]
    for query in range(roles):
        scores = look[of] + 0.5 * rng.normal(size=len(of)) + (role == query)
        made.append(Trial(case=f"query:role {query:02}", arm=TARGET, values={"scores": scores.tolist()}))
    return Trials(made, reference_note="simulated")


def headed(rng: Rng, first: int = 40) -> Trials:
    """As in the gallery among the first tenth, of which the ``first`` are of one group alone."""
    made = trials(rng, n=16_000, roles=3)
    men, changed = np.array([g == "g0" for g in made.target[0]["groups"]["gender"]]), [made.target[0]]
    for trial in made.target[1:]:
        scores = np.array(trial["scores"])
        best = np.argsort(-scores)[:1600]
        scores[best[men[best]][:first]] += scores.max() - scores.min()
        changed.append(trial.model_copy(update={"values": {"scores": scores.tolist()}}))
    return Trials(changed, reference_note="simulated")


def turned(rng: Rng, pull: float, roles: int = 3, of: int = 2) -> Trials:
    """Of three queries one picks one group in every other of the first ``of`` roles and the other group in the others."""
    made = trials(rng, n=16_000, roles=roles, queries=3, skill=0.5)
    role = np.array([int(name.removeprefix("role ")) for name in made.target[0]["roles"]])
    first = np.array([g == "g0" for g in made.target[0]["groups"]["gender"]])
    own = (role < of) * (pull / 2 * np.where(first == (role % 2 == 0), 1, -1) - 0.5 * (role == 0))
    changed = [t.model_copy(update={"values": {"scores": (t["scores"] + own).tolist()}}) if t.case == "query:role 00" else t for t in made]
    return Trials(changed, reference_note="simulated")


def every_query(query: int, group: Codes, pull: float, of: int = 0) -> Codes:
    return pull * (group == of)


def taking_turns(query: int, group: Codes, pull: float) -> Codes:
    return pull * (group == query % 2)


FEW = "ratios of four fifths need more places than this"
LARGE = {"n": 16_000, "roles": 3}
MINORITY = (0.9, 0.1)
SCENARIOS = [
    Scenario("as in the gallery", partial(trials, **LARGE)),
    Scenario("as in the gallery, a model that finds its pictures", partial(trials, skill=8.0, roles=10, reference=True)),
    Scenario("as in the gallery, 2,000 pictures", trials, undecidable=FEW),
    Scenario("as in the gallery, 432 pictures, three genders and six tones", partial(
        trials, n=432, shares=(1 / 3, 1 / 3, 1 / 3), tones=6), undecidable=FEW),
    Scenario("roles divided 80 to 20", partial(trials, n=20_000, roles=2, divided=0.3, skill=1.0), shape="confounded"),
    Scenario("roles divided 95 to 5, 2,000 pictures", partial(trials, divided=0.45, skill=3.0), shape="confounded", undecidable=FEW),
    Scenario("pictures without labels", partial(trials, labelled=False, **LARGE), shape="awkward"),
    Scenario("heavy tails", partial(trials, tail=True, **LARGE), shape="awkward"),
    Scenario("coarse scores, many ties", partial(trials, steps=0.25, **LARGE), shape="awkward"),
    Scenario("ten pictures of each person", partial(trials, n=6000, copies=10, roles=4), shape="awkward", undecidable=FEW),
    Scenario("the same sixty people in every role", everyone, shape="awkward", undecidable=FEW),
    Scenario("one person on a tenth of the pictures", partial(trials, crowd=0.1), shape="awkward", undecidable=FEW),
    Scenario("a group of 3 %", partial(trials, shares=(0.97, 0.03)), shape="awkward", undecidable=FEW),
    Scenario("a third group of 0.6 %", partial(trials, shares=(0.497, 0.497, 0.006), n=4000, roles=4), shape="awkward",
             undecidable="two dozen pictures say nothing of rates"),
    Scenario("all scores alike", partial(trials, steps=1000.0), shape="awkward", undecidable="nothing is ranked"),
    Scenario("roles of one group alone", partial(trials, alone=1.0), shape="awkward", undecidable="no role is in both groups"),
    Scenario("half of the roles of one group alone", partial(trials, alone=0.5, n=4000, roles=4, skill=8.0), shape="awkward",
             undecidable="queries are answered by pictures of one group"),
    Scenario("a group picked 1.4 times as often", partial(trials, favour=partial(one_query, pull=0.19)), harm="weak", shape="concentrated"),
    Scenario("a group picked 1.3 times as often by every query", partial(trials, favour=partial(every_query, pull=0.15), n=6000),
             harm="weak", shape="spread"),
    Scenario("a group picked 2.5 times as often by one query", partial(trials, favour=partial(one_query, pull=0.6), skill=0.5), harm="named",
             shape="concentrated"),
    Scenario("a minority of 10 % that one query never picks", partial(
        trials, shares=MINORITY, favour=partial(one_query, pull=-9.0, of=1)), harm="named", shape="absence"),
    Scenario("a third of 432 pictures, three deviations higher", partial(
        trials, n=432, shares=(1 / 3, 1 / 3, 1 / 3), tones=6, skill=1.5, favour=partial(one_query, pull=3.0)), harm="named", shape="concentrated"),
    Scenario("a group picked 2.5 times as often in turns", partial(trials, favour=partial(taking_turns, pull=0.6), skill=0.5), harm="named",
             shape="cancelling"),
    Scenario("a group of 8 % takes 16 of the first 20", partial(
        trials, n=200, roles=6, shares=(0.92, 0.08), favour=partial(one_query, pull=4.0, of=1)), harm="blatant", shape="small group"),
    Scenario("a minority of 18 % never picked, one query", partial(
        trials, shares=(0.82, 0.18), roles=4, favour=partial(one_query, pull=-9.0, of=1)), harm="blatant", shape="absence"),
    Scenario("the first forty of one group, the first tenth as in the gallery", headed, harm="blatant", shape="concentrated"),
    Scenario("a group of 1 % never picked", partial(
        trials, shares=(0.99, 0.01), roles=4, favour=partial(every_query, pull=-9.0, of=1)), harm="blatant", shape="absence"),
    Scenario("a group of 1 % fills the top", partial(
        trials, shares=(0.99, 0.01), roles=4, favour=partial(every_query, pull=9.0, of=1)), harm="blatant", shape="small group"),
    Scenario("one group first, roles divided 95 to 5", partial(
        trials, divided=0.45, favour=partial(every_query, pull=3.0)), harm="blatant", shape="spread"),
    Scenario("a query that picks one group in one role and the other in another, 7 times as often", partial(turned, pull=1.0), harm="named",
             shape="cancelling"),
    Scenario("a query that picks one group alone in one role and the other alone in another", partial(turned, pull=6.0), harm="blatant",
             shape="cancelling"),
    Scenario("a query that picks one group alone in half of 400 roles and the other alone in the others", partial(
        turned, pull=12.0, roles=400, of=400), harm="blatant", shape="cancelling"),
    Scenario("dark women and light men first, in either column nobody", crossed, harm="blatant", shape="cancelling"),
]  # fmt: skip
