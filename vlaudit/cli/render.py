"""What commands show and write at the end of an audit."""

from __future__ import annotations

from pathlib import Path

from vlaudit.audit.journal import write_atomically
from vlaudit.records import Report
from vlaudit.registry import plugin


def write_html(report: Report, audit_dir: Path) -> Path:
    """``report.html`` in the audit folder."""
    path = audit_dir / "report.html"
    write_atomically(path, plugin("reporters", "html")().render(report, audit_dir))
    return path
