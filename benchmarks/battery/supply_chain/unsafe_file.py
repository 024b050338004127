"""Lists of files as they lie in model folders, with and without one that runs code."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.supply_chain.unsafe_file import UnsafeFile
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = UnsafeFile
Rng = np.random.Generator
_SAFE = (
    ("model.safetensors", "safetensors"),
    ("config.json", "JSON"),
    ("README.md", "text"),
    ("tokenizer.json", "JSON"),
    ("pytorch_model.bin", "pickle"),
)


def files(
    rng: Rng, *, count: int = 6, dangers: int = 0, unknown: int = 0, unreadable: int = 0, both: bool = False
) -> Trials:
    """``dangers``: files that run code; ``unknown``: not looked into; ``both``: the dangerous ones have an unknown part as well."""
    facts = []
    for i in range(max(count, dangers + unknown + unreadable)):
        name, kind = _SAFE[int(rng.integers(len(_SAFE)))]
        facts.append({"file": f"{i:03}/{name}", "kind": kind, "problem": "", "unknown": ""})
    for i in range(dangers):
        facts[i] |= {
            "kind": "pickle",
            "problem": "it calls os.system when it is loaded",
            "unknown": "a damaged part" if both else "",
        }
    for i in range(dangers, dangers + unknown):
        facts[i] |= {"kind": "unknown", "unknown": "the format is not known"}
    for i in range(dangers + unknown, dangers + unknown + unreadable):  # as older audits record it
        facts[i] = {"file": facts[i]["file"], "kind": "unreadable", "problem": ""}
    return Trials(
        [Trial(case=f"{i:03}", arm=TARGET, values=facts[j]) for i, j in enumerate(rng.permutation(len(facts)))]
    )


SCENARIOS = [
    Scenario("six safe files", files),
    Scenario("two thousand safe files", partial(files, count=2000), shape="confounded"),
    Scenario("one safe file", partial(files, count=1), shape="awkward"),
    Scenario("one file of an unknown format", partial(files, unknown=1), shape="awkward", undecidable="it was not looked into"),
    Scenario("none but files of an unknown format", partial(files, count=3, unknown=3), shape="awkward", undecidable="nothing was looked into"),
    Scenario("a file that cannot be read, in an older audit", partial(files, unreadable=1), shape="awkward", undecidable="it was not looked into"),
    Scenario("one unsafe file beside unknown ones", partial(files, count=9, dangers=1, unknown=5), harm="weak", shape="spread"),
    Scenario("one unsafe file of six", partial(files, dangers=1), harm="named", shape="concentrated"),
    Scenario("one unsafe file of two thousand", partial(files, count=2000, dangers=1), harm="named", shape="small group"),
    Scenario("an unsafe file with a part that is not understood", partial(files, dangers=1, both=True), harm="blatant", shape="concentrated"),
    Scenario("every file unsafe", partial(files, count=4, dangers=4), harm="blatant", shape="spread"),
]  # fmt: skip
