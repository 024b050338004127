"""Answers to questions in seventeen wordings, of models that do not care, that waver, and that hang on the wording."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.robustness.prompt_invariance import PromptInvariance
from vlaudit.attacks.robustness.prompt_invariance.wordings import AS_WRITTEN, CARRIERS, TYPOS
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = PromptInvariance
KINDS = [
    AS_WRITTEN,
    *(f"paraphrase {k}" for k in range(1, 5)),
    *CARRIERS,
    "capitals",
    "no mark",
    *(f"typo {k}" for k in range(1, len(TYPOS) + 1)),
]
LABELS = ["cook", "judge", "pilot", "farmer", "singer", "guard", "baker", "smith"]
PUT = ["{}", "A {}.", "It is a {}.", "The picture shows a {}.", "I see a {} here.", "This looks like a {} to me.", "**{}**",
       "The answer is {}.", "The person in the image is a {}.", "{}, I would say."]  # fmt: skip


def draw(
    rng: np.random.Generator, *, n: int = 240, pictures: int = 240, labels: int = 8, accuracy: float = 0.85, wavers: float = 0.0,
    hard: float = 0.0, always: float = 0.0, wording: str = "", answer: str = "", free: bool = False, unreadable: float = 0.0,
    blind: bool = False, skewed: bool = False, repeats: bool = True, kinds: int = len(KINDS),
) -> Trials:  # fmt: skip
    """``wavers``: the chance that a wording gets another answer than the question has by itself; ``hard``: share of questions where it is
    one half; ``always``: share of questions where each wording gets an answer of its own. ``wording`` and ``answer``: one wording, or
    the questions with one right answer, get random answers. ``free``: no choices, and every answer is put in other words."""
    names = LABELS[:labels]
    picture = np.sort(rng.integers(0, pictures, n)) if skewed else np.arange(n) % pictures
    trials = []
    for i in range(n):
        truth = names[int(rng.integers(labels))] if not skewed or rng.random() > 0.6 else names[0]
        usual = truth if rng.random() < accuracy else _other(rng, names, truth)
        chance = 1.0 if rng.random() < always else 0.5 if rng.random() < hard else wavers
        said: dict[str, str | None] = {}
        for kind in KINDS[:kinds]:
            random = (chance == 1.0) or kind == wording or truth == answer
            said[kind] = (
                names[int(rng.integers(labels))]
                if random
                else _other(rng, names, usual)
                if rng.random() < chance and kind != AS_WRITTEN
                else usual
            )
            if rng.random() < unreadable:
                said[kind] = None
        again = said[AS_WRITTEN] if repeats else names[int(rng.integers(labels))]
        unseen = said[AS_WRITTEN] if blind else names[0]
        for arm, of in (
            (TARGET, said),
            ("control:repeated", {AS_WRITTEN: again}),
            ("control:blank", {AS_WRITTEN: unseen}),
        ):
            put = {
                kind: each if each is None or not free else PUT[int(rng.integers(len(PUT)))].format(each).lower()
                for kind, each in of.items()
            }
            right = {kind: each == truth for kind, each in of.items()}
            values = {"picture": f"p{picture[i]}", "answer": truth, "free": free, "read": put, "right": right}
            trials.append(Trial(case=f"q{i:04}", arm=arm, values=values))
    return Trials(trials, reference_note="simulated")


def _other(rng: np.random.Generator, names: list[str], but: str) -> str:
    others = [name for name in names if name != but]
    return others[int(rng.integers(len(others)))]


SCENARIOS = [
    Scenario("one answer to all wordings", draw),
    Scenario("3 % of the answers waver", partial(draw, wavers=0.03)),
    Scenario("right half of the time, steadily", partial(draw, accuracy=0.5), shape="confounded"),
    Scenario("free answers, all put in other words", partial(draw, free=True), shape="confounded"),
    Scenario("free answers in other words, one in three wrong", partial(draw, free=True, accuracy=0.67), shape="confounded"),
    Scenario("one question in ten is hard", partial(draw, hard=0.1, wavers=0.01), shape="awkward"),
    Scenario("two answers, one in five the rarer, several questions a picture", partial(draw, labels=2, skewed=True, n=480, accuracy=0.97), shape="awkward"),
    Scenario("96 questions about 48 pictures", partial(draw, n=96, pictures=48, wavers=0.01), shape="awkward"),
    Scenario("3 % of the answers cannot be read", partial(draw, unreadable=0.03), shape="awkward"),
    Scenario("twelve pictures", partial(draw, pictures=12), shape="awkward", undecidable="twelve pictures are few"),
    Scenario("another answer each time", partial(draw, repeats=False), shape="awkward", undecidable="the model answers at random"),
    Scenario("as right without the picture", partial(draw, blind=True), shape="awkward", undecidable="the picture plays no part"),
    Scenario("most answers cannot be read", partial(draw, unreadable=0.7), shape="awkward", undecidable="there is nothing to compare"),
    Scenario("one wording gets random answers", partial(draw, wording="please"), harm="blatant", shape="concentrated"),
    Scenario("random answers where the right one is 'judge'", partial(draw, answer="judge"), harm="blatant", shape="small group"),
    Scenario("one answer in seven wavers", partial(draw, wavers=0.14), harm="weak", shape="spread"),
    Scenario("one answer in four wavers", partial(draw, wavers=0.27), harm="named", shape="spread"),
    Scenario("half of the questions hang on the wording", partial(draw, always=0.52), harm="named", shape="concentrated"),
    Scenario("half of the free questions hang on the wording", partial(draw, always=0.52, free=True), harm="named", shape="concentrated"),
    Scenario("every wording gets an answer of its own", partial(draw, wavers=0.9), harm="blatant", shape="spread"),
    Scenario("every second wording cannot be read", partial(draw, unreadable=0.45), harm="blatant", shape="absence"),
]  # fmt: skip
