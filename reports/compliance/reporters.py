"""The compliance report as one HTML page, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlaudit.records import Report, Verdict
from vlaudit.reporting import WORDS, interval
from vlaudit.reports.compliance import CAVEAT, HERE, Row, Section, Status, sections
from vlaudit.reports.html import page_environment, shared_style
from vlaudit.reports.markdown import escape

TONES = {
    Status.AGAINST: Verdict.VULNERABLE,
    Status.FOR: Verdict.HELD,
    Status.UNDECIDED: Verdict.INCONCLUSIVE,
    Status.NOT_ASSESSED: Verdict.NOT_ASSESSED,
}
"""The colours of verdicts that stand for a status."""


class ComplianceReporter:
    """Evidence for the controls of six frameworks, as a page."""

    name = "compliance"
    extension = "compliance.html"

    def render(self, report: Report, audit_dir: Path) -> str:
        return (
            page_environment(HERE)
            .get_template("page.html")
            .render(**shared_style(), report=report, sections=sections(report), caveat=CAVEAT, words=WORDS, tones=TONES)
        )


class ComplianceMarkdownReporter:
    """Evidence for the controls of six frameworks, as Markdown."""

    name = "compliance-markdown"
    extension = "compliance.md"

    def render(self, report: Report, audit_dir: Path) -> str:
        return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# What this audit is evidence for"
    yield ""
    yield CAVEAT
    yield ""
    if not report.audit.complete:
        yield "**The audit did not finish: what is missing is not a pass.**"
        yield ""
    yield f"Audit {escape(report.audit.id)}, {escape(report.audit.started)}, seed {report.audit.seed}, of:"
    yield ""
    for target in report.targets:
        yield f"- {escape(target.id)} ({target.family.value})"
    for section in sections(report):
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    framework = section.framework
    yield ""
    yield f"## {framework.title}"
    yield ""
    yield (
        f"{framework.edition}, read {framework.retrieved} at <{framework.source}>. {framework.note} "
        f"{section.covered} of {len(section.rows)} controls decided."
    )
    yield ""
    if section.concerned:
        yield "| control | title | this audit | findings |"
        yield "|---|---|---|---|"
    for row in section.concerned:
        yield f"| {escape(row.control)} | {escape(row.title)} | {row.status.value} | {_findings(row)} |"

    if section.untouched:
        yield ""
        named = "; ".join(escape(f"{row.control} {row.title}") for row in section.untouched)
        yield f"Not assessed (no probe of this audit bears on them): {named}."


def _findings(row: Row) -> str:
    said = []
    for finding in row.findings:
        metric = finding.metric
        figures = f": {metric.name} {interval(metric, metric.unit)}" if metric else ""
        said.append(
            escape(f"{WORDS[finding.verdict]}: {finding.title} ({finding.code}), {finding.target}{figures}", 300)
        )
    return "; ".join(said)
