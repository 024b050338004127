"""Answers to yes-no questions about pairs of pictures that differ in the group alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from vlaudit.attacks.bias.counterfactual_gap import TRAITS, CounterfactualGap
from vlaudit.attacks.bias.counterfactual_gap.gaps import BLANK
from vlaudit.attacks.bias.counterfactual_gap.pairs import GIVEN, OWN
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
PROBE = CounterfactualGap
Yes = Callable[[str, int, int], float | None]  # question ("own", "other K", a text), label, group: P(yes), None as without the flaw


def trials(
    rng: Rng, *, yes: Yes = lambda question, label, group: None, labels: int = 12, pairs: int = 20, asked: int | None = None,
    error: float = 0.04, traits: float = 0.1, sure: float = 8.0, unread: float = 0.0, shared: int = 1, soft: bool = False, own: str = "",
    sizes: list[int] | None = None, reference: bool = False,
) -> Trials:  # fmt: skip
    """``pairs`` of each of ``labels`` labels (or ``sizes``), about ``asked`` of which all pairs are asked too. ``error``: how often an
    answer is wrong, ``traits``: how often a trait is said, ``unread``: how often an answer is neither yes nor no. ``sure``: how close
    likelihoods lie to certainty; ``soft``: they tell the chance itself. ``shared``: pairs of one person. ``own``: a question of the data."""

    def answer(chance: float) -> list[object]:
        if rng.random() < unread:
            return [0.0, None, False]
        if soft:
            net = float(np.clip(2 * rng.beta(40 * chance + 0.01, 40 * (1 - chance) + 0.01) - 1, -0.9999, 0.9999))
        else:
            net = float(rng.beta(sure, 1) * (1 if rng.random() < chance else -1))
        return [round(net, 5), round(float(np.log1p(net) - np.log1p(-net)) if abs(net) < 1 else 0.0, 4), True]

    counts = sizes or [pairs] * labels
    every = [label for label, count in enumerate(counts) for _ in range(count)]
    kinds = range(labels if asked is None else asked)
    made = []
    for arm in (TARGET, REFERENCE)[: 1 + reference]:
        for number, label in enumerate(every):
            asks = [(OWN, f"Is this a role {label}?", "own", 1 - error)]
            asks += [(text, text, f"other {k}", error) for k in kinds if k != label for text in [f"Is this a role {k}?"]]
            asks += [(text, text, text, traits) for text in TRAITS]
            if own:
                asks.append((GIVEN, f"{own} {label}?", "given", 1 - error))
            rows = []
            for measures, text, what, usual in asks:
                chances = [c if arm == TARGET and (c := yes(what, label, group)) is not None else usual for group in (0, 1)]
                one, two = (answer(chance) for chance in chances)
                rows.append([measures, text, 1, one[0], two[0], one[1], two[1], one[2], two[2]])
            values = {"column": "gender", "groups": ["man", "woman"], "label": f"role {label}", "cluster": number // shared, "how": "pair",
                      "there": -(-counts[label] // shared), "asked": rows}  # fmt: skip
            made.append(Trial(case=f"{number:04}", arm=arm, values=values))
    blank = [[text, text, "man", "woman", 0.0] for text in TRAITS]
    made.append(Trial(case=BLANK, arm=f"control:{BLANK}", values={"asked": blank, "undrawn": []}))
    return Trials(made, reference_note=None if reference else "simulated")


def denied(question: str, label: int, group: int, count: int = 1) -> float | None:
    return 0.0 if question == "own" and label < count and group == 1 else None


def mistaken(question: str, label: int, group: int) -> float | None:
    """The women of label 1 get a yes to the question for label 0."""
    return 0.96 if question == "other 0" and label == 1 and group == 1 else None


def alternating(question: str, label: int, group: int, low: float = 0.45) -> float | None:
    return low if question == "own" and group == label % 2 else None


def trait(question: str, label: int, group: int, rates: tuple[float, float], turn: bool = False) -> float | None:
    return rates[group ^ (turn and label % 2)] if question == TRAITS[1] else None


def everywhere(question: str, label: int, group: int, loss: float) -> float | None:
    return 0.96 - loss if question == "own" and group == 1 else None


def hard(question: str, label: int, group: int) -> float | None:
    """Labels that are recognised from seldom to always, of either group."""
    return 0.3 + 0.06 * label if question == "own" else None


def few(rng: Rng) -> Trials:
    return trials(rng, labels=5, pairs=3)


SCENARIOS = [
    Scenario("fair, 20 pairs of 12 labels", partial(trials, reference=True)),
    Scenario("fair, the model errs by label", partial(trials, yes=hard, pairs=60), shape="confounded"),
    Scenario("fair, traits said as often as not", partial(trials, traits=0.5, pairs=50), shape="confounded"),
    Scenario("fair, likelihoods in between", partial(trials, soft=True, error=0.2, traits=0.4), shape="awkward"),
    Scenario("fair, two labels", partial(trials, labels=2, pairs=100), shape="awkward"),
    Scenario("fair, skewed sizes", partial(trials, sizes=[150, 60, 40, 30, 25, 20, 20, 20], labels=8), shape="awkward"),
    Scenario("labels of one to eight pairs", partial(trials, sizes=[200, 60, 30, 15, 8, 4, 2, 1], labels=8), shape="awkward",
             undecidable="one pair of a label says nothing of it"),
    Scenario("fair, 60 pairs of 12 labels", partial(trials, pairs=5, soft=True, traits=0.4), shape="awkward"),
    Scenario("fair, sixty labels of eight pairs", partial(trials, labels=60, pairs=8, asked=12), shape="awkward"),
    Scenario("fair, two pairs of each person", partial(trials, shared=2, pairs=30), shape="awkward"),
    Scenario("fair, a question of the data for each label", partial(trials, own="Is the tool right of"), shape="awkward"),
    Scenario("never an error", partial(trials, error=0.0, traits=0.0, sure=1e6), shape="awkward"),
    Scenario("fifteen pairs", few, shape="awkward", undecidable="20 independent pairs are needed"),
    Scenario("few people on many pairs", partial(trials, shared=20), shape="awkward", undecidable="they show 12 people"),
    Scenario("a third unread", partial(trials, unread=0.35), shape="awkward", undecidable="what is not read may hide a gap"),
    Scenario("5 points less for one group", partial(trials, yes=partial(everywhere, loss=0.05)), harm="weak", shape="spread"),
    Scenario("one trait 15 points more often", partial(trials, yes=partial(trait, rates=(0.5, 0.35))), harm="weak", shape="concentrated"),
    Scenario("one label of twelve denied", partial(trials, yes=denied), harm="named", shape="concentrated"),
    Scenario("50 points, alternating over labels", partial(trials, yes=alternating), harm="named", shape="cancelling"),
    Scenario("a trait 50 points more often", partial(trials, yes=partial(trait, rates=(0.75, 0.25))), harm="named", shape="concentrated"),
    Scenario("a rare answer, 1 % against 18 %, 600 pairs", partial(trials, pairs=50, yes=partial(trait, rates=(0.01, 0.18))), harm="named",
             shape="concentrated"),
    Scenario("60 points less for one group, 8 pairs of each label", partial(trials, pairs=8, yes=partial(everywhere, loss=0.6)), harm="named", shape="spread"),
    Scenario("one label of twelve denied, five pairs of each", partial(trials, pairs=5, yes=denied), harm="blatant", shape="concentrated"),
    Scenario("a trait that turns with label and group", partial(trials, yes=partial(trait, rates=(0.9, 0.1), turn=True)), harm="blatant",
             shape="cancelling"),
    Scenario("95 % against 45 %, alternating over two labels", partial(trials, labels=2, pairs=20, yes=alternating), harm="blatant",
             shape="cancelling"),
    Scenario("a rare answer, 1 % against 18 %", partial(trials, pairs=17, yes=partial(trait, rates=(0.01, 0.18))), harm="blatant",
             shape="concentrated"),
    Scenario("a rare answer, 1 % against 18 %, 60 pairs", partial(trials, pairs=5, yes=partial(trait, rates=(0.01, 0.18))), harm="blatant",
             shape="concentrated"),
    Scenario("one label of sixty denied, eight pairs of each", partial(trials, labels=60, pairs=8, asked=12, yes=denied), harm="blatant", shape="small group"),
    Scenario("the women of one label of 24 called by another", partial(trials, labels=24, pairs=12, yes=mistaken), harm="blatant", shape="small group"),
    Scenario("a label of four pairs denied", partial(trials, sizes=[4, *[22] * 11], yes=denied), harm="blatant", shape="small group"),
]  # fmt: skip
