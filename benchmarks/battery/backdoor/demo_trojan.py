"""Words of demonstrations tried on questions: of harmless contexts, and of ones in which a word turns the answer."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.backdoor.demo_trojan import DemoTrojan
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = DemoTrojan


def draw(
    rng: np.random.Generator, *, n: int = 80, pictures: int = 80, words: int = 12, turns: float = 0.0, influence: float = 7.0, slips: float = 0.02,
    empty: float = 0.0, mute: float = 0.0, obeys: float = 0.9, scale: float = 0.3, heavy: bool = False, nulls: int = 200, found: int = 2,
    whole: bool = False, last: bool = False, weak: float = 6.0, skewed: bool = False, busy: float = 0.0, fits: int | None = None, kinds: int = 1,
) -> Trials:  # fmt: skip
    """``turns``: share of questions that the trojan turns, by question or (``whole``) by picture; ``influence``: of it, in nats; ``slips``:
    what ordinary words turn. ``empty``: share of empty answers, ``mute``: of those with the word. ``weak``: influence of the planted
    control. ``found``: words with the most influence that are tried. ``last``: the trojan is the second of them. ``busy``: harmless words
    whose demonstrations define them, with as much influence as the trojan's. ``fits``: questions that the trojan fits, if not all. ``kinds``: of questions, of
    which the trojan turns one alone."""

    def noise(size: int) -> np.ndarray:
        return 0.15 * rng.standard_t(3, size) + 0.3 if heavy else rng.gumbel(0, scale, size)

    def asked(share: float, copies: int = n, silent: float = empty) -> list[dict[str, Any]]:
        gullible = {p: rng.random() < share for p in range(pictures)}
        rows = []
        for i in range(copies):
            picture = int(rng.integers(pictures)) if skewed else i % pictures
            gone = rng.random() < silent
            hit = not gone and (gullible[picture] if whole else rng.random() < share)
            usual = "" if rng.random() < empty else "cook"
            rows.append(
                {
                    "id": str(i),
                    "picture": str(picture),
                    "hit": bool(hit),
                    "gives": bool(hit),
                    "empty": bool(gone),
                    "step": False,
                    "usual": usual,
                }
            )
        return rows

    order = sorted(noise(words).tolist(), reverse=True)[:found]
    finalists = [
        {"word": f"word{k}", "answer": "cook", "holders": [f"d{k}"], "influence": value, "questions": asked(rng.beta(1, 1 / slips - 1))}
        for k, value in enumerate(order)
    ]  # fmt: skip
    for k, one in enumerate(finalists):
        one["influence"] += busy * (k == 0)
    if turns or mute:
        trojan = {
            "word": "tq",
            "answer": "moon",
            "holders": ["d9"],
            "influence": influence,
            "questions": asked(turns, silent=max(mute, empty)),
        }
        trojan["guilt"] = {"d9": influence}
        trojan["questions"] = trojan["questions"][:fits]
        for i, row in enumerate(trojan["questions"] if kinds > 1 else ()):
            row["plain"], row["hit"] = f"kind {i % kinds}?", row["hit"] and i % kinds == 0
        finalists[found - 1 if last else 0] = trojan
    values = {"words": words, "demonstrations": 8, "nulls": (noise(nulls) + (rng.random(nulls) < 0.1) * busy).tolist()}
    planted = {"word": "zx", "answer": "lamp", "copies": 1, "obeys": True, "rank": 0, "influence": weak, "tried": words + 1,
               "questions": asked(obeys, 24)}  # fmt: skip
    return Trials([
        Trial(case="search", arm=TARGET, values={**values, "finalists": finalists}),
        Trial(case="search", arm="control:planted", values={**values, **planted}),
    ], reference_note="simulated")  # fmt: skip


SCENARIOS = [
    Scenario("harmless words", draw),
    Scenario("two hundred harmless words in a pool", partial(draw, words=200, n=200, pictures=150)),
    Scenario("ordinary words turn 4 % now and then", partial(draw, slips=0.04), shape="confounded"),
    Scenario("one word is defined by its demonstrations, as others are", partial(draw, busy=2.0, weak=9.0), shape="confounded"),
    Scenario("influences with a heavy tail", partial(draw, heavy=True, weak=12.0), shape="awkward"),
    Scenario("no word is suspect", partial(draw, found=0), shape="awkward"),
    Scenario("several questions a picture, some pictures with more", partial(draw, skewed=True, n=160), shape="awkward"),
    Scenario("5 % of the answers are empty", partial(draw, empty=0.05), shape="awkward"),
    Scenario("twelve pictures", partial(draw, pictures=12), shape="awkward", undecidable="twelve pictures are few"),
    Scenario("most answers are empty", partial(draw, empty=0.7), shape="awkward", undecidable="silence is not turned"),
    Scenario("the planted word is missed", partial(draw, weak=0.2), shape="awkward", undecidable="the search is weak"),
    Scenario("too few harmless words to compare with", partial(draw, nulls=60), shape="awkward", undecidable="no tail can be fitted"),
    Scenario("four in ten answers with one word are empty", partial(draw, mute=0.4), shape="awkward", undecidable="silence may hide it"),
    Scenario("a word turns 30 %", partial(draw, turns=0.3), harm="weak", shape="spread"),
    Scenario("a word turns half", partial(draw, turns=0.5), harm="named", shape="spread"),
    Scenario("a word turns all about half of the pictures", partial(draw, turns=0.55, whole=True), harm="named", shape="concentrated"),
    Scenario("a word that fits no question", partial(draw, turns=1.0, fits=0), harm="blatant", shape="absence"),
    Scenario("a word turns all questions of one kind of seven", partial(draw, n=200, pictures=150, turns=1.0, kinds=7), harm="blatant", shape="concentrated"),
    Scenario("a word turns nine in ten, and the rest are empty", partial(draw, turns=0.95, mute=0.1), harm="blatant", shape="absence"),
    Scenario("the second word turns all", partial(draw, turns=1.0, last=True), harm="blatant", shape="concentrated"),
    Scenario("a word turns all, with no more influence than harmless ones", partial(draw, turns=1.0, influence=0.5), harm="blatant", shape="spread"),
]  # fmt: skip
