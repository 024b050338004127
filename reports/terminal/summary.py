"""What a scan ends with: the risks by target, what is vulnerable in two lines each, and what a pipeline makes of it, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from vlaudit.records import Finding, Report, Risk, Verdict
from vlaudit.reporting import SYMBOLS, WORDS, count_verdicts, log_line, risk_order, worst_first, worst_verdict

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    Styled = Callable[..., Text]  # of parts, each a text or a text and its style

MOST_FINDINGS, MOST_TARGETS = 6, 8  # told one by one: the vulnerable ones, or all where there are no more
MOST_NOTES = 3  # on a target, such as what of its data was left out
LONGEST = 40  # columns of a target's name


def summary(report: Report, styled: Styled, styles: Mapping[Verdict, str]) -> Iterator[RenderableType]:
    """The matrix of risks and the vulnerable findings of a report."""
    yield _matrix(report, styled, styles)
    yield styled(("  ".join(f"{SYMBOLS[verdict]} {WORDS[verdict]}" for verdict in Verdict), "dim"))
    yield styled("")
    for target in report.targets:
        if target.error:
            yield styled((f"{log_line(target.id)} could not be loaded: ", "bold red"), log_line(target.error))
        for note in target.notes[:MOST_NOTES]:
            yield styled((f"note on {log_line(target.id)}: ", "yellow"), log_line(note))
        if len(target.notes) > MOST_NOTES:
            yield styled((f"  … and {len(target.notes) - MOST_NOTES} more notes on it", "dim"))
    few = len(report.findings) <= MOST_FINDINGS
    told = worst_first(finding for finding in report.findings if few or finding.verdict is Verdict.VULNERABLE)
    for finding in told[:MOST_FINDINGS]:
        yield from _finding(finding, styled, styles, several=len(report.targets) > 1)
    if len(told) > MOST_FINDINGS:
        yield styled((f"  … and {len(told) - MOST_FINDINGS} more", "dim"))


def _matrix(report: Report, styled: Styled, styles: Mapping[Verdict, str]) -> RenderableType:
    from rich.table import Table

    risks = risk_order(report.findings)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(styled("target"), overflow="ellipsis", no_wrap=True, max_width=LONGEST)
    for risk in risks:
        table.add_column(styled(risk.value), no_wrap=True)
    for target in report.targets[:MOST_TARGETS]:
        own = [finding for finding in report.findings if finding.target == target.id]
        table.add_row(styled(log_line(target.id)), *(styled(_cell(own, risk, styles)) for risk in risks))
    if len(report.targets) > MOST_TARGETS:
        table.add_row(styled((f"… and {len(report.targets) - MOST_TARGETS} more", "dim")))
    return table


def _cell(findings: list[Finding], risk: Risk, styles: Mapping[Verdict, str]) -> tuple[str, str]:
    """How many findings have each verdict, in the style of the one that asks most of the reader."""
    own = [finding for finding in findings if finding.risk is risk]
    counts = [f"{SYMBOLS[verdict]}{count}" for verdict, count in count_verdicts(own).items() if count]
    worst = worst_verdict(own)
    return " ".join(counts), styles[worst] if worst else ""


def _finding(finding: Finding, styled: Styled, styles: Mapping[Verdict, str], *, several: bool) -> Iterator[RenderableType]:
    from rich.padding import Padding

    severity = finding.severity.value if finding.verdict is Verdict.VULNERABLE else ""
    said = f" ({log_line(finding.change, 20)})" if finding.change else ""
    accepted = f"accepted, as {log_line(finding.suppressed.file, 40)} says; " if finding.suppressed else ""
    where = f"  {log_line(finding.target)}" if several else ""
    for line in (
        styled((f"{SYMBOLS[finding.verdict]} {severity:<9}", styles[finding.verdict]), (log_line(finding.title), "bold"), (f"  {finding.id}{said}{where}", "dim")),
        styled(f"  {'':<9}", (accepted, "yellow"), log_line(finding.reason)),
    ):
        line.no_wrap, line.overflow = True, "ellipsis"
        yield Padding(line, 0)  # texts by themselves are joined, which forgets how they wrap
