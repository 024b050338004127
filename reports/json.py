"""The JSON report: ``report.json``, the form that other programs read."""

from __future__ import annotations

from pathlib import Path

from vlaudit.records import Report


class JSONReporter:
    """The report as it is; ``vlaudit schema`` prints its JSON Schema."""

    name = "json"
    extension = "json"

    def render(self, report: Report, audit_dir: Path) -> str:
        return report.model_dump_json(indent=2) + "\n"
