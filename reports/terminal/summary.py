"""What a scan ends with: the risks by target, what is vulnerable in two lines each, and what a pipeline makes of it, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlaudit.records import Finding, Report, Risk, Verdict
from vlaudit.reporting import SYMBOLS, log_line, risk_order, worst_first, worst_verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vlaudit.reports.terminal import Styled

MOST_FINDINGS, MOST_TARGETS = 6, 8  # told one by one
LONGEST = 40  # columns of a target's name


def summary(report: Report, styled: Styled) -> Iterator[RenderableType]:
    """The matrix of risks and the vulnerable findings of a report."""
    yield _matrix(report, styled)
    yield styled("")
    vulnerable = worst_first(finding for finding in report.findings if finding.verdict is Verdict.VULNERABLE)
    for finding in vulnerable[:MOST_FINDINGS]:
        yield from _finding(finding, styled, several=len(report.targets) > 1)
    if len(vulnerable) > MOST_FINDINGS:
        yield styled((f"  … and {len(vulnerable) - MOST_FINDINGS} more", "dim"))


def _matrix(report: Report, styled: Styled) -> RenderableType:
    from rich.table import Table

    risks = risk_order(report.findings)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(styled("target"), overflow="ellipsis", no_wrap=True, max_width=LONGEST)
    for risk in risks:
        table.add_column(styled(risk.value), no_wrap=True)
    for target in report.targets[:MOST_TARGETS]:
        own = [finding for finding in report.findings if finding.target == target.id]
        table.add_row(styled(log_line(target.id)), *(styled(_cell(own, risk)) for risk in risks))
    if len(report.targets) > MOST_TARGETS:
        table.add_row(styled((f"… and {len(report.targets) - MOST_TARGETS} more", "dim")))
    return table


def _cell(findings: list[Finding], risk: Risk) -> tuple[str, str]:
    """The verdict that asks most of the reader, how many findings have it, and its style."""
    from vlaudit.reports.terminal import STYLES

    own = [finding for finding in findings if finding.risk is risk]
    worst = worst_verdict(own)
    if worst is None:
        return "", ""
    count = sum(finding.verdict is worst for finding in own)
    said = "open" if worst is Verdict.INCONCLUSIVE else worst.value.replace("-", " ")
    return f"{SYMBOLS[worst]} {count} {said}", STYLES[worst]


def _finding(finding: Finding, styled: Styled, *, several: bool) -> Iterator[RenderableType]:
    from rich.padding import Padding

    said = " (accepted)" if finding.suppressed else f" ({log_line(finding.change, 20)})" if finding.change else ""
    where = f"  {log_line(finding.target)}" if several else ""
    for line in (
        styled((f"✗ {finding.severity.value:<9}", "bold red"), (log_line(finding.title), "bold"), (f"  {finding.id}{said}{where}", "dim")),
        styled(f"  {'':<9}{log_line(finding.reason)}"),
    ):
        line.no_wrap, line.overflow = True, "ellipsis"
        yield Padding(line, 0)  # texts by themselves are joined, which forgets how they wrap
