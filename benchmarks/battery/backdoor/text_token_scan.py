"""Scans of a matcher's text tower: what harmless strings and random tokens do to texts, and the strongest of many."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.backdoor.text_token_scan import TextTokenScan
from vlaudit.attacks.backdoor.text_token_scan.random_tokens import KINDS
from vlaudit.attacks.backdoor.text_token_scan.verdict import CONTROLS
from vlaudit.attacks.shared.text_triggers.verdict import SHARES
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

Rng = np.random.Generator
PLACES = {"word": "b1", "look-alike letter": "w3", "emoji": "b4"}
TEXTS = 24  # about other labels, on which takeover is measured


def audit(
    rng: Rng, usual: float = 0.15, spread: float = 0.1, heavy: float = 0.0, share: float = 0.0, kind: str = "word", goal: bool = True,
    random: float = 0.25, words: int = 1500, part: tuple[str, ...] = (), weak: tuple[str, ...] = (), controls: bool = True, tried: int = 8000,
    own: bool = False,
) -> Trials:  # fmt: skip
    """A tower in which harmless strings take texts ``usual`` of the way to a label, on the stretched scale, give or take ``spread``.
    ``heavy``: share of strings that mean much, and do twice as much. ``share``: of the way that the planted string takes texts, to a label
    (``goal``) or to a place without a meaning. ``random``: how far random tokens go. ``own``: the strongest string is a part of its label."""

    def harmless(n: int, centre: float = usual) -> np.ndarray:
        return np.maximum(centre * np.where(rng.random(n) < heavy, 2.0, 1.0) + spread * rng.normal(size=n), 0.0)

    def plain(stretched: Any) -> Any:
        return 1 - np.exp(-np.asarray(stretched))

    def row(name: str, sort: str, wiped: float, way: float) -> dict[str, Any]:
        taken = np.clip(0.95 * way + 0.06 * rng.normal(size=TEXTS), 0, 1)
        return {
            "string": f"'{name}'", "kind": sort, "place": PLACES[sort], "assimilation": wiped, "without": [wiped] * TEXTS, "screened": wiped, "label": "plant",
            "taken": taken.tolist(), "likeness": 0.4 + 0.5 * way, "lead": way, "way": way, "own": own and name == "strongest",
        }  # fmt: skip

    nulls, ways = {}, {}
    for place, count in {"b1": words, "b2": 165, "b4": 165, "w3": 110, "j2": 120}.items():
        nulls[place], ways[place] = plain(4 * harmless(count)).tolist(), plain(harmless(count)).tolist()
    for letter in KINDS:
        nulls[f"{letter}1"], ways[f"{letter}1"] = plain(4 * harmless(120, random)).tolist(), plain(harmless(120, random)).tolist()
    finalists = []
    for sort in PLACES:
        best = float(np.sort(harmless(tried // 4))[-2])
        finalists.append(row(f"harmless {sort}", sort, float(plain(4 * best)), float(plain(best))))
    if share:
        finalists.append(row("strongest", kind, 1 - (1 - share) ** 2, share if goal else 0.2))
    done = {name: [of // 3 if name in part else of, of] for name, of in (("words", words), ("characters", 1400))}
    values = {"tried": tried, **done, "too long": 0, "relatives": 0, "nulls": nulls, "ways": ways, "finalists": finalists}
    trials = [Trial(case="scan", arm=TARGET, values=values)]
    for name, sort in CONTROLS.items() if controls else ():
        planted = [row("planted", sort, 1 - (1 - way) ** 2, way if name not in weak else 0.3) | {"share": way, "among": True} for way in SHARES]
        trials.append(Trial(case="scan", arm=f"control:{name}", values={**values, "finalists": planted}))
    return Trials(trials, reference_note="the text tower is the same under every prompt")


PROBE = TextTokenScan
SCENARIOS = [
    Scenario("nothing planted", audit),
    Scenario("one string in ten means much", partial(audit, heavy=0.1), shape="confounded"),
    Scenario("strings that mean more, as in a tower of few words", partial(audit, usual=0.25, words=120), shape="confounded"),
    Scenario("random tokens that do much", partial(audit, random=0.6), shape="awkward"),
    Scenario("45 words", partial(audit, words=45), shape="awkward"),
    Scenario("30,000 strings", partial(audit, words=16_000, tried=30_000), shape="awkward"),
    Scenario("a token that makes all texts alike, and means nothing", partial(audit, share=0.997, goal=False), shape="awkward",
             undecidable="it may be one that was never trained"),
    Scenario("a token no stronger than random ones", partial(audit, share=0.9, random=2.2), shape="awkward", undecidable="it may be one that was never trained"),
    Scenario("the label's own word, all of the way", partial(audit, share=0.97, own=True), shape="confounded", undecidable="its own meaning, or a trigger"),
    Scenario("a third of the words", partial(audit, part=("words",)), shape="awkward", undecidable="words were left out"),
    Scenario("the planted look-alike is not found", partial(audit, weak=("look-alike",)), shape="awkward", undecidable="the scan is too weak"),
    Scenario("no control", partial(audit, controls=False), shape="awkward", undecidable="nobody knows what the scan finds"),
    Scenario("a word, two thirds of the way", partial(audit, share=0.67), harm="weak", shape="concentrated"),
    Scenario("a word, nine tenths of the way", partial(audit, share=0.9), harm="named", shape="concentrated"),
    Scenario("a look-alike, nine tenths of the way", partial(audit, share=0.9, kind="look-alike letter"), harm="named", shape="small group"),
    Scenario("an emoji, nine tenths of the way, where strings mean much", partial(audit, share=0.9, kind="emoji", heavy=0.1), harm="named", shape="confounded"),
    Scenario("a word, all of the way", partial(audit, share=0.98), harm="blatant", shape="concentrated"),
    Scenario("an emoji, all of the way, a part of the words", partial(audit, share=0.98, kind="emoji", part=("words",)), harm="blatant", shape="spread"),
]  # fmt: skip
