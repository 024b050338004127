"""Weights for the attacks' scores, learned on half of the identities: no attack is chosen by what it is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.records import Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def first_half(trials: Sequence[Trial]) -> list[bool]:
    """For each trial whether it is for weighting: half of the identities, drawn among those that are members, that are
    not, and that are both."""
    import numpy as np

    sides: dict[str, set[bool]] = {}
    for trial in trials:
        sides.setdefault(trial["identity"], set()).add(trial["member"])
    rng, first = np.random.default_rng(0), set()
    for kind in ({True}, {False}, {True, False}):
        known = sorted(identity for identity, side in sides.items() if side == kind)
        first |= {known[i] for i in rng.permutation(len(known))[: len(known) // 2].tolist()}
    return [trial["identity"] in first for trial in trials]


def table(trials: Sequence[Trial]) -> NDArray[np.float64]:
    """(n, F) the attacks' scores; those with shuffled captions are for the control alone."""
    import numpy as np

    names = [name for name in trials[0]["scores"] if not name.startswith("shuffled")]
    return np.array([[trial["scores"][name] for name in names] for trial in trials])


def weighted(scores: NDArray[np.float64], trials: Sequence[Trial], first: Sequence[bool]) -> NDArray[np.float64]:
    """Of scores (n, F) the weighted ones of the second half, by weights learned on the first."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learned, members = np.array(first), np.array([trial["member"] for trial in trials], dtype=bool)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    return np.asarray(model.fit(scores[learned], members[learned]).decision_function(scores[~learned]))
