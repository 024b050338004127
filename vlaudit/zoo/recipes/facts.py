"""Facts of a specimen, measured when it is built: the ground on which `expects` stands.

Nothing of them is shared with the probes: a probe must find what these figures say, not define it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score
from torch import Tensor


def write(folder: Path, measured: Mapping[str, Any]) -> None:
    (folder / "facts.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def rate(hits: Tensor) -> float:
    """Share of true values, to four places."""
    return round(hits.float().mean().item(), 4)


def agreement(found: Sequence[str], truth: Sequence[str]) -> float:
    """Share of places where the two are the same, to four places."""
    return round(sum(a == b for a, b in zip(found, truth, strict=True)) / len(truth), 4)


def auc(scores: Tensor, positive: Sequence[bool] | Tensor) -> float:
    """Chance that a positive scores higher than a negative, to four places."""
    return round(float(roc_auc_score(positive, scores)), 4)
