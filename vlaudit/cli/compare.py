"""``vlaudit compare``: several audits in one matrix, for choosing a model or a prompt."""

from __future__ import annotations

from pathlib import Path

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.render import page_file


@click.command("compare", cls=Command)
@click.argument("audits", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="AUDIT_DIR...")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), callback=page_file, help="Write the matrix here as HTML, with links to the reports.")
@debug_option
def compare_command(audits: tuple[Path, ...], output: Path | None) -> int:
    """Show the targets of several audits side by side: verdict, figure and interval of each probe, the target with the fewest flaws
    first. Only probes that were assessed on all targets count for that order.

    For what changed between two audits of the same target see `vlaudit diff`.
    """
    import os

    from rich.console import Console

    from vlaudit.audit.run import read_report
    from vlaudit.comparison import compare_audits
    from vlaudit.files import write_atomically
    from vlaudit.plugins import plugin

    names = {folder: folder.resolve().name for folder in audits}
    alike = len(set(names.values())) < len(names)
    found = compare_audits({str(folder) if alike else names[folder]: read_report(folder) for folder in audits})
    plugin("reporters", "terminal")().compare(found, Console())
    if output:
        links = {
            str(folder) if alike else names[folder]: os.path.relpath(folder / "report.html", output.parent)
            for folder in audits
            if os.path.isfile(folder / "report.html")
        }
        write_atomically(output, plugin("reporters", "html")().compare(found, links))
        click.echo(f"Wrote {output}")
    return 0
