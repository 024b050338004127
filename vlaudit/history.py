"""Two audits compared: what is new, fixed, worse, better, unchanged, or no longer tested. Torch-free.

Noise is no change: two audits of the same target, with other seeds even, call anything worse or new in at most 2 of 100 pairs. So a
figure is *worse* only if the difference of the two estimates is positive beyond chance: its lower bound, by recovering variances from
the two intervals (MOVER: Zou and Donner 2008, doi:10.1002/sim.3095), lies above 0, and the bounds hold for all figures of the pair at
once (Bonferroni). A verdict that was undecided and is vulnerable now is *new* only by the same rule; where the estimates agree, more
cases have *established* what was there before: no change of the target, but a flaw that nobody has accepted, which stops a release
like a new one. Audits that share their cases are more alike than the bounds assume. `benchmarks/history_calibration.py` measures both
error and power. What differs between the audits beside the target (seed, effort, data, versions) is said first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import hypot
from statistics import NormalDist

from vlaudit.records import Finding, Metric, Report, TargetInfo, Verdict

_quantile = NormalDist().inv_cdf
NOISE = 0.01  # nominal chance that noise calls anything worse, or anything better: half of what is promised, for approximate intervals
LIBRARIES = ("python", "torch", "torchvision", "transformers", "diffusers", "open_clip_torch", "numpy", "pillow")


class Change(StrEnum):
    """How a finding differs from that of the audit before."""

    NEW = "new"  # vulnerable now, and was held, not tested or lower before
    WORSE = "worse"
    ESTABLISHED = "established"  # vulnerable now; undecided before, at an estimate that does not differ beyond chance
    FIXED = "fixed"  # held now, and was vulnerable before
    BETTER = "better"
    UNCHANGED = "unchanged"
    FIRST = "tested first"
    GONE = "no longer tested"


@dataclass(frozen=True)
class Comparison:
    """One probe on one target in both audits. ``difference``: after minus before, with bounds that hold for all comparisons of
    the two audits at once: the chance that any lower one fails is 1 %, and so for the upper ones."""

    change: Change
    before: Finding | None
    after: Finding | None
    difference: tuple[float, float, float] | None = None

    @property
    def finding(self) -> Finding:
        """The later one, where there is one."""
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True)
class History:
    """``caveats``: what else differs between the two audits, one sentence each."""

    caveats: list[str]
    comparisons: list[Comparison]

    def of(self, *changes: Change) -> list[Comparison]:
        """The comparisons of these kinds."""
        return [comparison for comparison in self.comparisons if comparison.change in changes]

    @property
    def regressed(self) -> bool:
        """Whether something is new or worse."""
        return bool(self.of(Change.NEW, Change.WORSE))


def compare(before: Report, after: Report) -> History:
    """Pair the findings of two audits by target and probe. Where the ids of targets differ (a model in another folder), the one
    target of a family and prompt that is left on each side is taken for the same."""
    names, notes = _same_targets(before, after)
    old = {(names.get(finding.target, finding.target), finding.probe): finding for finding in before.findings}
    pairs = [(old.pop((finding.target, finding.probe), None), finding) for finding in after.findings]
    level = 1 - NOISE / max(sum(_comparable(*pair) for pair in pairs), 1)
    comparisons = [_compare(*pair, level) for pair in pairs]
    comparisons += [Comparison(Change.GONE, finding, None) for finding in old.values()]
    order = list(Change)
    comparisons.sort(key=lambda c: (order.index(c.change), c.finding.target, c.finding.probe))
    return History([*notes, *_caveats(before, after, names)], comparisons)


def mark(report: Report, baseline: Report, *, only_new: bool) -> Report:
    """The report with each finding's change since the baseline."""
    changes = {c.after.id: c.change.value for c in compare(baseline, report).comparisons if c.after}
    findings = [finding.model_copy(update={"change": changes[finding.id]}) for finding in report.findings]
    audit = report.audit.model_copy(update={"baseline": baseline.audit.id, "only_new": only_new})
    return report.model_copy(update={"findings": findings, "audit": audit})


