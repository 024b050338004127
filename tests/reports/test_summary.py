"""What a scan ends with: on one screen at 80 columns, whatever labels and names say, and nothing vulnerable left unsaid."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.reports.conftest import finding
from vlaudit.records import Finding, Report, Risk, Severity, Verdict
from vlaudit.reports.terminal import Length, TerminalReporter


def shown(audited: Report, width: int = 80, how: Length = "summary") -> list[str]:
    console = Console(file=io.StringIO(), width=width, no_color=True, force_terminal=False)
    TerminalReporter().print(audited, console, how)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def vulnerable(reason: str, number: int = 0) -> Finding:
    return finding("x", "X", Risk.BACKDOOR, Verdict.VULNERABLE, reason, severity=Severity.HIGH, id=f"X-{number:08x}")


def of(report: Report, *findings: Finding) -> Report:
    return report.model_copy(update={"findings": list(findings)})


@pytest.mark.parametrize("width", [80, 120])
def test_many_findings_fit_one_screen_and_are_counted(report: Report, width: int) -> None:
    lines = shown(of(report, *(vulnerable("so it is " * 40, n) for n in range(9))), width)
    assert len(lines) <= 24 and all(len(line) <= width for line in lines)
    assert sum("X-0" in line for line in lines) == 6 and any("and 3 more" in line for line in lines)
    assert any("9 vulnerable" in line for line in lines)


def test_the_outcome_alone_is_the_end_of_the_whole(report: Report) -> None:
    audited = of(report, vulnerable("so it is"))
    last = [line for line in shown(audited, how="last") if line]
    assert last == [line for line in shown(audited, how="full") if line][-len(last) :] and 2 <= len(last) <= 4


def test_hostile_words_stay_words(report: Report) -> None:
    text = "\n".join(shown(of(report, vulnerable("[red]\x1b[2J\nfine[/red]"))))
    assert "[red]" in text and "\x1b" not in text


def test_few_findings_are_all_told_and_a_model_that_is_missing_is_said(report: Report) -> None:
    open_ = finding("y", "Y", Risk.BIAS, Verdict.NOT_ASSESSED, "needs a group column", id="Y-1")
    broken = report.targets[0].model_copy(update={"error": "there is no such folder"})
    text = "\n".join(shown(of(report, vulnerable("so it is"), open_).model_copy(update={"targets": [broken]})))
    assert "needs a group column" in text and "could not be loaded: there is no such folder" in text
    many = [open_.model_copy(update={"id": f"Y-{n}"}) for n in range(9)]
    assert "needs a group column" not in "\n".join(shown(of(report, *many)))
