"""The JSON report: ``report.json``, the form that other programs read."""

from __future__ import annotations

from pathlib import Path

from vlaudit.records import Report
from vlaudit.reporting import report_json


class JSONReporter:
    """The report as it is; ``vlaudit schema`` prints its JSON Schema."""

    name = "json"
    extension = "json"

    def render(self, report: Report, audit_dir: Path) -> str:
        return report_json(report, indent=2)
