"""How being right divides between questions and wordings, of trials whose ``right`` and ``read`` go by wording. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlaudit.records import Trial


def facts(rows: Sequence[Trial]) -> dict[str, str]:
    """What a reader wants to know beside the disagreement."""
    if not rows:
        return {}
    everywhere = sum(all(row["right"].values()) for row in rows)
    return {
        "right under every wording": f"{everywhere} of {len(rows)}",
        **worst_wording(rows),
        **spread([row["right"] for row in rows]),
    }


def by_wording(rows: Sequence[Trial], usual: str, level: float) -> dict[str, Any]:
    """Accuracy of each wording with its Clopper-Pearson interval, and how often the answer is another than the usual."""
    from vlaudit.statistics import rate_interval

    table = []
    for kind in dict.fromkeys(kind for row in rows for kind in row["right"]):
        some = [row for row in rows if kind in row["right"]]
        right, n = sum(row["right"][kind] for row in some), len(some)
        low, high = rate_interval(right, n, level).ci
        changed = sum(row["read"][kind] is None or row["read"][kind] != row["read"][usual] for row in some)
        table.append([kind, n, right / n, low, high, changed / n])
    columns = ["wording", "questions", "accuracy", "from", "to", "other answer than as written"]
    return {"title": "by wording", "columns": columns, "rows": table}


def spread(right: Sequence[Mapping[str, bool]]) -> dict[str, str]:
    """Shares of the variance of being right that lie between questions, between wordings, and in both together (with the
    error), by the moments of a two-way analysis of variance with one value a cell, over the wordings that all questions
    have. Empty where nothing varies, or there are fewer than two of either."""
    import numpy as np

    shared = [kind for kind in (right[0] if right else ()) if all(kind in row for row in right)]
    table = np.array([[row[kind] for kind in shared] for row in right], dtype=float)
    if min(table.shape, default=0) < 2 or table.std() == 0:
        return {}
    n, m = table.shape
    questions, words = table.mean(axis=1) - table.mean(), table.mean(axis=0) - table.mean()
    rest = table - table.mean() - questions[:, None] - words[None]
    error = float((rest**2).sum()) / ((n - 1) * (m - 1))
    between = max(0.0, (m * float((questions**2).sum()) / (n - 1) - error) / m)
    wording = max(0.0, (n * float((words**2).sum()) / (m - 1) - error) / n)
    total = between + wording + error
    if total == 0:
        return {}
    return {
        "variance of being right": f"{between / total:.0%} between questions, {wording / total:.0%} between wordings, "
        f"{error / total:.0%} in which wording suits which question"
    }


def worst_wording(rows: Sequence[Trial]) -> dict[str, str]:
    """The wording with the lowest accuracy on every other question, with its accuracy on the rest: so that the lowest of
    many is not taken for what it is by chance. Empty for fewer than two questions."""
    ordered = sorted(rows, key=lambda trial: trial.case)
    first, second = ordered[::2], ordered[1::2]
    kinds = [kind for kind in (ordered[0]["right"] if ordered else ()) if all(kind in row["right"] for row in ordered)]
    if not second or not kinds:
        return {}
    worst = min(kinds, key=lambda kind: (_accuracy(first, kind), kind))
    every = sum(_accuracy(second, kind) for kind in kinds) / len(kinds)
    return {
        "worst wording": f"{worst}: {_accuracy(second, worst):.0%} right on the questions it was not picked on, where all "
        f"wordings together have {every:.0%}"
    }


def _accuracy(rows: Sequence[Any], kind: str) -> float:
    return sum(row["right"][kind] for row in rows) / len(rows)