def difference(before: Metric, after: Metric, level: float = 1 - NOISE) -> tuple[float, float, float]:
    """After minus before, with its lower and upper bound, each one-sided at ``level``."""

    def widened(metric: Metric) -> float:
        return _quantile(level) / _quantile((1 + metric.level) / 2)

    value = after.value - before.value
    down = hypot((after.value - after.ci[0]) * widened(after), (before.ci[1] - before.value) * widened(before))
    up = hypot((after.ci[1] - after.value) * widened(after), (before.value - before.ci[0]) * widened(before))
    return value, value - down, value + up


def _comparable(before: Finding | None, after: Finding) -> bool:
    """Whether both measured the same metric."""
    return bool(before and before.metric and after.metric and before.metric.name == after.metric.name)


def _compare(before: Finding | None, after: Finding, level: float) -> Comparison:
    was, now = before is not None and before.verdict is Verdict.VULNERABLE, after.verdict is Verdict.VULNERABLE
    if before is None:
        return Comparison(Change.NEW if now else Change.FIRST, None, after)
    apart = None
    if before.metric and after.metric and _comparable(before, after):
        apart = difference(before.metric, after.metric, level)
    if now and not was:
        same = before.verdict is Verdict.INCONCLUSIVE and apart is not None and apart[1] <= 0
        return Comparison(Change.ESTABLISHED if same else Change.NEW, before, after, apart)
    if was and after.verdict is Verdict.HELD:
        return Comparison(Change.FIXED, before, after, apart)
    if after.verdict is Verdict.NOT_ASSESSED and before.verdict is not Verdict.NOT_ASSESSED:
        return Comparison(Change.GONE, before, after)
    if before.verdict is Verdict.NOT_ASSESSED and after.verdict is not Verdict.NOT_ASSESSED:
        return Comparison(Change.FIRST, before, after)
    if apart and apart[1] > 0:
        return Comparison(Change.WORSE, before, after, apart)
    if apart and apart[2] < 0:
        return Comparison(Change.BETTER, before, after, apart)
    return Comparison(Change.UNCHANGED, before, after, apart)


def _same_targets(before: Report, after: Report) -> tuple[dict[str, str], list[str]]:
    """The later name of each earlier target that has another name now, and a sentence on each."""
    shared = {target.id for target in before.targets} & {target.id for target in after.targets}
    names, notes = {}, []
    left = [target for target in before.targets if target.id not in shared]
    for target in (target for target in after.targets if target.id not in shared):
        alike = [other for other in left if _kind(other) == _kind(target)]
        rivals = [other for other in after.targets if other.id not in shared and _kind(other) == _kind(target)]
        if len(alike) == len(rivals) == 1:
            names[alike[0].id] = target.id
            notes.append(f"'{target.id}' is taken for the successor of '{alike[0].id}'.")
    return names, notes


def _kind(target: TargetInfo) -> tuple[str, str]:
    return target.family.value, target.prompt.id


def _caveats(before: Report, after: Report, names: dict[str, str]) -> Iterator[str]:
    for what, old, new in (
        ("version of vlaudit", before.tool.version, after.tool.version),
        ("seed", before.audit.seed, after.audit.seed),
        ("effort", before.audit.effort, after.audit.effort),
        ("policy", before.audit.policy, after.audit.policy),
    ):
        if old != new:
            yield f"The {what} differs." if what == "policy" else f"The {what} differs: {old} before, {new} now."
    for name in LIBRARIES:
        was, now = before.audit.environment.get(name), after.audit.environment.get(name)
        if was and now and was != now:
            yield f"The version of {name} differs: {was} before, {now} now."
    for report, when in ((before, "earlier"), (after, "later")):
        if not report.audit.complete:
            yield f"The {when} audit is partial."
    later = {target.id: target for target in after.targets}
    for target in before.targets:
        other = later.get(names.get(target.id, target.id))
        if other and target.data and other.data and target.data.sha256 != other.data.sha256:
            yield f"The data of '{other.id}' differ."
