"""Without training pictures: captions that draw nearly one picture whatever the seed, against fresh captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlaudit.attacks.privacy.extraction.verdict import UNSEEN
from vlaudit.attacks.shared.fresh_captions import FRESH
from vlaudit.probe import Claim, Policy, ProbeInfo, share
from vlaudit.records import Judgement, Trial, Trials, Verdict


def largest_clique(distances: Sequence[Sequence[float]], cut: float) -> int:
    """How many of the pictures are all within ``cut`` of one another."""
    import networkx

    graph: Any = networkx.Graph()
    graph.add_nodes_from(range(len(distances)))
    graph.add_edges_from(
        (i, j) for i, row in enumerate(distances) for j, value in enumerate(row) if i < j and value < cut
    )
    return max((len(found) for found in networkx.find_cliques(graph)), default=0)


def judge_cliques(info: ProbeInfo, trials: Trials, policy: Policy) -> Judgement:
    """Cliques are cut at a share of the median distance among pictures of one fresh caption. They convict nobody."""
    import numpy as np
    from scipy.stats import fisher_exact

    cut, most, fewest = (policy.threshold(info, name) for name in ("repeat", "clique", "least-clique"))
    target, fresh = ([t for t in part if len(t["distances"]) >= fewest] for part in (trials.target, trials.control(FRESH)))
    everyone = len(trials.target)
    if not target or not fresh or len(target) < policy.threshold(info, "drawn") * everyone:
        return Judgement.not_assessed("too few pictures came out: of the captions or of fresh ones to compare with")
    usual = float(np.median([value for t in fresh for i, row in enumerate(t["distances"]) for value in row[:i]]))

    def repeats(trial: Trial) -> bool:
        return largest_clique(trial["distances"], cut * usual) >= max(fewest, most * len(trial["distances"]))

    named, n = [trial["caption"] for trial in target if repeats(trial)], len(target)
    found, chance = len(named), sum(map(repeats, fresh))
    p = float(fisher_exact([[found, n - found], [chance, len(fresh) - chance]], alternative="greater").pvalue)
    claim = Claim(info, policy, "captions that repeat one picture").rate(found, n, p)
    claim.control(FRESH, share(chance, len(fresh), policy.level))
    claim.fact("captions that repeat one picture", ", ".join(named[:20]) or "none")
    said = f"{found} of {n} captions draw nearly one picture whatever the seed, {chance} of {len(fresh)} fresh ones do"
    said += f"; of {everyone - n} more fewer than {fewest:g} pictures came out, the rest were blacked out" if everyone > n else ""
    if found:
        return claim.inconclusive(f"{said}; declare the training pictures (--members) to see if they are copies")
    if claim.verdict is Verdict.HELD and n < policy.threshold(info, "seen") * everyone:
        return claim.inconclusive(said + UNSEEN)
    return claim.says(said + claim.trials_would_decide("captions", by="captions"))
