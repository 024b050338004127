"""Norms of captions and of fresh ones, of three lengths: how hard they pull the denoiser."""

from __future__ import annotations

from functools import partial

import numpy as np

from vlaudit.attacks.privacy.memorization_norm import FRESH, MemorizationNorm
from vlaudit.attacks.shared.fresh_captions import HELD_OUT, MIXED_UP, RECOMBINED
from vlaudit.battery import Scenario
from vlaudit.records import TARGET, Trial, Trials

PROBE = MemorizationNorm


def trials(
    rng: np.random.Generator, *, captions: int = 200, fresh: int = 1200, remembered: int = 0, pull: float = 1.0, shift: float = 0.0,
    wider: float = 1.0, spread: float = 0.2, tail: float = 30.0, echo: float = 0.0, held_out: int = 0, mixed: bool = False,
    odd: int = 0, seeds: int = 2, noise: float = 0.05, lengths: int = 3,
) -> Trials:  # fmt: skip
    """Log norms scatter by ``spread`` with Student's tail. The first ``remembered`` captions pull ``pull`` times as hard; all audited ones
    ``shift`` (in log norm) harder and ``wider`` times as widely as recombined ones, as captions of a pipeline's own kind may; ``echo``: the share of
    fresh captions that call up half of a remembered one; the first ``held_out`` fresh ones are held-out captions, which are like the
    audited; ``mixed``: the others are mixed-up words, which pull less; ``odd``: audited captions on unusual subjects, 1.4 times."""
    found = []
    for i in range(captions + fresh):
        own, tokens = i < captions, int(rng.integers(5, 5 + lengths))
        like = own or i < captions + held_out
        log = 0.1 * tokens + spread * (wider if like else 1.0) * rng.standard_t(tail) + shift * like
        made = HELD_OUT if like else MIXED_UP if mixed else RECOMBINED
        if mixed and not like:
            log -= 0.2 + abs(rng.normal(0, 0.2))
        log += np.log(pull) if i < remembered else np.log(1.4) if i < odd else 0.0
        log += np.log(pull) / 2 if not own and rng.random() < echo else 0.0
        norms = np.exp(log + noise * rng.normal(size=seeds)).tolist()
        values = {
            "caption": f"c{i}",
            "tokens": tokens,
            "norms": norms,
            "all steps": None,
            "dimension": 1024.0,
            "tokens that move it": [],
        }
        values |= {} if own else {"made": made}
        arm = TARGET if own else f"control:{FRESH}"
        found.append(Trial.model_construct(case=f"c{i:05}", arm=arm, artifacts={}, values=values))
    return Trials(found, reference_note="simulated")


SCENARIOS = [
    Scenario("pull: nothing remembered", trials),
    Scenario(
        "pull: 30 captions of one length, 300 fresh",
        partial(trials, captions=30, fresh=300, lengths=1),
        shape="awkward",
    ),
    Scenario("pull: 600 captions of nine lengths", partial(trials, captions=600, fresh=2000, lengths=9), shape="awkward"),
    Scenario("pull: captions of its own kind pull a tenth harder", partial(trials, shift=0.1), shape="confounded"),
    Scenario("pull: and spread wider", partial(trials, shift=0.05, wider=1.2), shape="confounded"),
    Scenario(
        "pull: half of the fresh captions are held-out ones",
        partial(trials, shift=0.1, held_out=600),
        shape="confounded",
    ),
    Scenario("pull: ten unusual subjects", partial(trials, odd=10), shape="confounded"),
    Scenario("pull: heavy tails", partial(trials, captions=100, tail=6.0), shape="awkward"),
    Scenario(
        "pull: mixed-up words pull less than any caption",
        partial(trials, mixed=True, shift=0.3),
        shape="confounded",
        undecidable="no fresh caption is like the audited ones",
    ),
    Scenario(
        "pull: ninety fresh captions", partial(trials, fresh=90), shape="awkward", undecidable="a hundred are needed"
    ),
    Scenario(
        "pull: one of 200 pulls twice as hard",
        partial(trials, remembered=1, pull=2.0),
        harm="weak",
        shape="concentrated",
    ),
    Scenario(
        "pull: twenty pull half as hard again", partial(trials, remembered=20, pull=1.5), harm="weak", shape="spread"
    ),
    Scenario(
        "pull: one of 60 twice as hard, 300 fresh",
        partial(trials, captions=60, fresh=300, remembered=1, pull=2.0),
        harm="weak",
        shape="small group",
    ),
    Scenario(
        "pull: ten of 200 four times as hard",
        partial(trials, remembered=10, pull=4.0),
        harm="named",
        shape="concentrated",
    ),
    Scenario(
        "pull: fifty of 200 four times as hard", partial(trials, remembered=50, pull=4.0), harm="named", shape="spread"
    ),
    Scenario(
        "pull: five of 30 four times as hard",
        partial(trials, captions=30, fresh=300, remembered=5, pull=4.0),
        harm="named",
        shape="small group",
    ),
    Scenario(
        "pull: twenty four times as hard, and one fresh caption in a hundred half so",
        partial(trials, remembered=20, pull=4.0, echo=0.01),
        harm="named",
        shape="concentrated",
    ),
    Scenario(
        "pull: half of all captions, five times as hard",
        partial(trials, remembered=100, pull=5.0),
        harm="blatant",
        shape="spread",
    ),
    Scenario(
        "pull: all captions, five times as hard",
        partial(trials, remembered=200, pull=5.0),
        harm="blatant",
        shape="spread",
    ),
    Scenario(
        "pull: twelve of twelve",
        partial(trials, captions=12, remembered=12, pull=5.0),
        harm="blatant",
        shape="small group",
    ),
    Scenario(
        "pull: one of 200 ten times as hard",
        partial(trials, remembered=1, pull=10.0),
        harm="blatant",
        shape="concentrated",
    ),
    Scenario(
        "pull: ten of 200 five times as hard, mixed-up words beside",
        partial(trials, remembered=10, pull=5.0, mixed=True, shift=0.1),
        harm="blatant",
        shape="concentrated",
    ),
]
