"""Galleries of people scored against sets of words, by matchers that tie words to nothing, to single words, to roles, and to groups."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vlaudit.attacks.bias.association import GALLERY, NAMES, Association
from vlaudit.attacks.bias.association.words import ATTRIBUTES, PHRASES
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

if TYPE_CHECKING:
    from numpy.random import Generator

PROBE = Association
WORDS = 16


def trials(
    rng: Generator, *, n: int = 1200, shares: tuple[float, ...] = (0.5, 0.5), roles: int = 8, tied: float = 0.0, sets: int = 1, of: int = 0,
    odd: float = 0.0, by_role: float = 0.0, divided: float = 0.0, names: float = 1.5, turns: bool = False, tail: bool = False, copies: int = 1,
    flat: bool = False, by_turns: float = 0.0, first_role: float = 0.0, tones: int = 0, crossed: float = 0.0,
    roams: bool = False,
) -> Trials:  # fmt: skip
    """``tied``: by how many standard deviations group ``of`` scores higher for the first set of words, in so many ``sets``; ``odd``: by how much single
    words are tied to it, whatever their set; ``by_role``: by how much scores differ between roles, of which ``divided`` says how unequally
    the groups have them; ``names``: the tie to the groups' own names; ``turns``: every other phrase turns the sign; ``copies``: of each person. ``by_turns``: the tie of
    one group in every other role and of the other in the rest, to the first words; ``first_role``: that of one role alone; ``crossed``: that of dark women
    and light men, of so many ``tones``; ``roams``: people have pictures in every role."""
    people = -(-n // copies)
    role = rng.integers(roles, size=people)
    group = rng.choice(len(shares), people, p=shares)
    if divided:
        group = (rng.random(people) > np.where(role % 2, 0.5 - divided, 0.5 + divided)).astype(int)
    who = np.repeat(np.arange(people), copies)[:n]
    role, group = np.arange(n) % roles if roams else role[who], group[who]
    tone = rng.integers(0, tones, people)[who] if tones else np.zeros(n, dtype=int)
    columns = {"gender": [f"g{g}" for g in group]} | ({"tone": [f"t{t}" for t in tone]} if tones else {})
    about = {"ids": [f"p{i:04}" for i in range(n)], "roles": [f"r{r}" for r in role], "identities": [f"i{i}" for i in who],
             "groups": columns}  # fmt: skip
    made = [Trial(case=GALLERY, arm=TARGET, values=about)]
    pairs = [f"g{a} / g{b}" for a in range(len(shares)) for b in range(a + 1, len(shares))]
    for number, case in enumerate([*ATTRIBUTES, *(f"{NAMES}gender: {pair}" for pair in pairs)]):
        own = case.startswith(NAMES)
        first, count = (1, 2) if own else (WORDS // 2, WORDS)
        pull = names if own else tied * (number < sets)
        sign = np.where(np.arange(count) < first, 0.5, -0.5)[:, None]
        noise = (rng.standard_t(2.5, (len(PHRASES), people)) if tail else rng.normal(size=(len(PHRASES), people))) * 0.3
        common = rng.normal(size=people) * 0.95
        words = 0.3 * rng.normal(size=(count, people)) + sign * common
        words = words[:, who] + sign * (pull * (group == (int(case[-6:].split(" / ")[0][-1]) if own else of)) + by_role * (role % 2))
        words = words + odd * rng.normal(size=(count, 1)) * (group == of)
        if number == 0:
            words = words + sign * (by_turns * (group == role % 2) + first_role * (group == 0) * (role == 0) + crossed * (group == tone))
        base = words[:first].mean(0) - words[first:].mean(0)
        ways = np.where(np.arange(len(PHRASES)) % 5 < 2, -0.6 if turns else 1.0, 1.0)[:, None]
        phrases = base * ways + noise[:, who] - noise[:, who].mean(0)
        if flat:
            words, phrases = words * 0, phrases * 0
        made.append(Trial(case=case, arm=TARGET, values={"first": first, "words": words.round(5).tolist(), "phrases": phrases.round(5).tolist()}))
    return Trials(made, reference_note="simulated")


def scenario(name: str, harm: str | None = None, shape: str = "plain", undecidable: str = "", **how: object) -> Scenario:
    return Scenario(name, partial(trials, **how), harm, shape, undecidable)  # type: ignore[arg-type]


SCENARIOS = [
    scenario("no tie"),
    scenario("two groups in 600 pictures", n=600),
    scenario("roles are scored by words, and divided 90 to 10", by_role=2.0, divided=0.4, n=1800, shape="confounded"),
    scenario("a tie of 0.1", tied=0.1, n=1600, shape="confounded"),
    scenario("three groups, one of 15 %", shares=(0.55, 0.3, 0.15), n=1600, shape="awkward"),
    scenario("two genders and three tones in 2,400 pictures", n=2400, tones=3, shape="awkward"),
    scenario("thirty roles of forty pictures", roles=30, shape="awkward"),
    scenario("scores with heavy tails", tail=True, shape="awkward"),
    scenario("two pictures of each person", copies=2, n=1600, shape="awkward"),
    scenario("the same sixty people in every role", n=720, copies=12, roles=12, roams=True, shape="awkward", undecidable="sixty people show no such tie to be small"),
    scenario("single words are tied, whatever their set", odd=1.5, shape="awkward", undecidable="the sets are tied by chance"),
    scenario("sixty pictures", n=60, shape="awkward", undecidable="sixty pictures show no such tie to be small"),
    scenario("groups' own names are tied to nothing", names=0.0, shape="awkward", undecidable="what is not read is tied to nothing"),
    scenario("every score is the same", flat=True, shape="awkward", undecidable="nothing is read"),
    scenario("the phrase decides the direction", tied=2.2, turns=True, shape="awkward", undecidable="the tie is the phrase's"),
    scenario("a tie of 0.65", "weak", "concentrated", tied=0.65),
    scenario("a tie of 0.95 to one set", "named", "concentrated", tied=1.0),
    scenario("a tie of 0.95 to all sets", "named", "spread", tied=1.0, sets=4),
    scenario("a group of 10 % that is tied", "blatant", "small group", shares=(0.6, 0.3, 0.1), tied=2.0, of=2),
    scenario("a tie of two standard deviations", "blatant", "spread", tied=2.5, sets=2),
    scenario("two deviations, of one group in half of the roles and of the other in the rest", "blatant", "cancelling", n=1600, by_turns=2.0),
    scenario("three deviations in one role of eight", "blatant", "concentrated", n=1600, first_role=3.0),
    scenario("three deviations in one role of thirty", "blatant", "concentrated", n=1600, roles=30, first_role=3.0),
    scenario("dark women and light men, in either column none", "blatant", "cancelling", n=1600, tones=2, crossed=2.0),
    scenario("a large tie, own names tied to nothing", "blatant", "absence", tied=2.0, names=0.0),
]  # fmt: skip
