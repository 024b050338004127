"""What the robustness probes share: a sample of labelled pictures, and the figures of a rate over it. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.records import Case, Delta, Estimate, Metric, Trial, Trials

if TYPE_CHECKING:
    from vlaudit.data.example import Example
    from vlaudit.probe import Context


def sample(ctx: Context, count: int) -> list[Example]:
    """At most ``count`` labelled pictures, drawn without replacement, in the order of the data set."""
    labelled = [example for example in ctx.examples if example.label in ctx.labels]
    picked = ctx.rng("pictures").permutation(len(labelled))[:count]
    return [labelled[i] for i in sorted(picked.tolist())]


def batches(ctx: Context, cases: Sequence[Case]) -> Iterator[tuple[list[Case], list[Example]]]:
    """The cases with their pictures (a case's id is its picture's), no more at once than the audit allows."""
    examples = {example.id: example for example in ctx.examples}
    for start in range(0, len(cases), ctx.batch_size):
        part = list(cases[start : start + ctx.batch_size])
        yield part, [examples[case.id] for case in part]


def rate_metric(name: str, hits: int, n: int, level: float) -> Metric:
    """A share of pictures with its Clopper-Pearson interval."""
    from vlaudit.statistics import rate_interval

    return Metric(name=name, value=hits / n, ci=rate_interval(hits, n, level).ci, level=level, n=n, unit="share")


def rate_control(hits: int, n: int, level: float) -> dict[str, Any]:
    """A control's share of pictures in the form that reports plot beside the metric."""
    metric = rate_metric("", hits, n, level)
    return {"value": metric.value, "ci": list(metric.ci), "n": n}


def guesswork(labels: Sequence[str], correct: Sequence[bool], level: float) -> str | None:
    """Why answers to pictures with these labels are no better than always naming the commonest label, else None."""
    from vlaudit.statistics import rate_interval

    n, right = len(labels), sum(correct)
    commonest = max(Counter(labels).values()) / n
    if rate_interval(right, n, level).low > commonest:
        return None
    return (
        f"the clean accuracy, {right} of {n}, is not shown to be above that of always naming the commonest label "
        f"({commonest:.0%}): there is nothing to attack"
    )


def against_reference(
    trials: Trials, hit: Callable[[Trial], bool], missed: Callable[[Trial], bool], level: float
) -> dict[str, Any]:
    """The reference's share of hits beyond its control's (``missed``, of the same trial), and by how much the target's
    is larger, where it can be stated."""
    from vlaudit.statistics import TooFewClustersError, mean_interval, paired_rate_difference, sign_flip_p

    if not trials.reference:
        return {}
    plain = paired_rate_difference([hit(t) for t in trials.reference], [missed(t) for t in trials.reference], level)
    figures: dict[str, Any] = {"reference": Estimate(value=plain.value, ci=plain.interval.ci)}
    gains = [hit(a) - missed(a) - hit(b) + missed(b) for a, b in trials.paired()]
    try:
        interval = mean_interval(gains, level=level, bounds=(-2, 2))
    except TooFewClustersError:
        return figures
    return figures | {"delta": Delta(value=sum(gains) / len(gains), ci=interval.ci, p=sign_flip_p(gains))}
