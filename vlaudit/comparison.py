"""Several audits side by side: models or prompts against probes, for choosing one. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlaudit.records import Finding, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import CONCERN, count_verdicts


@dataclass(frozen=True)
class Column:
    """One target of one audit."""

    audit: str  # the name of its folder
    target: TargetInfo
    findings: Mapping[str, Finding]  # by probe

    @property
    def name(self) -> str:
        return f"{self.target.id} ({self.audit})"

    @property
    def concerns(self) -> tuple[int, ...]:
        """How many findings are vulnerable, then open, and how many severities the vulnerable ones add up to: smaller is better."""
        counts = count_verdicts(self.findings.values())
        graveness = sum(f.severity.rank for f in self.findings.values() if f.verdict is Verdict.VULNERABLE)
        return counts[Verdict.VULNERABLE], graveness, counts[Verdict.INCONCLUSIVE] + counts[Verdict.NOT_ASSESSED]


@dataclass(frozen=True)
class Comparison:
    """Columns, the one with the fewest flaws first, and the probes that any of them ran, by risk, the worst first."""

    columns: list[Column]
    probes: list[tuple[str, str, str]]  # id, code and title

    @property
    def sentence(self) -> str:
        """Which has the fewest flaws, and what that leaves open. Audits that tried different things are not compared without a word."""
        first = self.columns[0]
        equals = [column for column in self.columns if column.concerns[:2] == first.concerns[:2]]
        who = first.name if len(equals) == 1 else f"{len(equals)} of {len(self.columns)} are equal"
        said = f"Fewest vulnerable findings: {who}, with {first.concerns[0]}; {first.concerns[2]} open or not assessed in the first."
        uneven = [title for id_, _, title in self.probes if any(id_ not in column.findings for column in self.columns)]
        return f"{said} Not all ran: {', '.join(uneven)}." if uneven else said


def compare_audits(audits: Mapping[str, Report]) -> Comparison:
    """``audits``: reports by the names of their folders."""
    columns = [
        Column(name, target, {f.probe: f for f in report.findings if f.target == target.id})
        for name, report in audits.items()
        for target in report.targets
    ]
    columns.sort(key=lambda column: (column.concerns, column.name))
    every = [finding for column in columns for finding in column.findings.values()]
    worst = {finding.probe: min(CONCERN.index(other.verdict) for other in every if other.probe == finding.probe) for finding in every}
    order = sorted(every, key=lambda f: (list(Risk).index(f.risk), worst[f.probe], f.code))
    return Comparison(columns, list(dict.fromkeys((f.probe, f.code, f.title) for f in order)))
