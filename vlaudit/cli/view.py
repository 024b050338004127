"""``vlaudit view``: the reports of a folder of audits, by one static page that a browser opens. No server, no model."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import quote

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.render import page_file
from vlaudit.comparison import Listed
from vlaudit.errors import UsageError

PAGE = "index.html"
MOST = 500  # folders that are looked into


@click.command("view", cls=Command)
@click.argument("folder", metavar="[DIR]", default="vlaudit-out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), callback=page_file, help=f"Page to write. [default: DIR/{PAGE}]")
@click.option("--no-open", is_flag=True, help="Write the page and print its path; open no browser.")
@debug_option
def view_command(folder: Path, output: Path | None, no_open: bool) -> int:
    """Open the reports of the audits in DIR (default: vlaudit-out, where scans go), or the report of DIR itself where it is one audit.

    One page lists them, the newest first, and links to each report. Folders that hold no audit, or a damaged one, are named with the reason.
    Links are not followed.
    """
    import webbrowser

    from vlaudit.audit.run import has_report

    if not os.path.isdir(folder):
        raise UsageError(f"There is no folder '{folder}'.", "Scan something first, or name a folder of audits: vlaudit view DIR.")
    own = output is None and has_report(folder) and _is_file(folder / "report.html")
    page = (folder / "report.html" if own else _index(folder, output or folder / PAGE)).absolute()
    click.echo(click.format_filename(page))
    if not no_open and not webbrowser.open(page.as_uri()):
        click.echo("No browser could be started: open this file in one.", err=True)
    return 0


def _index(folder: Path, page: Path) -> Path:
    """Write the page. Raises UsageError where another's would be lost."""
    from vlaudit.files import Unreadable, read_text, write_atomically
    from vlaudit.plugins import plugin

    reporter = plugin("reporters", "html")()
    if os.path.lexists(page):
        try:
            ours = reporter.is_contents(read_text(page))
        except Unreadable:
            ours = False
        if not ours:
            raise UsageError(f"'{page}' is there already, and not of vlaudit view.", "Name another page with --output.")
    try:
        places = sorted((folder / name for name in os.listdir(folder) if os.path.isdir(folder / name)), key=lambda place: place.name, reverse=True)
    except OSError as error:
        raise UsageError(f"The folder '{folder}' cannot be read ({error.strerror}).", "Name another one, or mend its rights.") from error
    found = [_listed(place, page.absolute().parent) for place in (([folder] if _is_file(folder / "report.json") else []) + places)[:MOST]]
    found.sort(key=lambda one: one.report.audit.started if one.report else "", reverse=True)
    write_atomically(page, reporter.contents(found, folder.resolve().name, max(len(places) - MOST, 0)))
    return page


def _listed(place: Path, beside: Path) -> Listed:
    from vlaudit.audit.run import has_report, read_report

    if place.is_symlink():
        return Listed(place.name, doubt="a link, which is not followed")
    if not has_report(place):
        return Listed(place.name, doubt="holds no report")
    try:
        report = read_report(place)
    except UsageError as error:
        return Listed(place.name, doubt=str(error))
    if not _is_file(place / "report.html"):
        write = shlex.join(["vlaudit", "report", str(place), "--format", "html", "--output", str(place / "report.html")])
        return Listed(place.name, report, doubt=f"has no page yet: {write}")
    return Listed(place.name, report, quote(Path(os.path.relpath(place / "report.html", beside)).as_posix(), errors="surrogateescape"))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)
