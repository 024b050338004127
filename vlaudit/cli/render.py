"""What commands write at the end of an audit: its renderings, beside ``report.json``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from vlaudit.errors import UsageError

if TYPE_CHECKING:
    from vlaudit.records import Report
    from vlaudit.reporting import Reporter

STEM = "report"
SCREEN = Path("-")  # as a file to write to: standard output
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|M)B?", re.IGNORECASE)


def page_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """``"5MB"`` as bytes."""
    if value is None:
        return None
    said = _SIZE.fullmatch(value.strip())
    if said is None:
        raise click.BadParameter(f"'{value}' is no size: write 800kB or 20MB.")
    return int(float(said[1]) * (1_000 if said[2] in "kK" else 1_000_000))


def output_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A file to write one report to, in a folder that is there; ``SCREEN`` under any of its names."""
    if value is not None and str(value) in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        return SCREEN
    if value is not None and not os.path.isdir(value.parent):
        raise UsageError(f"There is no folder '{value.parent}' to write '{value.name}' into.", "Make it first, or choose another --output.")
    return value


def page_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """The same for a page that links to others, and so has a place."""
    if output_file(ctx, param, value) == SCREEN:
        raise UsageError("--output is the file of a page, whose links begin where it lies.", "Name one, such as --output audits.html.")
    return value


MAX_SIZE = click.option("--max-size", callback=page_size, metavar="5MB",
                        help="Size of the HTML report; pictures that do not fit stay in artifacts/. [default: 5MB]")  # fmt: skip


def made_reporter(name: str, max_size: int | None) -> Reporter:
    """The reporter of a name; one whose files have a size (``max_size``, in bytes) is told it."""
    from vlaudit.plugins import plugin

    reporter: Reporter = plugin("reporters", name)()
    if max_size is not None and hasattr(reporter, "max_size"):
        reporter.max_size = max_size
    return reporter


def reporter_names(formats: str) -> list[str]:
    """The reporters that a comma-separated list names. Raises UsageError with a did-you-mean."""
    from vlaudit.plugins import plugin

    names = list(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if not names:
        raise UsageError("--format names no reporter.", "Write for example --format html,sarif.")
    for name in names:
        plugin("reporters", name)
    return names


def one_report(formats: str, output: Path) -> list[str]:
    """The one reporter whose report goes to ``output``. Raises UsageError where there are several."""
    names = reporter_names(formats)
    if len(names) > 1:
        raise UsageError(
            f"--output {output} takes one report, and --format names {len(names)}.",
            "Leave --output out, so that all go into the audit folder, or name one format.",
        )
    return names


def print_report(text: str, screen: TextIO | None = None) -> None:
    """A report alone on standard output (or what was that, a ``screen``), and one line end after it."""
    click.echo(text, file=screen, nl=not text.endswith("\n"))


def write_reports(report: Report, audit_dir: Path, formats: str = "html", max_size: int | None = None) -> list[Path]:
    """Write ``report.EXTENSION`` of each format into the audit folder; ``report.json`` is there already."""
    from vlaudit.files import write_atomically

    paths = []
    for reporter in (made_reporter(name, max_size) for name in reporter_names(formats)):
        path = audit_dir / f"{STEM}.{reporter.extension}"
        write_atomically(path, reporter.render(report, audit_dir))
        paths.append(path)
    return paths
