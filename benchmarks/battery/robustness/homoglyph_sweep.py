"""Captions with a letter of another alphabet: how far it shifts their meaning, beside rare letters in the same place."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

import numpy as np

from vlaudit.attacks.robustness.homoglyph_sweep import HomoglyphSweep
from vlaudit.attacks.shared.homoglyphs import CULTURES
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
FREQUENT, USUAL, SELDOM = "aeionrst", "cdhlpu", "gyjqxv"  # letters by how many captions hold them as they are
SOME = ("Cyrillic", "Greek", "Armenian", "Vietnamese", "Hebrew")


def audit(
    rng: Rng, glyph: tuple[str, str] = ("", ""), script: str = "", by: float = 0.0, share: float = 1.0, captions: int = 80, enough: int = 45,
    unknown: float = 0.08, spread: float = 0.05, tail: bool = False, other: float = 0.6, long_tokens: float = 0.0, reference: bool = False,
    scripts: tuple[str, ...] = SOME, cancelling: bool = False,
) -> Trials:  # fmt: skip
    """``glyph`` (a script and its letter), or all of ``script``, shift a ``share`` of the captions ``by`` more. ``unknown``: what any
    unknown letter shifts, more or less by ``spread``; ``long_tokens``: how much more in a caption that it breaks; ``other``: what another
    caption does; ``enough``: captions for each letter; ``cancelling``: half of the struck captions shift less by as much."""

    def shift(base: float) -> float:
        noise = 0.3 * spread * rng.standard_t(2) if tail else rng.normal(0, spread)
        return float(np.clip(base + noise, 0, 1))

    plan: list[tuple[str, str]] = [(f"{i:03d}", "") for i in range(captions)]
    held = {
        i: {
            c
            for c in FREQUENT + USUAL + SELDOM
            if rng.random() < (0.8 if c in FREQUENT else 0.4 if c in USUAL else 0.08)
        }
        for i in range(captions)
    }
    for letter in FREQUENT + USUAL + SELDOM:
        without = [i for i in range(captions) if letter not in held[i]]
        plan += [(f"{i:03d}-{letter}", letter) for i in without[: max(0, enough - (captions - len(without)))]]
    trials = []
    for case, only in plan:
        letters = [only] if only else sorted(held[int(case)])
        broken = unknown + long_tokens * float(rng.random())
        struck = rng.random() < share
        sign = -1.0 if cancelling and rng.random() < 0.5 else 1.0
        for arm, control in ((TARGET, "control:rare"), (REFERENCE, "control:rare-reference"))[: 2 if reference else 1]:
            rows: list[list[Any]] = []
            controls: list[list[Any]] = []
            for name in scripts:
                for letter in letters:
                    if letter in CULTURES[name]:
                        mine = arm == TARGET and struck and (glyph == (name, letter) or script == name)
                        rare = [shift(broken) for _ in range(4)]
                        at = CULTURES[name][letter]
                        rows.append([name, at, shift(broken + sign * by * mine), "text"])
                        controls.append([name, at, fmean(rare), max(rare), "text"])
            trials.append(Trial(case=case, arm=arm, values={"caption": "caption", "rows": rows, "other": shift(other)}))
            trials.append(Trial(case=case, arm=control, values={"rows": controls}))
    return Trials(trials, reference_note="" if reference else "no reference here")


PROBE = HomoglyphSweep
SCENARIOS = [
    Scenario("homoglyphs are as any unknown letter", audit),
    Scenario("no letter does anything", partial(audit, unknown=0.0, spread=0.0)),
    Scenario("one unknown letter breaks the meaning much", partial(audit, unknown=0.35, spread=0.1, other=0.9), shape="confounded"),
    Scenario("some captions break, others do not", partial(audit, long_tokens=0.4, other=0.9), shape="confounded"),
    Scenario("a script that shifts a little", partial(audit, script="Greek", by=0.03), shape="confounded"),
    Scenario("shifts with heavy tails", partial(audit, tail=True), shape="awkward"),
    Scenario("50 captions", partial(audit, captions=50), shape="awkward"),
    Scenario("one script", partial(audit, scripts=("Cyrillic",)), shape="awkward"),
    Scenario("with a reference", partial(audit, reference=True, captions=50), shape="awkward"),
    Scenario("15 captions", partial(audit, captions=15), shape="awkward", undecidable="15 captions are few"),
    Scenario("rare letters stand in too few captions", partial(audit, enough=0, captions=60), shape="awkward",
             undecidable="some letters were hardly tried"),
    Scenario("all captions are one to the encoder", partial(audit, other=0.02, unknown=0.01, spread=0.005), shape="awkward",
             undecidable="no text has an effect"),
    Scenario("an unknown letter moves as far as another caption", partial(audit, unknown=0.5, other=0.55), shape="awkward",
             undecidable="another meaning is not told from an unknown letter"),
    Scenario("one homoglyph, by .2", partial(audit, glyph=("Cyrillic", "o"), by=0.2), harm="weak", shape="concentrated"),
    Scenario("one homoglyph in every third caption, by .6", partial(audit, glyph=("Cyrillic", "o"), by=0.6, share=0.33), harm="weak",
             shape="cancelling"),
    Scenario("one homoglyph, by .3", partial(audit, glyph=("Cyrillic", "o"), by=0.3), harm="named", shape="concentrated"),
    Scenario("a homoglyph of a seldom letter, by .3", partial(audit, glyph=("Cyrillic", "q"), by=0.3), harm="named", shape="small group"),
    Scenario("a whole script, by .2", partial(audit, script="Greek", by=0.2), harm="named", shape="spread"),
    Scenario("a homoglyph that brings in another caption", partial(audit, glyph=("Cyrillic", "o"), by=0.6), harm="blatant",
             shape="concentrated"),
    Scenario("one of a seldom letter that does", partial(audit, glyph=("Cyrillic", "x"), by=0.6), harm="blatant", shape="small group"),
    Scenario("one that does in half of the captions", partial(audit, glyph=("Greek", "e"), by=0.6, share=0.5), harm="blatant", shape="spread"),
]  # fmt: skip
