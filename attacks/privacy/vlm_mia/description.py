"""What the next-token distributions over a description say of membership: MaxRényi-K%, Min-K%, loss, heat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.statistics.roc import Sides

ORDERS = (0.5, 1.0, 2.0, math.inf)
SHARES = (0, 10, 100)  # K in percent; 0 is the largest alone
LOWEST = 20  # K of Min-K%
HEAT = 2.0  # the temperature of the temperature arm


def renyi_entropies(log_probs: Tensor, order: float) -> Tensor:
    """(T,) Rényi entropies in nats of distributions (T, V), given as logs; order 1 is Shannon's, infinity the
    min-entropy."""
    if order == 1:
        return -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1)
    if math.isinf(order):
        return -log_probs.amax(-1)
    return (order * log_probs).logsumexp(-1) / (1 - order)


def max_renyi(log_probs: Tensor, order: float, share: int) -> float:
    """MaxRényi-K% (arXiv:2411.02902): the mean of the K % largest Rényi entropies of the tokens, at least of one."""
    entropies = renyi_entropies(log_probs, order)
    return float(entropies.sort(descending=True).values[: max(1, len(entropies) * share // 100)].mean())


def description_scores(log_probs: Tensor) -> dict[str, float]:
    """Every score of a greedy description with these distributions (T, V); bigger is more like a member."""
    table = log_probs.double()
    likeliest = table.amax(-1)  # of the written token, which is the likeliest one
    lowest = likeliest.sort().values[: max(1, len(likeliest) * LOWEST // 100)]
    found = {
        "description: loss": float(likeliest.mean()),
        f"description: Min-{LOWEST}%": float(lowest.mean()),
        f"description: temperature {HEAT:g}": float((table / HEAT).log_softmax(-1).amax(-1).mean()),
    }
    for order in ORDERS:
        for share in SHARES:
            found[f"description: MaxRényi-{share}%, order {order:g}"] = -max_renyi(table, order, share)
    return found


def compared(scores: dict[str, Sides], level: float) -> tuple[list[list[Any]], dict[str, float]]:
    """Rows (score, AUC, low, high, p) and the simultaneous lower bound of each AUC.

    ``scores``: of every member unit and of every non-member unit, by name. The p-values are those of the best of all scores
    (max-T over shuffled memberships); ``low`` and ``high`` are of the score alone.
    """
    import numpy as np
    from scipy.stats import rankdata

    from vlaudit.statistics import auc, auc_interval, max_t_p, max_t_quantile

    m, n = map(len, next(iter(scores.values())))
    ranks = np.stack([rankdata(np.concatenate(sides)) for sides in scores.values()], axis=1)
    rng, member = np.random.default_rng(0), np.arange(m + n) < m
    shuffled = np.stack([rng.permutation(member) for _ in range(999)]).astype(float)
    null = ((shuffled @ ranks) / m - (m + 1) / 2) / n
    observed = [auc(*sides) for sides in scores.values()]
    p, reach = max_t_p(observed, null), max_t_quantile(null, level)
    rows, low = [], {}
    for k, (name, (members, others)) in enumerate(scores.items()):
        interval = auc_interval(members, others, level)
        rows.append([name, *(round(x, 3) for x in (observed[k], interval.low, interval.high)), p[k]])
        low[name] = float(observed[k] - reach * null[:, k].std())
    return rows, low
