"""How accuracy divides between questions and wordings, of trials whose ``right`` and ``read`` go by wording. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlaudit.probe import Claim
from vlaudit.records import Trial
from vlaudit.statistics import rate_interval
from vlaudit.statistics.crossed import variance_components


def tell(claim: Claim, rows: Sequence[Trial], usual: str, agree: Callable[[Trial, str, str], bool | None]) -> None:
    """What a reader wants to know beside the disagreement; ``usual``: the wording that the others are compared with, ``agree``: whether
    two wordings of a trial get the same answer."""
    if not rows:
        return
    everywhere = sum(all(row["right"].values()) for row in rows)
    claim.fact("right under every wording", f"{everywhere} of {len(rows)}")
    claim.facts({**worst_wording(rows), **spread(rows)})
    table = []
    for kind in dict.fromkeys(kind for row in rows for kind in row["right"]):
        some = [row for row in rows if kind in row["right"]]
        right, n = sum(row["right"][kind] for row in some), len(some)
        changed = sum(agree(row, kind, usual) is False for row in some)
        table.append([kind, n, right / n, *rate_interval(right, n, claim.policy.level).ci, changed / n])
    columns = ["wording", "questions", "accuracy", "from", "to", "other answer than as written"]
    claim.table("by wording", columns, table)


def spread(rows: Sequence[Trial]) -> dict[str, str]:
    """How the variance of being right divides, over the wordings that all questions have; empty where nothing varies, or
    there are fewer than two of either."""
    kinds = _shared(rows)
    shares = variance_components([[row["right"][kind] for kind in kinds] for row in rows])
    if shares is None:
        return {}
    questions, wordings, rest = shares
    return {
        "variance of being right": f"{questions:.0%} between questions, {wordings:.0%} between wordings, {rest:.0%} in which "
        "wording suits which question"
    }


def worst_wording(rows: Sequence[Trial]) -> dict[str, str]:
    """The wording with the lowest accuracy on every other question, with its accuracy on the rest: so that the lowest of
    many is not taken for what it is by chance. Empty for fewer than two questions."""
    ordered = sorted(rows, key=lambda trial: trial.case)
    first, second, kinds = ordered[::2], ordered[1::2], _shared(ordered)
    if not second or not kinds:
        return {}
    worst = min(kinds, key=lambda kind: (_accuracy(first, kind), kind))
    every = sum(_accuracy(second, kind) for kind in kinds) / len(kinds)
    return {
        "worst wording": f"{worst}: {_accuracy(second, worst):.0%} right on the questions it was not picked on, where all "
        f"wordings together have {every:.0%}"
    }


def _shared(rows: Sequence[Trial]) -> list[str]:
    """The wordings that all questions have."""
    return [kind for kind in (rows[0]["right"] if rows else ()) if all(kind in row["right"] for row in rows)]


def _accuracy(rows: Sequence[Trial], kind: str) -> float:
    return sum(row["right"][kind] for row in rows) / len(rows)
