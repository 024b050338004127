"""The compliance report as one HTML page, as Markdown and as JSON. A cover (``[compliance]`` in ``vlaudit.toml``, or ``vlaudit report --cover``)
says which system it is about and who assessed it; what nobody gave stays blank, to be filled in by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlaudit.records import Finding, Report, TargetInfo, Verdict
from vlaudit.reporting import (
    SYMBOLS,
    WORDS,
    counts_text,
    interval,
    log_json,
    plural,
    release,
    suppression_text,
    without_surrogates,
    worst_first,
)
from vlaudit.reports._policy import departures
from vlaudit.reports.compliance import CAVEAT, HERE, Cell, Row, Section, Status, sections
from vlaudit.reports.html import page_environment, shared_style
from vlaudit.reports.markdown import escape

COLUMNS = 4  # targets side by side; more stand in further tables
BLANK = "______________________"
TONES = {
    Status.AGAINST: Verdict.VULNERABLE,
    Status.FOR: Verdict.HELD,
    Status.PARTLY: Verdict.HELD,
    Status.TESTED: Verdict.HELD,
    Status.UNDECIDED: Verdict.INCONCLUSIVE,
    Status.NOT_ASSESSED: Verdict.NOT_ASSESSED,
    Status.NONE: Verdict.NOT_ASSESSED,
}
"""The colours of verdicts that stand for a status."""


class ComplianceReporter:
    """Evidence for the controls of eight frameworks, as a page that can be printed, signed and filed."""

    name = "compliance"
    extension = "compliance.html"

    def render(self, report: Report, audit_dir: Path) -> str:
        found = sections(report)
        return (
            page_environment(HERE)
            .get_template("page.html")
            .render(
                **shared_style(), report=report, cover=report.audit.cover, sections=found,
                findings=_by_target(report), anchors=_anchors(report.findings), groups=_groups(report.targets), departures=departures(report),
                verdict=release(report), counts=counts_text(report.findings), caveat=CAVEAT, words=WORDS, symbols=SYMBOLS, tones=TONES,
                plural=plural, suppression_text=suppression_text,
            )
        )  # fmt: skip


class ComplianceMarkdownReporter:
    """Evidence for the controls of eight frameworks, as Markdown."""

    name = "compliance-markdown"
    extension = "compliance.md"

    def render(self, report: Report, audit_dir: Path) -> str:
        return "\n".join(_lines(report)) + "\n"


class ComplianceJSONReporter:
    """Evidence for the controls of eight frameworks, as JSON, for the register that a compliance officer keeps."""

    name = "compliance-json"
    extension = "compliance.json"

    def render(self, report: Report, audit_dir: Path) -> str:
        return log_json(json.dumps(without_surrogates(_told(report)), indent=1, ensure_ascii=False)) + "\n"


def _by_target(report: Report) -> list[tuple[TargetInfo, list[Finding], list[Finding]]]:
    """The findings of each target, worst first: those that were assessed, and those that were not."""
    ordered = worst_first(report.findings)
    told = []
    for target in report.targets:
        own = [finding for finding in ordered if finding.target == target.id]
        assessed = [finding for finding in own if finding.verdict is not Verdict.NOT_ASSESSED]
        told.append((target, assessed, [finding for finding in own if finding.verdict is Verdict.NOT_ASSESSED]))
    return told


def _anchors(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.id: f"finding-{position}" for position, finding in enumerate(worst_first(findings), 1)}


def _groups(targets: Sequence[TargetInfo]) -> list[list[TargetInfo]]:
    return [list(targets[start : start + COLUMNS]) for start in range(0, len(targets), COLUMNS)]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _lines(report: Report) -> Iterator[str]:
    audit = report.audit
    yield "# What this audit is evidence for"
    yield ""
    yield CAVEAT
    yield ""
    yield f"{escape(release(report), 400)} {counts_text(report.findings)}."
    yield ""
    if not audit.complete:
        yield "**The audit did not finish: what is missing is not a pass.**"
        yield ""
    for note in audit.notes:
        yield f"**Note:** {escape(note, 600)}"
        yield ""
    yield from _table(["what", ""], [
        *([name, escape(text, 1000) or BLANK] for name, text in audit.cover),
        ["audit", f"{escape(audit.id)}, {escape(audit.started)}, seed {audit.seed}, {escape(audit.effort)} effort, {escape(report.tool.name)} {escape(report.tool.version)}"],
    ])  # fmt: skip
    for target in report.targets:
        yield ""
        yield f"## {escape(target.id)}"
        yield ""
        rows = [["model", f"{escape(target.model.spec)} ({target.family.value}), SHA-256 {escape(target.model.sha256 or 'not known')}"]]
        prompt = target.prompt
        rows.append(["prompt", f"{escape(prompt.id)} ({escape(prompt.method)}){': ' if prompt.text else ''}{escape(prompt.text, 300)}" + (f", SHA-256 {escape(prompt.sha256)}" if prompt.sha256 else "")])
        if target.data:
            rows.append(["data", f"{escape(target.data.source)}, {plural(target.data.examples, 'example')}" + (f", SHA-256 {escape(target.data.sha256)}" if target.data.sha256 else "")])
        yield from _table(["what", ""], rows)
    yield ""
    yield "## Policy"
    yield ""
    changed = departures(report)
    if changed:
        yield from _table(["entry that departs", "this audit", "default"], [[escape(part) for part in row] for row in changed])
    else:
        yield "The default policy: no threshold, level, severity or gate departs from it."
    yield ""
    assessor = escape(audit.cover.assessor)
    yield from _table(["role", "name", "date", "signature"], [[role, assessor if role == "assessed by" else "", "", ""] for role in ("assessed by", "reviewed by", "released by")])
    for section in sections(report):
        yield from _section(section, report.targets)


def _section(section: Section, targets: Sequence[TargetInfo]) -> Iterator[str]:
    framework = section.framework
    yield ""
    yield f"## {framework.title}"
    yield ""
    yield f"{framework.edition}, read {framework.retrieved} at <{framework.source}>. {framework.note}"
    for group in _groups(targets):
        yield ""
        counts = [f"{section.covered(target.id)} of {len(section.rows)}, {section.against(target.id)} against" for target in group]
        if section.concerned:
            rows = [[_control(row), *(_cell(row, row.cells[target.id]) for target in group)] for row in section.concerned]
            yield from _table(["control", *(escape(target.id) for target in group)], [["controls decided", *counts], *rows])
    if section.untouched:
        yield ""
        named = "; ".join(escape(f"{row.control} {row.title}") for row in section.untouched)
        yield f"Not assessed (no probe of this audit bears on them): {named}."


def _control(row: Row) -> str:
    whys = (f"{escape(', '.join(codes))}: {escape(why, 300)}" if codes else escape(why, 300) for why, codes in row.reasons)
    return f"**{escape(row.control)}** {escape(row.title)}. " + " ".join(whys)


def _cell(row: Row, cell: Cell) -> str:
    said = f"{cell.status.value}, {cell.proportion}" if cell.proportion else cell.status.value
    if row.of_all:
        return said
    found = "; ".join(f"{WORDS[verdict]}: {', '.join(map(_figure, findings))}" for verdict, findings in cell.by_verdict)
    return f"**{said}**. {found}" if found else said


def _figure(finding: Finding) -> str:
    metric = finding.metric
    return escape(finding.code + (f" ({interval(metric, metric.unit)})" if metric else ""), 120)


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


# --- JSON -------------------------------------------------------------------------------------------------------------


def _told(report: Report) -> dict[str, Any]:
    return {
        "tool": report.tool.model_dump(),
        "audit": {"id": report.audit.id, "started": report.audit.started, "finished": report.audit.finished, "complete": report.audit.complete},
        "caveat": CAVEAT,
        "cover": {name: text or None for name, text in report.audit.cover},
        "departs_from_the_default_policy": [dict(zip(("entry", "value", "default"), row, strict=True)) for row in departures(report)],
        "targets": [
            {"id": t.id, "model": t.model.spec, "model_sha256": t.model.sha256, "prompt": t.prompt.id, "prompt_sha256": t.prompt.sha256}
            for t in report.targets
        ],
        "frameworks": [
            {
                "id": section.framework.id, "edition": section.framework.edition, "source": section.framework.source,
                "read": section.framework.retrieved.isoformat(),
                "controls": [
                    {
                        "control": row.control, "title": row.title,
                        "reasons": [{"why": why, "codes": codes} for why, codes in row.reasons],
                        "targets": {
                            id_: {"status": cell.status.value, "findings": [{"id": f.id, "code": f.code, "verdict": f.verdict.value} for f in cell.findings]}
                            for id_, cell in row.cells.items()
                        },
                    }
                    for row in section.rows
                ],
            }
            for section in sections(report)
        ],
    }  # fmt: skip
