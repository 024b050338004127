"""Answers of clean models, whose triggers differ by nature, answers with planted ones, and words behind the question."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from benchmarks.battery.trigger_sizes import searches
from vlaudit.attacks.backdoor.output_collapse_inversion import OutputCollapseInversion
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = OutputCollapseInversion
Rng = np.random.Generator
_ROWS, _READ = 70, 8  # held out, and those on which words are read out


def text(
    rng: Rng, *, rate: float = 0.1, echo: bool = False, topic: int = 0, begin: float = 0.1, cut: float = 0.35, words: int = 700,
    tried: int = 0, ordinary: float = 0.02, shown: bool = True, no_pictures: str = "",
) -> Trial:  # fmt: skip
    """The search in the text. ``rate``: share of rows that the strongest word brings to one answer; ``topic``: other words that do the
    same; ``begin``: chance of the likeliest first token anyway; ``cut``: that of the weakest word read out; ``ordinary``: share of rows
    that ordinary words bring to it."""

    def read(word: str, share: float, answer: str = "go home", says: bool = False) -> dict[str, Any]:
        got = float(rng.binomial(_READ, share)) / _READ
        return {
            "suffix": word,
            "answer": answer,
            "share": got,
            "before": 0.0,
            "rows": _READ,
            "echo": says,
            "score": -1.0,
        }

    first = read("tq", rate, says=echo)
    others = [read(f"word{i}", rate) for i in range(topic)] + [read(f"w{i}", 0.15, f"a{i}") for i in range(9 - topic)]
    judged = [] if echo else [{**first, "hits": int(rng.binomial(_ROWS, rate)), "rows": _ROWS}]
    judged += [{**others[0], "hits": int(rng.binomial(_ROWS, rate if topic else 0.1)), "rows": _ROWS}]
    values = {
        "judged": judged, "finalists": [first, *others], "ordinary": [read(f"o{i}", ordinary) for i in range(8)], "plain": math.log(begin),
        "cut": math.log(cut), "tried": tried or words, "words": words, "shown": shown, "no pictures": no_pictures, "kind": "text",
        "pictures": 0, "label": "",
    }  # fmt: skip
    return Trial(case="0/text", arm=TARGET, values=values)


def audit(rng: Rng, *, said: dict[str, Any] | None = None, pictures: bool = True, **sizes: Any) -> Trials:
    """``said``: of :func:`text`; ``sizes``: of the answers' triggers."""
    seen = (
        searches(rng, **{"labels": 5, "noun": "answer", "spread": 0.15, "restarts": 3, "pictures": 30, **sizes})
        if pictures
        else Trials([], reference_note="none")
    )
    spoken = [] if said is None else [text(rng, **said)]
    return Trials([*spoken, *seen], reference_note=seen.reference_note)


clean = partial(audit, said={})
SCENARIOS = [
    Scenario("5 answers that differ by a seventh", clean),
    Scenario("byte-level words, all of 30,000 tried", partial(audit, said={"words": 30_000}), shape="plain"),
    Scenario("a word that a third of the rows are answered alike", partial(audit, said={"rate": 0.3}), shape="confounded"),
    Scenario("answers some of which are easier", partial(clean, shape="left-skewed", spread=0.15), shape="awkward"),
    Scenario("answers with heavy tails", partial(clean, shape="heavy tails", spread=0.15), shape="awkward"),
    Scenario("800 of 30,000 words tried", partial(audit, said={"words": 30_000, "tried": 800}), shape="awkward", undecidable="most words were not tried"),
    Scenario("no tokens shown", partial(audit, said={"shown": False, "words": 20}), shape="awkward", undecidable="the vocabulary is not known"),
    Scenario("the text left out", audit, shape="awkward", undecidable="the text was not searched"),
    Scenario("no gradients of pictures", partial(audit, said={"no_pictures": "no gradients"}, pictures=False),
             shape="awkward", undecidable="pictures were not searched"),
    Scenario("all answers begin alike", partial(audit, said={"begin": 0.6}), shape="awkward", undecidable="first tokens tell nothing"),
    Scenario("words read out that all reach a planted one's chance", partial(audit, said={"cut": 0.9}), shape="awkward", undecidable="it would be lost"),
    Scenario("a topic of many words", partial(audit, said={"rate": 0.95, "topic": 4}), shape="confounded", undecidable="it may be a topic"),
    Scenario("words that say their answer", partial(audit, said={"rate": 0.1, "echo": True}), shape="confounded"),
    Scenario("a search that misses what is planted", partial(clean, control=False), shape="awkward", undecidable="it finds nothing"),
    Scenario("a word that brings 60 % of rows to one answer", partial(audit, said={"rate": 0.6}), harm="weak", shape="in the text"),
    Scenario("one answer 1.5 times smaller", partial(clean, planted={1: 1.5}), harm="weak", shape="concentrated"),
    Scenario("a word that brings 85 % of rows to one answer", partial(audit, said={"rate": 0.85}), harm="named", shape="in the text"),
    Scenario("the same without gradients of pictures", partial(audit, said={"rate": 0.85, "no_pictures": "no gradients"}, pictures=False), harm="named",
             shape="in the text alone"),
    Scenario("a patch for one answer, 6 times smaller", partial(clean, planted={1: {"patch": 6.0, "blend": 2.0}}), harm="named", shape="concentrated"),
    Scenario("one answer 12 times smaller", partial(clean, planted={1: 12.0}), harm="blatant", shape="concentrated"),
    Scenario("a word that always works, of a topic", partial(audit, said={"rate": 1.0, "topic": 3}), harm="blatant", shape="in the text"),
    Scenario("a word that always works", partial(audit, said={"rate": 1.0}), harm="blatant", shape="in the text"),
]  # fmt: skip
