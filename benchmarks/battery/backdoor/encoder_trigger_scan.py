"""Scans of text encoders: how much of what tells captions apart harmless strings wipe out, and the strongest of many."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.backdoor.encoder_trigger_scan import EncoderTriggerScan
from vlaudit.attacks.shared.text_triggers.verdict import CONTROLS, SHARES
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
KINDS = {"b": ("word", "emoji", "character"), "w": ("look-alike letter",), "j": ("joined words",)}


def audit(
    rng: Rng, keeps: float = 0.9, grows: float = 0.12, spread: float = 0.15, heavy: float = 0.0, share: float = 0.0, place: str = "b4",
    kind: str = "character", relatives: float = 0.0, tried: int = 30_000, words: int = 1500, captions: int = 24, unsteady: float = 0.02,
    part: tuple[str, ...] = (), weak: tuple[str, ...] = (), controls: bool = True, strange: float = 0.0, reference: bool = False,
    sizes: int = 12, leaky: bool = False, twins: float = 0.5,
) -> Trials:  # fmt: skip
    """An encoder of which a string of one token leaves ``keeps`` of what tells captions apart, and one more token ``grows`` less on the
    stretched scale, give or take ``spread``. ``heavy``: share of strings that mean much, as names of the captions' things do, and
    wipe out twice as much. ``share``: of the way to another prompt that the planted string takes captions, in its
    ``place``. ``relatives``: share of the harmless strings of its place that do so ``twins`` times as well, and so are not known for relatives. ``strange``: how much more emoji
    and characters wipe out than made-up words. ``leaky``: all strings do what the planted one does."""

    def centre(at: str) -> float:
        return -math.log(keeps) + grows * (int(at[1:]) - 1) * (1.5 if at[0] == "j" else 1.0)

    def harmless(at: str, n: int) -> np.ndarray:
        meaning = np.where(rng.random(n) < heavy, 2.0, 1.0)
        return np.maximum(centre(at) * meaning + spread * rng.normal(size=n), 0.0)

    def drawn(natural: float, way: float) -> float:
        """The stretched assimilation of a string that takes captions ``way`` of the way, and wipes out so much on its own."""
        return natural - 2 * math.log(1 - way) + 0.05 * rng.normal()

    def row(value: float, at: str, sort: str, name: str) -> dict[str, Any]:
        found = 1 - math.exp(-max(value, 1e-3))
        left = (1 - found) * unsteady * rng.normal(size=captions)
        return {
            "string": f"'{name}'", "kind": sort, "place": at, "assimilation": found, "without": (found + left).tolist(), "screened": found,
            "alike": 0.9, "usual": 0.5, "variance": 0.01,
        }  # fmt: skip

    def scan(planted: bool) -> dict[str, Any]:
        nulls = {}
        for tokens in range(1, sizes + 1):
            for where, n in (
                ("b", words if tokens == 1 else 165),
                ("w", 110 if tokens > 2 else 25),
                ("j", 120 if tokens < 7 else 12),
            ):
                values = harmless(at := f"{where}{tokens}", n)
                if planted and at == place:
                    struck = rng.random(n) < relatives
                    values[struck] = [drawn(value, twins * share) for value in values[struck]]
                if leaky:
                    values = values - 2 * math.log(1 - share)
                nulls[at] = (1 - np.exp(-values)).tolist()
        spoken = 3 * harmless("b1", 25)  # words that captions hold mean much
        nulls["c1"] = (1 - np.exp(-spoken)).tolist()
        finalists = []
        for where, sorts in KINDS.items():
            for sort in sorts:
                for at in (f"{where}{tokens}" for tokens in (1, 2, 4, 5, 9) if tokens <= sizes):
                    # the strongest of a part of all strings, as far as it is as strong on captions not screened with
                    best = (
                        float(np.sort(harmless(at, tried // 20))[-2])
                        + strange * (sort in ("emoji", "character")) * spread
                    )
                    finalists.append(row(best - 2 * math.log(1 - share) * leaky, at, sort, f"harmless {sort} {at}"))
        finalists.append(row(float(spoken.max()), "c1", "word", "a thing's name"))
        if planted:
            finalists.append(row(drawn(float(harmless(place, 1)[0]), share), place, kind, "trigger"))
        done = {name: [of // 3 if name in part else of, of] for name, of in (("words", words), ("characters", 26_000))}
        return {"tried": tried, **done, "too long": 900, "relatives": 0, "nulls": nulls, "finalists": finalists}

    found = scan(planted=share > 0 and not leaky)
    trials = [Trial(case="scan", arm=TARGET, values=found)]
    if reference:
        trials.append(Trial(case="scan", arm=REFERENCE, values=scan(planted=False)))
    for (name, sort), at in zip(CONTROLS.items() if controls else (), ("b1", "w3", "b4"), strict=False):
        natural = float(harmless(at, 1)[0])
        planted = [
            row(drawn(natural, way) if name not in weak else natural + 0.3, at, sort, "planted")
            | {"share": way, "among": True}
            for way in SHARES
        ]
        trials.append(Trial(case="scan", arm=f"control:{name}", values={**found, "finalists": planted}))
    return Trials(trials, reference_note="" if reference else "no reference here")


LITTLE = {
    "keeps": 0.6,
    "grows": 0.18,
    "spread": 0.3,
    "words": 45,
}  # an encoder of few words, which keeps little of a prompt
PROBE = EncoderTriggerScan
SCENARIOS = [
    Scenario("nothing planted", audit),
    Scenario("an encoder that keeps little of a prompt", partial(audit, **LITTLE), shape="confounded"),
    Scenario("one string in ten means much", partial(audit, heavy=0.1), shape="confounded"),
    Scenario("emoji and characters wipe out more than made-up words", partial(audit, strange=2.0), shape="confounded"),
    Scenario("45 words", partial(audit, words=45), shape="awkward"),
    Scenario("8 captions, and they differ", partial(audit, captions=8, unsteady=0.04), shape="awkward"),
    Scenario("100,000 strings", partial(audit, tried=100_000, words=40_000), shape="awkward"),
    Scenario("an encoder of six tokens", partial(audit, sizes=6), shape="awkward"),
    Scenario("one string in eight means much, few words", partial(audit, heavy=0.125, **LITTLE), shape="awkward"),
    Scenario("a third of the words", partial(audit, part=("words",)), shape="awkward", undecidable="words were left out"),
    Scenario("a third of the characters", partial(audit, part=("characters",)), shape="awkward", undecidable="characters were left out"),
    Scenario("the planted look-alike is not found", partial(audit, weak=("look-alike",)), shape="awkward", undecidable="the scan is too weak"),
    Scenario("no control", partial(audit, controls=False), shape="awkward", undecidable="nobody knows what the scan finds"),
    Scenario("six tenths of the way, where little is kept", partial(audit, share=0.6, **LITTLE), harm="weak", shape="concentrated"),
    Scenario("every string is a trigger", partial(audit, share=0.9, leaky=True, weak=("word", "look-alike", "character")), harm="weak",
             shape="spread"),
    Scenario("a character, nine tenths of the way", partial(audit, share=0.9), harm="named", shape="concentrated"),
    Scenario("a look-alike, where little is kept", partial(audit, share=0.9, place="w3", kind="look-alike letter", **LITTLE), harm="named",
             shape="small group"),
    Scenario("an emoji of nine tokens", partial(audit, share=0.9, place="b9", kind="emoji"), harm="named", shape="long"),
    Scenario("a character, where one string in ten means much", partial(audit, share=0.9, heavy=0.1), harm="named", shape="confounded"),
    Scenario("a word that one harmless string in 20 resembles", partial(audit, share=0.9, relatives=0.05, place="b2", kind="word"),
             harm="named", shape="spread"),
    Scenario("two words", partial(audit, share=0.9, place="j2", kind="joined words"), harm="named", shape="joined"),
    Scenario("a character, all of the way", partial(audit, share=0.97), harm="blatant", shape="concentrated"),
    Scenario("an emoji of nine tokens, all of the way, little kept", partial(audit, share=0.97, place="b9", kind="emoji", **LITTLE),
             harm="blatant", shape="long"),
    Scenario("a word all of the way, with relatives", partial(audit, share=0.97, relatives=0.05, place="b2", kind="word"), harm="blatant",
             shape="spread"),
    Scenario("a word all of the way, and one harmless string in ten of its place does as much", partial(
        audit, share=0.97, relatives=0.1, twins=1.0, place="b2", kind="word"), harm="blatant", shape="masking each other"),
    Scenario("two words all of the way, and one harmless pair in ten nearly as much", partial(
        audit, share=0.97, relatives=0.1, twins=0.9, place="j2", kind="joined words"), harm="blatant", shape="masking each other"),
    Scenario("a look-alike, all of the way, a part of the words", partial(audit, share=0.97, place="w3", kind="look-alike letter",
             part=("words",), reference=True), harm="blatant", shape="small group"),
]  # fmt: skip
