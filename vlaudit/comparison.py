"""Several audits: side by side, models or prompts against probes, for choosing one; or in a list. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vlaudit.records import Finding, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import CONCERN, count_verdicts, plural


@dataclass(frozen=True)
class Column:
    """One target of one audit."""

    audit: str  # the name of its folder
    target: TargetInfo
    findings: Mapping[str, Finding]  # by probe

    @property
    def name(self) -> str:
        return f"{self.target.id} ({self.audit})"

    def assessed(self, probe: str) -> bool:
        return probe in self.findings and self.findings[probe].verdict is not Verdict.NOT_ASSESSED

    def concerns(self, probes: Collection[str]) -> tuple[int, int, int]:
        """Of these probes, how many findings are vulnerable, how grave those are together, and how many are open: smaller is better."""
        found = [finding for probe, finding in self.findings.items() if probe in probes]
        counts = count_verdicts(found)
        graveness = sum(f.severity.rank for f in found if f.verdict is Verdict.VULNERABLE)
        return counts[Verdict.VULNERABLE], graveness, counts[Verdict.INCONCLUSIVE]


@dataclass(frozen=True)
class Listed:
    """One folder of a list of audits: its report with the link to its page, or why there is none."""

    name: str
    report: Report | None = None
    link: str | None = None
    doubt: str = ""


@dataclass(frozen=True)
class Comparison:
    """Columns, the one with the fewest flaws first by the probes that ran on all, and the probes that ran on any, by risk, the worst first."""

    columns: list[Column]
    probes: list[tuple[str, str, str]]  # id, code and title
    common: list[str]  # the probes that ran on all targets

    @property
    def sentence(self) -> str:
        """Which has the fewest flaws by the probes that ran on all, and which probes say nothing of that."""
        uneven = [code for id_, code, _ in self.probes if id_ not in self.common]
        apart = f" Not counted, because not assessed on all: {', '.join(uneven)}." if uneven else ""
        if not self.common:
            return f"No probe was assessed on all {len(self.columns)} targets, so they stand by name.{apart}"
        first = self.columns[0]
        vulnerable, graveness, open_ = first.concerns(self.common)
        equals = [column for column in self.columns if column.concerns(self.common)[:2] == (vulnerable, graveness)]
        who = first.name if len(equals) == 1 else f"{len(equals)} of {len(self.columns)} are equal"
        ran = plural(len(self.common), "probe")
        return f"By the {ran} assessed on all, fewest vulnerable findings: {who}, with {vulnerable}; {open_} open in the first.{apart}"


def compare_audits(audits: Mapping[str, Report]) -> Comparison:
    """``audits``: reports by the names of their folders."""
    columns = [
        Column(name, target, {f.probe: f for f in report.findings if f.target == target.id})
        for name, report in audits.items()
        for target in report.targets
    ]
    every = [finding for column in columns for finding in column.findings.values()]
    worst = {finding.probe: min(CONCERN.index(other.verdict) for other in every if other.probe == finding.probe) for finding in every}
    order = sorted(every, key=lambda f: (list(Risk).index(f.risk), worst[f.probe], f.code))
    probes = list(dict.fromkeys((f.probe, f.code, f.title) for f in order))
    common = [id_ for id_, _, _ in probes if all(column.assessed(id_) for column in columns)]
    columns.sort(key=lambda column: (column.concerns(common), column.name))
    return Comparison(columns, probes, common)
