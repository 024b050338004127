"""Several audits side by side: the one with the fewest flaws first, what did not run said, and nothing of their words obeyed."""

from __future__ import annotations

import io

from rich.console import Console

from tests.reports.conftest import finding
from vlaudit.comparison import compare_audits
from vlaudit.records import Report, Risk, Severity, Verdict
from vlaudit.reporting import interval
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
    assert found.sentence == (
        "By the 1 probe assessed on all, fewest vulnerable findings: good (two), with 0; 0 open in the first. "
        "Not counted, because not assessed on all: C, B."
    )
    console = Console(file=io.StringIO(), width=100, no_color=True)
    TerminalReporter().compare(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "not run" in text and "✗" in text and "good (two)" in text


def test_a_target_that_was_asked_less_is_not_better_for_it(report: Report) -> None:
    asked = audit(report, "asked", {"a": Verdict.HELD, "b": Verdict.VULNERABLE, "c": Verdict.VULNERABLE})
    spared = audit(report, "spared", {"a": Verdict.VULNERABLE, "c": Verdict.NOT_ASSESSED})
    found = compare_audits({"one": asked, "two": spared})
    assert [column.name for column in found.columns] == ["asked (one)", "spared (two)"] and found.common == ["a"]
    assert "asked (one), with 0" in found.sentence and found.sentence.endswith("not assessed on all: B, C.")


def test_targets_that_were_asked_nothing_in_common_stand_by_name(report: Report) -> None:
    found = compare_audits({"two": audit(report, "z", {"a": Verdict.HELD}), "one": audit(report, "b", {"b": Verdict.VULNERABLE})})
    assert [column.target.id for column in found.columns] == ["b", "z"] and found.common == []
    assert found.sentence.startswith("No probe was assessed on all 2 targets, so they stand by name.")


def test_every_figure_stands_with_its_interval(report: Report) -> None:
    found = compare_audits({"one": report})
    console = Console(file=io.StringIO(), width=300, no_color=True)
    TerminalReporter().compare(found, console)
    page = HTMLReporter().compare(found, {})
    for finding_ in report.findings:
        if finding_.metric:
            said = interval(finding_.metric, finding_.metric.unit)
            assert said in page and said in console.file.getvalue()  # type: ignore[attr-defined]


def test_hostile_names_are_escaped(report: Report) -> None:
    found = compare_audits({"<b>x</b>": audit(report, "<script>alert(1)</script>", {"a": Verdict.HELD})})
    page = HTMLReporter().compare(found, {"<b>x</b>": "x/report.html"})
    assert "<script>alert" not in page and "<b>x" not in page and 'href="x/report.html"' in page
