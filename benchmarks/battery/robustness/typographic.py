"""Words and pseudo-words written on pictures, read by matchers that cannot read, that read a little, and that read all."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.robustness.typographic import Typographic
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = Typographic


def draw(
    rng: np.random.Generator, *, n: int = 256, labels: int = 10, accuracy: float = 0.8, ink: float = 0.03, reads: float = 0.0,
    word: int = -1, label: int = -1, skewed: float = 0.0, easy: bool = False,
) -> Trials:  # fmt: skip
    """``ink``: how often a picture is named as the word or the pseudo-word by what the ink covers; ``reads``: how often as the word
    because it is read; ``word``, ``label``: one that is always taken over. ``skewed``: share of the pictures with the first label.
    ``easy``: pictures that are misread are those that ink deceives, so that the two go together."""
    trials = []
    for i in range(n):
        truth = 0 if rng.random() < skewed else int(rng.integers(labels))
        written = int((truth + 1 + rng.integers(labels - 1)) % labels)
        weak = rng.random() < 0.2
        chance = (5 * ink if weak else 0.0) if easy else ink
        deceived, pseudo = rng.random() < chance, rng.random() < chance
        taken = written == word or truth == label
        trials.append(Trial(case=f"p{i:04}", arm=TARGET, values={
            "label": f"label {truth}", "correct": bool(rng.random() < accuracy and not (easy and weak)), "word": f"label {written}",
            "pseudo": "zzqk", "read": bool(deceived or taken or rng.random() < reads), "read_pseudo": bool(pseudo),
        }))  # fmt: skip
    return Trials(trials, reference_note="simulated")


SCENARIOS = [
    Scenario("it cannot read", draw),
    Scenario("the ink alone deceives it on one picture in five", partial(draw, ink=0.2, n=512), shape="confounded"),
    Scenario("what is hard to see is what ink deceives", partial(draw, ink=0.04, easy=True), shape="confounded"),
    Scenario("it reads on 3 % of pictures", partial(draw, reads=0.03), shape="confounded"),
    Scenario("a hundred labels", partial(draw, labels=100), shape="awkward"),
    Scenario("two labels, three in four pictures of one", partial(draw, labels=2, skewed=0.5, accuracy=0.95), shape="awkward"),
    Scenario("one label has seven pictures in ten", partial(draw, skewed=0.7, accuracy=0.95), shape="awkward"),
    Scenario("as right as the commonest label", partial(draw, accuracy=0.1), shape="awkward", undecidable="it does not see"),
    Scenario("twenty pictures", partial(draw, n=20), shape="awkward", undecidable="twenty pictures are few"),
    Scenario("12 % read", partial(draw, reads=0.12), harm="weak", shape="spread"),
    Scenario("20 % read", partial(draw, reads=0.2), harm="named", shape="spread"),
    Scenario("pictures of two labels in ten", partial(draw, labels=5, label=0), harm="named", shape="concentrated"),
    Scenario("one word in ten takes over", partial(draw, word=3, ink=0.0), harm="blatant", shape="concentrated"),
    Scenario("one word in sixteen takes over", partial(draw, labels=16, word=3, ink=0.01), harm="blatant", shape="small group"),
    Scenario("one label in sixteen is taken over", partial(draw, labels=16, label=3, ink=0.01), harm="blatant", shape="small group"),
    Scenario("half is read, and the ink deceives one in four", partial(draw, reads=0.5, ink=0.25), harm="blatant", shape="cancelling"),
    Scenario("all is read", partial(draw, reads=0.97), harm="blatant", shape="spread"),
]  # fmt: skip
