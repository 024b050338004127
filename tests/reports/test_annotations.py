"""Annotations of a GitHub workflow: one a vulnerable finding, at its target's line, and nothing in them is a command of its own."""

from __future__ import annotations

import re

from tests.reports.conftest import finding
from vlaudit.records import Place, Report, Risk, Severity, Verdict
from vlaudit.reports.terminal.annotations import workflow_commands


def test_findings_are_errors_where_they_stop_the_pipeline_and_point_at_their_target(report: Report) -> None:
    target = report.targets[0].model_copy(update={"declared": Place(file="a,b.toml", line=4)})
    found = [
        finding("x", "X", Risk.BACKDOOR, verdict, "100% of it\nis ::error::mine\r::add-mask::x", severity=severity, id=f"X-{n}", target=target.id)
        for n, (verdict, severity) in enumerate([(Verdict.VULNERABLE, Severity.HIGH), (Verdict.VULNERABLE, Severity.LOW), (Verdict.HELD, Severity.NONE)])
    ]
    lines = list(workflow_commands(report.model_copy(update={"targets": [target], "findings": found})))
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert "file=a%2Cb.toml,line=4,title=vlaudit X-0%3A x (high)::" in lines[0] and "100%25 of it is" in lines[0]
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert all(len(re.findall(r"(?:^|\s)::\S", line)) == 1 for line in lines)
    many = [one.model_copy(update={"id": f"X-{n}"}) for n, one in enumerate(found[:1] * 30)]
    assert len(list(workflow_commands(report.model_copy(update={"findings": many})))) == 10
