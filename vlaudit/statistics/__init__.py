"""Intervals, paired tests, permutation nulls and corrections: everything a judge needs to say how sure it is.

Every metric is oriented so that bigger is worse, every interval is two-sided unless asked otherwise, and none is ever
degenerate: 0 of n has a non-zero upper end. Random methods take a seed, so a judge stays a pure function. Torch-free;
numpy and scipy are imported where used.

`rates`, `means`, `roc` and `nulls` are all named here; `crossed` (tables whose rows and columns are clusters), `sequential`
(tests that look several times), `extremes` (the largest of many measurements) and `misclassification` (shares told by a
reader that errs) are imported by the probes that need them.
"""

from vlaudit.statistics.base import MIN_CLUSTERS, Alternative, Difference, Interval, Side, TooFewClustersError, verdict
from vlaudit.statistics.means import (
    bounded_interval,
    mean_interval,
    normal_difference,
    sign_flip_p,
    standard_error,
    t_interval,
)
from vlaudit.statistics.nulls import holm, max_t_p, max_t_quantile, rank_p, smallest_p
from vlaudit.statistics.rates import (
    MOST_NEEDED,
    mcnemar,
    mcnemar_p,
    paired_rate_difference,
    rate_interval,
    samples_to_decide,
    stratified_excess_p,
    trials_to_decide,
)
from vlaudit.statistics.roc import Exposure, auc, auc_difference, auc_interval, exposure, least_negatives

__all__ = [
    "MIN_CLUSTERS",
    "MOST_NEEDED",
    "Alternative",
    "Difference",
    "Exposure",
    "Interval",
    "Side",
    "TooFewClustersError",
    "auc",
    "auc_difference",
    "auc_interval",
    "bounded_interval",
    "exposure",
    "holm",
    "least_negatives",
    "max_t_p",
    "max_t_quantile",
    "mcnemar",
    "mcnemar_p",
    "mean_interval",
    "normal_difference",
    "paired_rate_difference",
    "rank_p",
    "rate_interval",
    "samples_to_decide",
    "sign_flip_p",
    "smallest_p",
    "standard_error",
    "stratified_excess_p",
    "t_interval",
    "trials_to_decide",
    "verdict",
]
