"""Vectors and the tokens that they stand near: of contexts that mean nothing, that are near common words, and that spell secret ones."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.privacy.prompt_only_leak import DRAWS, SHARES, PromptOnlyLeak
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = PromptOnlyLeak


def draw(
    rng: np.random.Generator, *, vectors: int = 16, width: int = 512, vocabulary: int = 49_408, secrets: int = 24, common: int = 0, spelled: int = 0,
    share: float = 1.0, missed: bool = False, lone: bool = False,
) -> Trials:  # fmt: skip
    """The cosines are those of unit vectors of this width; ``common``: vectors near words that are no secret; ``spelled``: near secret ones, as
    ``share`` of their direction. ``missed``: planted words are not read back; ``lone``: secret tokens are a third of the vocabulary."""
    odds = 1 / 3 if lone else secrets / vocabulary

    def nearest(count: int) -> np.ndarray:
        """The largest of so many cosines of a random vector, by the law of the largest normal."""
        return (np.sqrt(2 * np.log(vocabulary)) - 0.5 + rng.gumbel(size=count) * 0.22) / np.sqrt(width)

    found = [{"token": f"t{i}", "nearness": float(v), "secret": f"s{i}" if rng.random() < odds else ""} for i, v in enumerate(nearest(vectors))]
    near = share / np.hypot(share, 1 - share)
    for i in range(common):
        found[i] = {"token": "photo", "nearness": 0.9, "secret": ""}
    for i in range(common, common + spelled):
        found[i] = {"token": f"s{i}", "nearness": float(near + 0.01 * rng.normal()), "secret": f"s{i}"}
    highest = [float(nearest(vectors).max()) for _ in range(DRAWS)]
    trials = [Trial(case="vectors", arm=TARGET, values={"vectors": found, "secrets": secrets, "vocabulary": vocabulary}),
              Trial(case="vectors", arm="control:random", values={"highest": highest})]  # fmt: skip
    for each in SHARES:
        back = 0 if missed else int(each / np.hypot(each, 1 - each) > max(highest)) * vectors
        trials.append(Trial(case="vectors", arm=f"control:planted {each:g}", values={"share": each, "found": back, "of": vectors}))
    return Trials(trials, reference_note="this probe has no reference arm")


SCENARIOS = [
    Scenario("contexts that stand near nothing", draw),
    Scenario("four vectors", partial(draw, vectors=4)),
    Scenario("contexts of common words", partial(draw, common=8), shape="confounded"),
    Scenario("a third of the vocabulary is secret", partial(draw, lone=True), shape="confounded"),
    Scenario("a small vocabulary and narrow vectors", partial(draw, vocabulary=2000, width=128), shape="awkward"),
    Scenario("many vectors", partial(draw, vectors=64), shape="awkward"),
    Scenario("a hundred labels with 16 vectors each", partial(draw, vectors=1600), shape="awkward"),
    Scenario("planted words are not read back", partial(draw, missed=True), shape="awkward", undecidable="the attack is too weak"),
    Scenario("one vector is a quarter of a word", partial(draw, spelled=1, share=0.25), harm="weak", shape="concentrated"),
    Scenario("one vector is half a word", partial(draw, spelled=1, share=0.5), harm="named", shape="concentrated"),
    Scenario("a third of the vectors are half a word", partial(draw, spelled=5, share=0.5, common=4), harm="named", shape="spread"),
    Scenario("one of 1,600 vectors is half a word", partial(draw, vectors=1600, spelled=1, share=0.5), harm="named", shape="small group"),
    Scenario("one vector is a word", partial(draw, spelled=1), harm="blatant", shape="small group"),
    Scenario("every vector is a word, which the controls miss", partial(draw, spelled=16, missed=True), harm="blatant", shape="misread"),
]  # fmt: skip
