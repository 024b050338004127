"""The terminal report: verdicts by risk, the worst first, and one last line that counts.

Labels, captions and reasons may hold markup or escape sequences: every text is a ``rich.text.Text`` of cleaned
characters, never markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlaudit.comparison import Comparison
from vlaudit.details import Matrix
from vlaudit.records import Finding, Report, TargetInfo, Verdict
from vlaudit.reporting import (
    SYMBOLS,
    WORDS,
    counts_text,
    exit_code,
    headline,
    interval,
    log_line,
    number,
    p_text,
    plural,
    risk_order,
    side_by_side,
    suppression_text,
    time_text,
    worst_first,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from vlaudit.reports.terminal.progress import ScanProgress

STYLES = {
    Verdict.VULNERABLE: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.HELD: "cyan",
    Verdict.NOT_ASSESSED: "dim",
}
Length = Literal["full", "summary", "last"]
MAX_COLUMNS = 12  # of a table that compares prompts
WIDTH = 100  # columns of a rendering that goes to a file


class TerminalReporter:
    """Plain text, as a scan prints it."""

    name = "terminal"
    extension = "txt"

    def render(self, report: Report, audit_dir: Path) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=WIDTH, no_color=True, force_terminal=False, legacy_windows=False)
        with console.capture() as capture:
            self.print(report, console)
        return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())

    def progress(self, console: Console, task: str = "scan") -> ScanProgress:
        """The display of a running scan (or another ``task``): live on a terminal, plain lines in a log."""
        from vlaudit.reports.terminal.progress import scan_progress

        return scan_progress(console, task)

    def compare(self, found: Comparison, console: Console) -> None:
        """Write several audits side by side."""
        from vlaudit.reports.terminal.compare import comparison

        for part in comparison(found, _text, STYLES):
            console.print(part, highlight=False)

    def annotations(self, report: Report) -> Iterator[str]:
        """Lines by which GitHub shows the findings beside the code."""
        from vlaudit.reports.terminal.annotations import workflow_commands

        return workflow_commands(report)

    def print(self, report: Report, console: Console, how: Length = "full") -> None:
        """Write the report to ``console``, in its colours and width: all of it, a summary on one screen, or its last lines."""
        from vlaudit.reports.terminal.summary import summary

        parts = {"full": (*_header(report), *_findings(report), *_side_by_side(report)), "summary": summary(report, _text, STYLES), "last": ()}
        for part in (*parts[how], *_outcome(report)):
            console.print(part, highlight=False)


def _header(report: Report) -> Iterator[RenderableType]:
    yield _text((_flat(f"{report.tool.name} {report.tool.version}"), "bold"), f", audit {_flat(report.audit.id)}")
    budget = f", budget {time_text(report.audit.budget)}" if report.audit.budget else ""
    run = f"seed {report.audit.seed}, {_flat(report.audit.effort)} effort{budget}, {_flat(report.audit.started)}"
    yield _text((run, "dim"))
    for target in report.targets:
        yield _text("")
        yield _text((_flat(target.id), "bold"))
        for name, value in _target_facts(target):
            yield _hanging(name, value)


def _target_facts(target: TargetInfo) -> Iterator[tuple[str, str]]:
    precision = f", {target.model.dtype}" if target.model.dtype else ""
    revision = f" at {target.model.revision[:12]}" if target.model.revision else ""
    yield "model", f"{target.model.spec}{revision} ({target.family.value}{precision})"
    text = f": {target.prompt.text}" if target.prompt.text else ""
    path = f", {target.prompt.path}" if target.prompt.path else ""
    yield "prompt", f"{target.prompt.id} ({target.prompt.method}{path}){text}"
    if target.data:
        groups = f"; groups: {', '.join(target.data.groups)}" if target.data.groups else ""
        members = f"; {plural(target.data.members, 'declared member')}" if target.data.members else ""
        examples = f"{plural(target.data.examples, 'example')}, {plural(len(target.data.labels), 'label')}"
        yield "data", f"{target.data.source}: {examples}{groups}{members}"
    for note in target.notes:
        yield "note", note
    if target.error:
        yield "error", f"could not be loaded: {target.error}"


def _findings(report: Report) -> Iterator[RenderableType]:
    for risk in risk_order(report.findings):
        yield _text("")
        yield _text((risk.value.upper(), "bold"))
        for finding in worst_first(f for f in report.findings if f.risk is risk):
            yield from _finding(finding, several_targets=len(report.targets) > 1)


def _finding(finding: Finding, *, several_targets: bool) -> Iterator[RenderableType]:
    style = STYLES[finding.verdict]
    severity = f"  severity {finding.severity.value}" if finding.verdict is Verdict.VULNERABLE else ""
    yield _text(
        (f"  {SYMBOLS[finding.verdict]} {WORDS[finding.verdict]:<14}", style),
        (_flat(finding.title), "bold"),
        (f" ({_flat(finding.code)})", "dim"),
        (severity, style),
        (f"  {_flat(finding.change)} since the baseline" if finding.change else "", "dim"),
        (f"  {_flat(finding.target)}" if several_targets else "", "dim"),
    )
    if finding.suppressed:
        yield _hanging("", suppression_text(finding), 6)
    if finding.metric:
        yield _hanging("", _figures(finding), 6)
    yield _hanging("", finding.reason, 6)
    for series in finding.details.series():
        if isinstance(series, Matrix):
            yield _matrix(series)


def _matrix(series: Matrix) -> RenderableType:
    """The values of a matrix; the intervals are in the other reports."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for name in (f"{series.ylabel} / {series.xlabel}", *series.columns[:MAX_COLUMNS]):
        table.add_column(_text(log_line(name, 24)), overflow="fold", justify="left" if not table.columns else "right")
    for name, row in zip(series.rows, series.values, strict=True):
        cells = ["–" if value is None else number(value, series.unit) for value in row[:MAX_COLUMNS]]
        table.add_row(*map(_text, (log_line(name, 24), *cells)))
    return Padding(table, (0, 0, 0, 6))


