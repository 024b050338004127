"""``vlaudit merge``: one audit of the parts of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vlaudit.cli import Command, debug_option, new_folder
from vlaudit.cli.completion import formats, some_of
from vlaudit.cli.scan import FILE

DIR = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("merge", cls=Command, epilog="""\b
Exit codes: as of vlaudit scan. 3 where a unit of the plan is in no shard, or two shards differ in one.""")  # fmt: skip
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=DIR)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Audit folder. [default: vlaudit-out/TIMESTAMP]")
@click.option("--format", "formats", default="html", show_default=True, shell_complete=some_of(formats), help="Reports to write beside report.json, comma-separated.")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Probe file that the plan was made with. It is code: it is run.")
@click.option("--baseline", type=DIR, help="Earlier audit to compare with: each finding says whether it is new, worse or unchanged.")
@click.option("--fail-on", type=click.Choice(["new"]), help="new: only what --baseline did not have gives exit code 1. [default: as planned]")
@click.option("--ignore-file", type=FILE, help="Accepted findings. None are accepted unless it is named.")
@debug_option
def merge_command(folders: tuple[Path, ...], out: Path | None, plugins: tuple[Path, ...], **flags: Any) -> int:
    """Make one audit of the shards in DIRs, and judge it.

    A DIR is the folder of a shard, or that of a plan, whose shards lie in it. The plan says which units belong to the audit: one that
    nobody ran is named, and the audit is incomplete. A unit that ran twice must have come to the same, but for the last bits of floats.
    DIRs are only read. No model is needed.
    """
    from vlaudit.audit.merge import find_shards, merge
    from vlaudit.cli.asked import accepted_findings, earlier_report
    from vlaudit.cli.render import reporter_names
    from vlaudit.cli.scan import Ending, conclude
    from vlaudit.registry import ProbeRegistry
    from vlaudit.reporting import log_line, plural

    reporter_names(flags["formats"])
    baseline = earlier_report(flags)
    accepted, notes = accepted_findings(flags["ignore_file"])
    registry = ProbeRegistry.load(plugins)
    out, shards = out or new_folder(), find_shards(folders)
    merged = merge(shards, out, registry)
    for remark in merged.remarks:
        click.echo(f"Note: {log_line(remark)}", err=True)
    if merged.twice:
        click.echo(f"{plural(merged.twice, 'unit')} ran more than once, and came to the same.", err=True)
    if merged.missing:
        click.echo(f"Incomplete: {plural(len(merged.missing), 'unit')} of the plan in no shard; see the report's errors.", err=True)
    return conclude(merged.report, Ending(out, flags["formats"], [*notes, *merged.remarks], accepted, baseline, only_new=flags["fail_on"] == "new"))
