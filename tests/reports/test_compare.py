"""Several audits side by side: the one with the fewest flaws first, what did not run said, and nothing of their words obeyed."""

from __future__ import annotations

import io

from rich.console import Console

from tests.reports.conftest import finding
from vlaudit.comparison import compare_audits
from vlaudit.records import Report, Risk, Severity, Verdict
from vlaudit.reports.html import HTMLReporter
from vlaudit.reports.terminal import TerminalReporter


def audit(report: Report, name: str, verdicts: dict[str, Verdict]) -> Report:
    target = report.targets[0].model_copy(update={"id": name})
    grave = {Verdict.VULNERABLE: Severity.HIGH}
    findings = [
        finding(probe, probe.upper(), Risk.BACKDOOR, verdict, "so it is", target=name, severity=grave.get(verdict, Severity.NONE), id=f"{name}/{probe}")
        for probe, verdict in verdicts.items()
    ]
    return report.model_copy(update={"targets": [target], "findings": findings})


def test_the_fewest_flaws_come_first_and_what_did_not_run_is_said(report: Report) -> None:
    bad = audit(report, "bad", {"a": Verdict.VULNERABLE, "b": Verdict.HELD})
    good = audit(report, "good", {"a": Verdict.HELD, "c": Verdict.INCONCLUSIVE})
    found = compare_audits({"one": bad, "two": good})
    assert [column.name for column in found.columns] == ["good (two)", "bad (one)"]
    assert [id_ for id_, _, _ in found.probes] == ["a", "c", "b"]
    assert found.sentence == "Fewest vulnerable findings: good (two), with 0; 1 open or not assessed in the first. Not all ran: c, b."
    console = Console(file=io.StringIO(), width=100, no_color=True)
    TerminalReporter().compare(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "not run" in text and "✗" in text and "good (two)" in text


def test_hostile_names_are_escaped(report: Report) -> None:
    found = compare_audits({"<b>x</b>": audit(report, "<script>alert(1)</script>", {"a": Verdict.HELD})})
    page = HTMLReporter().compare(found, {"<b>x</b>": "x/report.html"})
    assert "<script>alert" not in page and "<b>x" not in page and 'href="x/report.html"' in page