def _side_by_side(report: Report) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.table import Table

    for each in side_by_side(report):
        yield _text("")
        yield _text(("PROMPTS SIDE BY SIDE", "bold"), f"  {_flat(each.model)}")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("probe", *(target.prompt.id for target in each.targets[:MAX_COLUMNS])):
            table.add_column(_text(log_line(name, 24)), overflow="fold")
        for row in each.rows:
            title = next(iter(row.values())).code
            table.add_row(*(_text(_flat(cell)) for cell in (title, *(_cell(row.get(target.id)) for target in each.targets[:MAX_COLUMNS]))))
        yield Padding(table, (0, 0, 0, 2))
        yield _hanging("", each.sentence, 2)


def _cell(finding: Finding | None) -> str:
    metric = finding.metric if finding else None
    return f"{SYMBOLS[finding.verdict]} {number(metric.value, metric.unit)}" if finding and metric else "–"


def _outcome(report: Report) -> Iterator[RenderableType]:
    yield _text("")
    for note in report.audit.notes:
        yield _text(("note: ", "yellow"), _flat(note))
    for error in report.audit.errors:
        yield _text(("did not finish: ", "yellow"), _flat(error))
    if not report.audit.complete:
        yield _text(("This report is partial: the audit did not finish.", "yellow"))
    outcome, pipeline = headline(report)
    yield _text((outcome, "bold red" if exit_code(report) else "bold"))
    yield _text(pipeline)
    yield _text(f"{plural(len(report.findings), 'finding')}: {counts_text(report.findings)}.")


def _figures(finding: Finding) -> str:
    metric = finding.metric
    assert metric is not None
    figures = [f"{metric.name} {interval(metric, metric.unit)}, n = {metric.n:,}"]
    if finding.threshold is not None:
        figures.append(f"threshold {number(finding.threshold, metric.unit)}")
    if finding.reference:
        figures.append(f"reference {interval(finding.reference, metric.unit)}")
    if finding.delta:
        figures.append(f"difference {interval(finding.delta, metric.unit, difference=True)}")
    if finding.p_value is not None:
        figures.append(p_text(finding.p_value))
    return "; ".join(figures)


def _flat(text: str) -> str:
    return log_line(text)


def _text(*parts: str | tuple[str, str]) -> Text:
    """Styled parts as they are: what comes from a model, a file or a label must have passed ``_flat``."""
    from rich.text import Text

    return Text.assemble(*parts)


def _hanging(name: str, text: str, columns: int = 10) -> RenderableType:
    """A paragraph of untrusted text whose lines all begin at one column, after its name."""
    from rich.table import Table

    table = Table.grid(padding=0)
    table.add_column(width=columns, no_wrap=True)
    table.add_column()
    table.add_row(_text((f"  {name}", "dim")), _text(_flat(text)))
    return table
