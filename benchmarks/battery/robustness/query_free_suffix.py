"""Captions with a suffix that was searched, and with the best random one: how well their pictures still fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vlaudit.attacks.robustness.query_free_suffix import QueryFreeSuffix
from vlaudit.battery import Scenario
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator


def audit(
    rng: Rng, loss: float = 0.0, share: float = 0.0, random: float = 0.0, captions: int = 40, seeds: int = 2, noise: float = 0.03,
    tail: bool = False, recognised: float = 1.0, blocked: float = 0.0, cut: float = 0.0, short: tuple[float, ...] = (0.0, 0.0),
    reference: float | None = None, reached: float = 1.0, chance: float = 0.0,
) -> Trials:  # fmt: skip
    """``share`` of the captions lose ``loss`` of their fit to the suffix, ``random`` of it to random ones. ``chance``: how often a
    picture loses all of its fit whatever is behind its caption; ``recognised``: how many captions their pictures show; ``short``: by
    how much the search fell short of each planted suffix; ``reached``: how many captions a suffix moves at all."""

    def ranks(fit: float) -> list[float]:
        spread = 0.02 * rng.standard_t(2, seeds) if tail else rng.normal(0, noise, seeds)
        found = np.where(rng.random(seeds) < chance, rng.uniform(-1, 0.2, seeds), fit - abs(spread))
        return ((1 + found.clip(-1, 1)) / 2).tolist()

    trials = []
    for i in range(captions):
        fit = 1.0 if rng.random() < recognised else float(rng.uniform(-0.5, 0.4))
        struck, moved = rng.random() < share, rng.random() < reached
        about = {
            "caption": f"caption {i}",
            "queries": 585,
            "blocked": bool(rng.random() < blocked),
            "cut": bool(rng.random() < cut),
        }

        def values(lost: float, cosine: float, about: dict[str, Any] = about, fit: float = fit) -> dict[str, Any]:
            return {
                **about,
                "clean": ranks(fit),
                "suffix": "#9k~]",
                "cosine": cosine,
                "ranks": ranks(fit - lost * max(fit, 0.0)),
            }

        cosine = float(rng.beta(6, 6)) if moved else 1.0
        trials.append(Trial(case=f"{i:03d}", arm=TARGET, values=values(loss * struck, cosine)))
        trials.append(Trial(case=f"{i:03d}", arm="control:random", values=values(random, (1 + cosine) / 2)))
        if reference is not None:
            trials.append(Trial(case=f"{i:03d}", arm=REFERENCE, values=values(reference * struck, cosine)))
    for i, by in enumerate(short):
        trials.append(
            Trial(
                case=f"planted-{i}", arm="control:planted", values={"short": by, "secret": "#####", "suffix": "#####"}
            )
        )
    return Trials(trials, reference_note="" if reference is not None else "no reference here")


PROBE = QueryFreeSuffix
SCENARIOS = [
    Scenario("no suffix spoils anything", audit),
    Scenario("all captions lose a twentieth", partial(audit, loss=0.05, share=1.0)),
    Scenario("no suffix reaches the denoiser", partial(audit, reached=0.0, noise=0.0)),
    Scenario("the plain prompt loses all", partial(audit, reference=1.0), shape="confounded"),
    Scenario("one picture in fifty is spoilt by chance", partial(audit, chance=0.02), shape="confounded"),
    Scenario("two captions in a hundred are not recognised", partial(audit, recognised=0.98), shape="confounded"),
    Scenario("fits with heavy tails", partial(audit, tail=True), shape="awkward"),
    Scenario("22 captions, one seed", partial(audit, captions=22, seeds=1), shape="awkward"),
    Scenario("one caption in twenty is cut off", partial(audit, cut=0.05), shape="awkward"),
    Scenario("one caption in thirty is blocked", partial(audit, blocked=0.03), shape="awkward"),
    Scenario("12 captions", partial(audit, captions=12), shape="awkward", undecidable="12 captions are few"),
    Scenario("half of the captions are blocked", partial(audit, blocked=0.5), shape="awkward", undecidable="half of the captions were not seen"),
    Scenario("half of the captions are cut off", partial(audit, cut=0.5), shape="awkward", undecidable="half of the captions had no suffix"),
    Scenario("half of the captions are not recognised", partial(audit, recognised=0.5), shape="awkward",
             undecidable="what is not drawn has nothing to lose"),
    Scenario("the search misses a planted suffix", partial(audit, short=(0.0, 0.2)), shape="awkward", undecidable="the search is too weak"),
    Scenario("nothing was planted", partial(audit, short=()), shape="awkward", undecidable="nobody knows what the search finds"),
    Scenario("all captions lose a quarter", partial(audit, loss=0.25, share=1.0), harm="weak", shape="spread"),
    Scenario("every fourth caption loses all", partial(audit, loss=1.0, share=0.25), harm="weak", shape="concentrated"),
    Scenario("all captions lose half", partial(audit, loss=0.5, share=1.0), harm="named", shape="spread"),
    Scenario("every second caption loses all", partial(audit, loss=1.0, share=0.5), harm="named", shape="concentrated"),
    Scenario("all captions lose half, to random characters too", partial(audit, loss=0.5, share=1.0, random=0.5), harm="named",
             shape="no better than chance"),
    Scenario("all captions lose all", partial(audit, loss=1.0, share=1.0), harm="blatant", shape="spread"),
    Scenario("three captions in four lose all, 22 captions", partial(audit, loss=1.0, share=0.75, captions=22, seeds=1), harm="blatant",
             shape="concentrated"),
    Scenario("all lose all of what half of the captions have", partial(audit, loss=1.0, share=1.0, recognised=0.6), harm="blatant",
             shape="small group"),
]  # fmt: skip
