"""Workflow commands by which GitHub shows findings beside the lines that declare their targets.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions; what others wrote cannot end a command or begin one.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlaudit.records import Report, Verdict
from vlaudit.reporting import gating, log_line, worst_first

MOST = 10  # of a kind, which GitHub shows of a step
LONGEST = 400


def workflow_commands(report: Report) -> Iterator[str]:
    """A line for each vulnerable finding: an error where it stops the pipeline, else a warning; accepted ones are notices."""
    declared = {target.id: target.declared for target in report.targets}
    stops = {finding.id for finding in gating(report)}
    kinds: dict[str, int] = {}
    for finding in worst_first(f for f in report.findings if f.verdict is Verdict.VULNERABLE):
        kind = "notice" if finding.suppressed else "error" if finding.id in stops else "warning"
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] > MOST:
            continue
        place = declared.get(finding.target)
        said = {"file": place.file, "line": str(place.line)} if place else {}
        said["title"] = f"vlaudit {finding.id}: {finding.title} ({finding.severity.value})"
        properties = ",".join(f"{name}={_escaped(value).replace(':', '%3A').replace(',', '%2C')}" for name, value in said.items())
        yield f"::{kind} {properties}::{_escaped(f'{finding.target}: {finding.reason}')}"


def _escaped(text: str) -> str:
    return log_line(text, LONGEST).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
