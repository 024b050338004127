"""Near copies among pictures of captions, of held-out pictures, and of held-out captions."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.privacy.extraction import Extraction
from vlaudit.attacks.privacy.extraction.verdict import HELD_OUT
from vlaudit.attacks.shared.fresh_captions import FRESH
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = Extraction


def trials(
    rng: np.random.Generator, *, captions: int = 400, copied: float = 0.0, first: int = 0, alike: float = 0.0, telling: float = 0.0,
    controls: int = 24, held_out: int | None = None, twins: float = 0.0, blocked: float = 0.0,
) -> Trials:  # fmt: skip
    """A share ``copied`` of the captions, and the ``first`` ones, give their picture by heart. ``alike``: how often a drawn picture is a near
    copy of any set of pictures by luck, its own or of the other side; a share ``twins`` of the captions has look-alikes on both sides, each met half of
    the time; ``telling``: how often a caption tells all of its own picture, whether anybody trained on it or not. ``controls``: sets of held-out pictures
    for a caption; ``held_out``: held-out captions (by default as many as captions; 0: they are the same captions). Of captions that may tell all, one on
    either side does: where none is seen to, there is nothing that anybody could know of."""
    found = []

    def add(case: str, copies: bool, hit: int, arm: str = TARGET) -> None:
        values = {"caption": case, "blocked": bool(rng.random() < blocked), "seeds": 4 if copies or hit else 1, "controls": controls,
                  "controls hit": hit, "copies": int(copies), "ratio": 0.3 if copies else 1.0, "ratio of controls": 0.4 if hit else 1.0}  # fmt: skip
        found.append(Trial.model_construct(case=case, arm=arm, artifacts={}, values=values))

    def luck() -> tuple[bool, int]:
        rate = 0.5 if rng.random() < twins else alike
        return bool(rng.random() < rate), int(rng.binomial(controls, rate))

    def tells(i: int) -> bool:
        return bool(rng.random() < telling) or (telling > 0 and i == 0)

    for i in range(captions):
        own, hit = luck()
        add(f"caption/{i:05}", bool(own or i < first or rng.random() < copied or tells(i)), hit)
    if any(t["copies"] for t in found):  # else they are not drawn
        for i in range(captions if held_out is None else held_out):
            own, hit = luck()
            add(f"held-out/{i:05}", bool(own or tells(i)), hit, f"control:{HELD_OUT}")
    return Trials(found, reference_note="simulated")


def cliques(
    rng: np.random.Generator, *, captions: int = 400, repeated: float = 0.0, anyway: float = 0.0, seeds: int = 4, blocked: float = 0.0
) -> Trials:
    """Without members: a share ``repeated`` of the captions draws one picture whatever the seed, and of all captions a share ``anyway``.
    Of a share ``blocked`` of the audited ones only two pictures came out."""
    found = []
    for i in range(2 * captions):
        fresh = i >= captions
        same = rng.random() < anyway or (not fresh and rng.random() < repeated)
        distances = np.abs(rng.normal(0.05 if same else 0.4, 0.02 if same else 0.08, (seeds, seeds)))
        distances = np.triu(distances, 1) + np.triu(distances, 1).T
        if not fresh and rng.random() < blocked:
            distances = distances[:2, :2]
        arm = f"control:{FRESH}" if fresh else TARGET
        found.append(
            Trial.model_construct(
                case=f"{i:05}", arm=arm, artifacts={}, values={"caption": f"c{i}", "distances": distances.tolist()}
            )
        )
    return Trials(found, reference_note="simulated")


SCENARIOS = [
    Scenario("copies: none", trials),
    Scenario("copies: none, the same captions on both sides", partial(trials, held_out=0, controls=1)),
    Scenario("copies: none of 5,000", partial(trials, captions=5000)),
    Scenario("copies: coincidences now and then", partial(trials, captions=1000, alike=0.0005), shape="awkward"),
    Scenario(
        "copies: twenty held-out pictures in all, one caption in fifty blacked out",
        partial(trials, held_out=20, controls=20, blocked=0.02),
        shape="awkward",
    ),
    Scenario(
        "copies: two captions in a thousand have twins on both sides",
        partial(trials, captions=5000, twins=0.002),
        shape="confounded",
    ),
    Scenario(
        "copies: look-alikes on both sides",
        partial(trials, alike=0.05),
        shape="confounded",
        undecidable="held-out pictures are met as often",
    ),
    Scenario(
        "copies: captions that tell all of their pictures",
        partial(trials, telling=0.06),
        shape="confounded",
        undecidable="held-out captions give their pictures as often",
    ),
    Scenario(
        "copies: some captions tell all of their pictures",
        partial(trials, telling=0.012),
        shape="confounded",
        undecidable="held-out captions give their pictures as often",
    ),
    Scenario(
        "copies: none, of thirty captions",
        partial(trials, captions=30),
        shape="awkward",
        undecidable="thirty captions are few",
    ),
    Scenario(
        "copies: most pictures are blacked out",
        partial(trials, copied=0.5, blocked=0.9),
        shape="awkward",
        undecidable="nothing is seen",
    ),
    Scenario(
        "copies: none of 1,000, 45 % blacked out",
        partial(trials, captions=1000, blocked=0.45),
        shape="awkward",
        undecidable="nearly half of the captions are not seen",
    ),
    Scenario("copies: no members, none", cliques),
    Scenario("copies: no members, none of 500, one caption in twenty blacked out", partial(cliques, captions=500, blocked=0.05), shape="awkward"),
    Scenario(
        "copies: no members, none of 900, 45 % blacked out",
        partial(cliques, captions=900, blocked=0.45),
        shape="awkward",
        undecidable="nearly half of the captions are not seen",
    ),
    Scenario(
        "copies: no members, small pool of pictures",
        partial(cliques, anyway=0.1),
        shape="confounded",
        undecidable="nobody can say that they are training pictures",
    ),
    Scenario("copies: two of 1,000", partial(trials, captions=1000, first=2), harm="weak", shape="concentrated"),
    Scenario("copies: one caption in a hundred", partial(trials, copied=0.01), harm="weak", shape="spread"),
    Scenario("copies: ten of 200", partial(trials, captions=200, first=10), harm="named", shape="concentrated"),
    Scenario("copies: ten of 5,000", partial(trials, captions=5000, first=10), harm="named", shape="small group"),
    Scenario(
        "copies: twenty of 1,000, coincidences now and then",
        partial(trials, captions=1000, first=20, alike=0.0005),
        harm="named",
        shape="concentrated",
    ),
    Scenario(
        "copies: three of 400, the same captions on both sides",
        partial(trials, first=3, held_out=0),
        harm="named",
        shape="small group",
    ),
    Scenario(
        "copies: a fifth, beside captions that tell all",
        partial(trials, copied=0.2, telling=0.05),
        harm="named",
        shape="spread",
    ),
    Scenario("copies: 30 of 5,000", partial(trials, captions=5000, first=30), harm="blatant", shape="concentrated"),
    Scenario("copies: 6 of 200", partial(trials, captions=200, first=6), harm="blatant", shape="small group"),
    Scenario("copies: half of all captions", partial(trials, copied=0.5), harm="blatant", shape="spread"),
    Scenario(
        "copies: no members, ten captions give one picture",
        partial(cliques, repeated=0.025),
        harm="blatant",
        shape="concentrated",
    ),
]
