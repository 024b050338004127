"""What commands write at the end of an audit: its renderings, beside ``report.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError

if TYPE_CHECKING:
    from vlaudit.records import Report

STEM = "report"


def reporter_names(formats: str) -> list[str]:
    """The reporters that a comma-separated list names. Raises UsageError with a did-you-mean."""
    from vlaudit.plugins import plugin

    names = list(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if not names:
        raise UsageError("--format names no reporter.", "Write for example --format html,sarif.")
    for name in names:
        plugin("reporters", name)
    return names


def write_reports(report: Report, audit_dir: Path, formats: str = "html") -> list[Path]:
    """Write ``report.EXTENSION`` of each format into the audit folder; ``report.json`` is there already."""
    from vlaudit.files import write_atomically
    from vlaudit.plugins import plugin

    paths = []
    for reporter in (plugin("reporters", name)() for name in reporter_names(formats)):
        path = audit_dir / f"{STEM}.{reporter.extension}"
        write_atomically(path, reporter.render(report, audit_dir))
        paths.append(path)
    return paths
