"""What a judge says, said once: a quantity with its interval and threshold, what it is held against, and one sentence.

    claim = Claim(self.info, policy, "answers that change with the prompt")
    claim.rate(hits, n).control("no-op", "0 answers change").table("by kind", ["change", "share"], rows)
    if claim.verdict is Verdict.VULNERABLE and p > policy.alpha:
        return claim.inconclusive(f"{said}, which is not significant")
    return claim.says(said + claim.would_decide("pictures"))

Every figure is told once, in any order; the last word makes the judgement. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from vlaudit.details import Bars, Curve, Figure, Matrix, Series, Table
from vlaudit.policy import Policy
from vlaudit.records import Delta, Estimate, Evidence, Judgement, Metric, ProbeInfo, Trial, Verdict
from vlaudit.statistics import (
    Difference,
    Interval,
    mean_interval,
    paired_rate_difference,
    rate_interval,
    samples_to_decide,
    sign_flip_p,
    trials_to_decide,
    verdict,
)

Ends = Interval | Sequence[float]
"""An interval, or its two ends."""
NEAR = "; too near the threshold to decide"


def _ends(interval: Ends) -> tuple[float, float]:
    low, high = interval.ci if isinstance(interval, Interval) else interval
    return float(low), float(high)


def figure(value: float, interval: Ends, n: int | None = None) -> Figure:
    """A number with its interval, for a control arm or a fact."""
    counted = {} if n is None else {"n": n}
    return Figure(value=float(value), ci=_ends(interval), **counted)


def share(hits: int, n: int, level: float = 0.95) -> Figure:
    """A share with its Clopper-Pearson interval."""
    return figure(hits / n, rate_interval(hits, n, level), n)


def chance(draws: Any, value: float = 0.0, ends: tuple[float, float] = (0.025, 0.975)) -> Figure:
    """What draws (R,) without the flaw give, for a control arm: a value, and the quantiles that they lie between."""
    import numpy as np

    return figure(value, np.quantile(draws, ends).tolist(), len(draws))


def would_decide(needed: int | None, units: str, near: str = NEAR, cure: str = "") -> str:
    """``"; about 120 pictures would decide"``, and how to have as many, or ``near`` where no number of them would."""
    return f"; about {needed} {units} would decide" + (f" ({cure})" if cure else "") if needed else near


class Claim:
    """The claim of one probe on one target, as a judge puts it together."""

    def __init__(self, info: ProbeInfo, policy: Policy, quantity: str, unit: str = "share") -> None:
        """``quantity``: the metric in words; bigger is worse. ``unit``: ``"share"`` is shown in percent."""
        self.info, self.policy, self.quantity, self.unit = info, policy, quantity, unit
        self._measure, self._null = info.measure, info.measure.null
        self.threshold: float | None = policy.threshold(info)
        self.metric: Metric | None = None
        self.interval: Interval | None = None
        self._told: dict[str, Any] = {}
        self._controls: dict[str, Any] = {}
        self._details: dict[str, Any] = {}

    # figures

    def measured(self, value: float, interval: Interval, n: int, p: float | None = None) -> Self:
        """The metric with its interval, of ``n`` units, and the p-value of the test beside it."""
        self.interval = interval
        self.metric = Metric(
            name=self.quantity, value=value, ci=interval.ci, level=self.policy.level, n=n, unit=self.unit,
            measure=self._measure, null=self._null,
        )  # fmt: skip
        return self if p is None else self.p_value(p)

    def rate(self, hits: int, n: int, p: float | None = None) -> Self:
        """A share of trials, with its Clopper-Pearson interval."""
        return self.measured(hits / n, rate_interval(hits, n, self.policy.level), n, p)

    def null(self, value: float) -> Self:
        """Where the metric lies without the flaw, as a control measured it; else it is the null of the probe's kind of measure."""
        self._null = value
        self.metric = self.metric and self.metric.model_copy(update={"null": value})
        return self

    def p_value(self, p: float) -> Self:
        self._told["p_value"] = p
        return self

    def reference(self, value: float, interval: Ends) -> Self:
        """The metric on the reference arm."""
        self._told["reference"] = Estimate(value=value, ci=_ends(interval))
        return self

    def delta(self, value: float, interval: Ends, p: float | None = None) -> Self:
        """Target minus reference, paired."""
        self._told["delta"] = Delta(value=value, ci=_ends(interval), p=p)
        return self

    def differs(self, difference: Difference) -> Self:
        """The same, from a test."""
        return self.delta(difference.value, difference.interval, difference.p)

    def paired_rates(self, mine: Sequence[bool], theirs: Sequence[bool]) -> Self:
        """Reference and delta of shares over the same cases; nothing is told of none."""
        if not theirs:
            return self
        level, hits = self.policy.level, sum(theirs)
        self.reference(hits / len(theirs), rate_interval(hits, len(theirs), level))
        return self.differs(paired_rate_difference(mine, theirs, level))

    def paired_means(
        self, mine: Sequence[float], theirs: Sequence[float], bounds: tuple[float, float],
        clusters: Sequence[object] | None = None, widen: Callable[[Interval], Interval] = lambda interval: interval,
    ) -> Self:  # fmt: skip
        """Reference and delta of means over the same cases, by clusters. ``bounds``: of one value; of a difference they are as wide
        on both sides. ``widen``: what a reader's errors make of the reference's interval. Raises TooFewClustersError."""
        level, span = self.policy.level, bounds[1] - bounds[0]
        gains = [a - b for a, b in zip(mine, theirs, strict=True)]
        reference = widen(mean_interval(theirs, clusters, level, bounds))
        gain = mean_interval(gains, clusters, level, (-span, span))
        self.reference(sum(theirs) / len(theirs), reference)
        return self.delta(sum(gains) / len(gains), gain, sign_flip_p(gains, clusters))

    @property
    def reference_shows_it(self) -> bool:
        """Whether the reference's interval lies above the threshold: then the flaw is not the prompt's alone."""
        told: Estimate | None = self._told.get("reference")
        return told is not None and self.threshold is not None and told.ci[0] > self.threshold

    @property
    def exceeds_reference(self) -> bool:
        """Whether the interval of target minus reference lies above 0: then the prompt has a part in it."""
        told: Delta | None = self._told.get("delta")
        return told is not None and told.ci[0] > 0

    # what stands beside it

    def control(self, name: str, told: Any) -> Self:
        """A control: a :func:`figure` where it is the metric on another arm, else a number, a text or a flag."""
        self._controls[name] = told
        return self

    def controls(self, told: Mapping[str, Any]) -> Self:
        self._controls |= told
        return self

    def fact(self, name: str, told: Any) -> Self:
        """A detail that is no series."""
        self._details[name] = told
        return self

    def facts(self, told: Mapping[str, Any]) -> Self:
        self._details |= told
        return self

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Self:
        return self._series("table", Table(title=title, columns=list(columns), rows=[list(row) for row in rows]))

    def bars(self, title: str, labels: Sequence[str], values: Sequence[float], **more: Any) -> Self:
        """``more``: the fields of :class:`Bars`."""
        return self._series("bars", Bars(title=title, labels=list(labels), values=list(values), **more))

    def curve(self, title: str, x: Sequence[float], y: Sequence[float], **more: Any) -> Self:
        """``more``: the fields of :class:`Curve`."""
        return self._series("curve", Curve(title=title, x=list(x), y=list(y), **more))

    def matrix(self, title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], **more: Any) -> Self:
        """``more``: the fields of :class:`Matrix`."""
        cells = [list(row) for row in values]
        return self._series("matrix", Matrix(title=title, rows=list(rows), columns=list(columns), values=cells, **more))

    def _series(self, kind: str, series: Series) -> Self:
        before = self._details.get(kind)
        self._details[kind] = series if before is None else [*(before if isinstance(before, list) else [before]), series]
        return self

    def shows(self, evidence: Iterable[Evidence]) -> Self:
        """The evidence of the finding; without it, that of all trials is shown."""
        self._told["evidence"] = list(evidence)
        return self

    def shows_of(self, trials: Iterable[Trial], most: int = 3) -> Self:
        """The evidence of the first ``most`` of these trials that have some."""
        shown = [trial for trial in trials if trial.artifacts][:most]
        return self.shows(item for trial in shown for item in trial.artifacts.values())

    def headline(self, said: str) -> Self:
        """What happens in plain words, where it can be said more precisely than the probe's own headline does."""
        self._told["headline"] = said
        return self

    # the last word

    @property
    def verdict(self) -> Verdict:
        """What the interval says against the threshold."""
        assert self.interval is not None and self.threshold is not None, "nothing was measured"
        return verdict(self.interval, self.threshold)

    def cure(self, needed: int | None, by: str, now: int | None = None, n: int | None = None) -> str:
        """How a user has as many units as are needed. ``by``: a parameter of the probe, or a flag such as ``--data`` whose file must hold
        more; ``now`` and ``n``: its value, and the units that it gave (else one for one): more of the one give as many of the other."""
        if not needed or by.startswith("--"):
            return f"more with {by}" if needed else ""
        value = needed if now is None or not n else math.ceil(needed * now / n)
        return f"--set {self.info.id}.{by}={value}, where there are as many"

    def would_decide(
        self, units: str, *, by: str = "", now: int | None = None, value: float | None = None, n: int | None = None, near: str = NEAR
    ) -> str:
        """``"; about 120 pictures would decide (--set PROBE.pictures=120 ...)"`` (by the width of the interval), or ``near`` where no
        number of them would; nothing where the verdict stands. ``by`` and ``now``: see :meth:`cure`; ``value`` and ``n``: what is
        judged, where it is not the metric and its count."""
        assert self.metric is not None and self.interval is not None and self.threshold is not None
        if self.verdict is not Verdict.INCONCLUSIVE:
            return ""
        value, n = self.metric.value if value is None else value, self.metric.n if n is None else n
        needed = samples_to_decide(value, self.interval, n, self.threshold)
        return would_decide(needed, units, near, self.cure(needed, by, now, n) if by else "")

    def trials_would_decide(self, units: str, *, by: str = "", now: int | None = None, near: str = NEAR) -> str:
        """The same for a share, by its Clopper-Pearson interval."""
        assert self.metric is not None and self.threshold is not None
        if self.verdict is not Verdict.INCONCLUSIVE:
            return ""
        needed = trials_to_decide(self.metric.value, self.threshold, self.policy.level)
        return would_decide(needed, units, near, self.cure(needed, by, now, self.metric.n) if by else "")

    def says(self, reason: str, verdict: Verdict | None = None) -> Judgement:
        """The judgement: by default with the verdict of the interval."""
        return Judgement(
            verdict=self.verdict if verdict is None else verdict, reason=reason, metric=self.metric, threshold=self.threshold,
            controls=self._controls, details=self._details, **self._told,
        )  # fmt: skip

    def vulnerable(self, reason: str) -> Judgement:
        return self.says(reason, Verdict.VULNERABLE)

    def held(self, reason: str) -> Judgement:
        return self.says(reason, Verdict.HELD)

    def inconclusive(self, reason: str) -> Judgement:
        return self.says(reason, Verdict.INCONCLUSIVE)

    def not_assessed(self, reason: str) -> Judgement:
        return self.says(reason, Verdict.NOT_ASSESSED)
