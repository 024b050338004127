"""What the judges of membership share: independent units, the blind gate, controls, and the figures of an ROC curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.privacy._blind import blind_scores
from vlaudit.records import Delta, Estimate, Trial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sides = tuple[Any, Any]  # scores of members, of non-members, each (n,)

FEWEST = 20  # members, and non-members
BLIND_LIMIT = 0.60  # what the blind baseline must be shown to stay below
LOW_RATE, FEWEST_FOR_LOW_RATE = 0.01, 300


@dataclass(frozen=True)
class Units:
    """Trials as independent units, one per identity and membership."""

    member: NDArray[np.bool_]
    codes: NDArray[np.int64]  # (n trials,) the unit of every trial

    @classmethod
    def of(cls, trials: list[Trial]) -> Units:
        import numpy as np

        keys = np.array([f"{trial['member']}\x1f{trial['identity']}" for trial in trials])
        unique, codes = np.unique(keys, return_inverse=True)
        return cls(np.char.startswith(unique, "True"), codes)

    @property
    def counts(self) -> tuple[int, int]:
        """How many members and how many non-members."""
        return int(self.member.sum()), int((~self.member).sum())

    def split(self, scores: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean score of every member unit and of every non-member unit."""
        import numpy as np

        means = np.bincount(self.codes, weights=np.asarray(scores, dtype=float)) / np.bincount(self.codes)
        return means[self.member], means[~self.member]


def blind_gate(trials: list[Trial], units: Units, level: float) -> tuple[dict[str, Any], str]:
    """The blind AUC with its interval, and why the split cannot be trusted, or an empty text.

    Trials hold ``blind`` (features of the picture), ``member``, ``identity``, and any of ``label`` and ``caption``.
    """
    import numpy as np

    from vlaudit.statistics import auc, auc_interval, samples_to_decide

    features = np.array([trial["blind"] for trial in trials], dtype=float)
    labels, captions, identities = (
        [str(trial.values.get(key) or "") for trial in trials] for key in ("label", "caption", "identity")
    )
    members = np.array([trial["member"] for trial in trials], dtype=bool)
    scores = units.split(blind_scores(features, labels, members, identities, captions))
    interval, value = auc_interval(*scores, level), auc(*scores)
    figure = {"value": value, "ci": list(interval.ci), "n": len(units.member)}
    if interval.low > 0.5:
        return figure, (
            f"split confounded: without any model, members are told from non-members with AUC {value:.2f} "
            f"({interval.low:.2f} to {interval.high:.2f}); draw both from the same source"
        )
    if interval.high > BLIND_LIMIT:
        needed = samples_to_decide(min(value, 0.5), interval, len(units.member), BLIND_LIMIT)
        return figure, (
            f"split not verified: the blind AUC may be as high as {interval.high:.2f}, it must be shown to stay below "
            f"{BLIND_LIMIT:.2f}; about {needed} pictures, half of them members, would do"
        )
    return figure, ""


def permuted(scores: Sides) -> dict[str, Any]:
    """The AUC where membership is shuffled."""
    import numpy as np

    from vlaudit.statistics import auc

    members, others = scores
    rng, pool = np.random.default_rng(0), np.concatenate([members, others])
    shuffled = (rng.permutation(pool) for _ in range(200))
    draws = [auc(values[: len(members)], values[len(members) :]) for values in shuffled]
    return {"value": float(np.mean(draws)), "ci": [float(np.quantile(draws, q)) for q in (0.025, 0.975)], "n": 200}


def against_reference(scores: Sides, reference: Sides, level: float) -> dict[str, Any]:
    """The reference's AUC, and the target's minus it."""
    from vlaudit.statistics import auc, auc_difference, auc_interval

    difference = auc_difference(scores, reference, level)
    return {
        "reference": Estimate(value=auc(*reference), ci=auc_interval(reference[0], reference[1], level).ci),
        "delta": Delta(value=difference.value, ci=difference.interval.ci, p=difference.p),
    }


def roc_details(scores: Sides, level: float) -> dict[str, Any]:
    """The ROC curve, and the true-positive rate at a low false-positive rate where there are enough non-members."""
    import numpy as np
    from sklearn.metrics import roc_curve

    from vlaudit.statistics import rate_interval

    members, others = scores
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    false, true, _ = roc_curve(truth, np.concatenate([members, others]))
    grid = np.linspace(0, 1, 51)
    curve = {"title": "ROC of membership", "x": grid.tolist(), "y": np.interp(grid, false, true).tolist(),
             "reference": grid.tolist(), "xlabel": "false-positive rate", "ylabel": "true-positive rate"}  # fmt: skip
    details: dict[str, Any] = {"curve": curve, "members": len(members), "non-members": len(others)}
    if len(others) >= FEWEST_FOR_LOW_RATE:
        cut = np.quantile(others[::2], 1 - LOW_RATE, method="higher")
        caught, false_alarms = int((members > cut).sum()), int((others[1::2] > cut).sum())
        low, high = rate_interval(caught, len(members), level).ci
        details["TPR at 1 % FPR"] = f"{caught / len(members):.1%} ({low:.1%} to {high:.1%})"
        details["FPR on the other half"] = f"{false_alarms / len(others[1::2]):.1%}"
    else:
        details["TPR at 1 % FPR"] = f"not stated: it needs {FEWEST_FOR_LOW_RATE} non-members"
    return details
