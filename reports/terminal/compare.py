"""Several audits in one table: targets across, probes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from vlaudit.comparison import Comparison
from vlaudit.records import Finding, Verdict
from vlaudit.reporting import SYMBOLS, WORDS, interval, log_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    Styled = Callable[..., Text]

MOST = 8  # columns


def comparison(found: Comparison, styled: Styled, styles: Mapping[Verdict, str]) -> Iterator[RenderableType]:
    """The sentence, the table, and what its signs mean."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(styled("probe"), overflow="fold")
    for column in found.columns[:MOST]:
        table.add_column(styled(log_line(column.name)), overflow="fold")
    for id_, code, title in found.probes:
        cells = [_cell(column.findings.get(id_)) for column in found.columns[:MOST]]
        table.add_row(styled(f"{code} {log_line(title)}"), *(styled((text, styles[verdict] if verdict else "")) for text, verdict in cells))
    yield table
    yield styled(("  ".join(f"{SYMBOLS[verdict]} {WORDS[verdict]}" for verdict in Verdict), "dim"))
    if len(found.columns) > MOST:
        yield styled((f"… and {len(found.columns) - MOST} more targets; --output FILE shows all", "dim"))
    yield styled(log_line(found.sentence))


def _cell(finding: Finding | None) -> tuple[str, Verdict | None]:
    if finding is None:
        return "not run", None
    figure = f" {interval(finding.metric, finding.metric.unit)}" if finding.metric else ""
    return f"{SYMBOLS[finding.verdict]}{figure}", finding.verdict
