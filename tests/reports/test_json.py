"""The JSON report is ``report.json``, byte for byte, and reads back as the same report."""

from __future__ import annotations

from pathlib import Path

from vlaudit.audit.run import read_report
from vlaudit.records import Report
from vlaudit.reports.json import JSONReporter


def test_round_trip(report: Report, audit_dir: Path) -> None:
    text = (audit_dir / "report.json").read_text(encoding="utf-8")
    again = read_report(audit_dir)
    assert again == report
    assert JSONReporter().render(again, audit_dir) == text
