"""Commands on audit folders: ``report`` renders one, ``judge`` applies a policy to its trials, ``diff`` compares two. None needs a
model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.completion import formats, some_of
from vlaudit.cli.render import MAX_SIZE, output_file
from vlaudit.history import Change, History

if TYPE_CHECKING:
    from vlaudit.records import Cover

STYLES = {Change.NEW: "bold red", Change.WORSE: "red", Change.FIXED: "green", Change.BETTER: "green"}
AUDIT_DIR = click.argument("audit_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command("report", cls=Command)
@AUDIT_DIR
@click.option("--format", "formats", default="terminal", show_default=True, shell_complete=some_of(formats),
              help="Comma-separated: terminal, html, json, junit, markdown, sarif ... (see vlaudit list reporters).")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), callback=output_file, help="Write here instead of to the screen; - is the screen.")
@click.option("--summary", is_flag=True, help="What a scan ends with, on one screen.")
@click.option("--cover", multiple=True, metavar="FIELD=TEXT",
              help="Of the compliance report: system, version, purpose, organisation or assessor; else as vlaudit.toml said. Can be repeated.")  # fmt: skip
@MAX_SIZE
@debug_option
def report_command(audit_dir: Path, formats: str, output: Path | None, summary: bool, cover: tuple[str, ...], max_size: int | None) -> int:
    """Render the report of AUDIT_DIR again, from the folder alone; of an audit that was killed, what its trials say.

    One format goes to the screen or to --output; several are written into AUDIT_DIR as report.html, report.sarif and so on.
    """
    from vlaudit.audit.run import has_report, judge_folder, read_report
    from vlaudit.cli.render import SCREEN, made_reporter, one_report, print_report, reporter_names, write_reports
    from vlaudit.errors import UsageError
    from vlaudit.files import write_into
    from vlaudit.plugins import plugin

    names = one_report(formats, output) if output else reporter_names(formats)
    output = None if output == SCREEN else output
    report = read_report(audit_dir) if has_report(audit_dir) else judge_folder(audit_dir)
    if cover:
        report = report.model_copy(update={"audit": report.audit.model_copy(update={"cover": _covered(report.audit.cover, cover)})})
    if len(names) > 1:
        for path in write_reports(report, audit_dir, formats, max_size):
            click.echo(f"Wrote {path}")
        return 0
    if names == ["terminal"] and output is None:
        from rich.console import Console

        plugin("reporters", "terminal")().print(report, Console(), "summary" if summary else "full")
        return 0
    if summary:
        raise UsageError("--summary is of the terminal.", "Leave --format and --output out.")
    text = made_reporter(names[0], max_size).render(report, audit_dir)
    if output:
        write_into(output, text)
        click.echo(f"Wrote {output}", err=True)
    else:
        print_report(text)
    return 0


def _covered(before: Cover, given: tuple[str, ...]) -> Cover:
    """The cover with what ``--cover`` says on top. Raises UsageError."""
    from vlaudit.errors import UsageError, did_you_mean
    from vlaudit.records import Cover

    fields = dict(before)
    for field, is_, text in (item.partition("=") for item in given):
        if not is_:
            raise UsageError(f"--cover says nothing of '{field}'.", 'Write for example --cover system="Photo search".')
        if field not in fields:
            raise UsageError(f"--cover has no field '{field}'.", did_you_mean(field, list(fields)))
        fields[field] = text
    return Cover.model_validate(fields)


@click.command("judge", cls=Command)
@AUDIT_DIR
@click.option("--policy", "policy_file", type=click.Path(dir_okay=False, path_type=Path),
              help="TOML file with level, alpha, thresholds, severity, gate.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Probe file the audit was made with.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="New folder for a copy of the audit with the new reports; AUDIT_DIR stays as it is.")  # fmt: skip
@debug_option
def judge_command(audit_dir: Path, policy_file: Path | None, plugins: tuple[Path, ...], out: Path | None) -> int:
    """Judge the trials of AUDIT_DIR again, under another policy, and rewrite its reports, or those of a copy in --out. No model is needed.

    The report of an audit that was killed is partial, and says so. One that another policy than the scan's judged says what that policy
    changed, at its top.
    """
    import contextlib

    from vlaudit.audit.copied import copy_audit
    from vlaudit.audit.run import judge_folder, read_report, write_report
    from vlaudit.cli.render import write_reports
    from vlaudit.errors import UsageError
    from vlaudit.plugins import plugin
    from vlaudit.policy import load_policy
    from vlaudit.reporting import exit_code

    policy = load_policy(policy_file) if policy_file else None
    report = judge_folder(audit_dir, policy, list(plugins))
    with contextlib.suppress(UsageError):  # no report yet, or a damaged one, which is written anew
        if read_report(audit_dir).audit.baseline:
            click.echo("The comparison with the baseline is dropped; see vlaudit diff.", err=True)
    if out:
        copy_audit(audit_dir, out)
    folder = out or audit_dir
    write_report(folder, report)
    paths = write_reports(report, folder)
    click.echo(plugin("reporters", "terminal")().render(report, folder))
    for path in paths:
        click.echo(f"Report: {path}")
    return exit_code(report)


@click.command("diff", cls=Command)
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@debug_option
def diff_command(before: Path, after: Path, as_json: bool) -> int:
    """Compare two audits: what is new, worse, fixed, better, unchanged or no longer tested.

    Noise is no change: a figure is worse only if the two estimates differ beyond chance, all comparisons taken together. Exits
    with 1 if something is new or worse.
    """
    import json

    from vlaudit.audit.run import read_report
    from vlaudit.history import compare
    from vlaudit.reporting import log_json, plural

    history = compare(read_report(before), read_report(after))
    if as_json:
        rows = [
            {
                "change": c.change.value,
                "target": c.finding.target,
                "probe": c.finding.probe,
                "before": c.before.verdict.value if c.before else None,
                "after": c.after.verdict.value if c.after else None,
                "difference": dict(zip(("value", "low", "high"), c.difference, strict=True)) if c.difference else None,
            }
            for c in history.comparisons
        ]
        click.echo(log_json(json.dumps({"caveats": history.caveats, "comparisons": rows}, indent=2)))
    else:
        _print_history(history)
        counts = (
            f"{plural(len(found), 'finding')} {change.value}" for change in Change if (found := history.of(change))
        )
        click.echo("; ".join(counts) or "Nothing to compare.")
    return int(history.regressed)


def _print_history(history: History) -> None:
    from rich.console import Console
    from rich.text import Text

    from vlaudit.records import Metric
    from vlaudit.reporting import WORDS, interval, log_line

    console = Console()
    for caveat in history.caveats:
        console.print(Text(log_line(caveat), "yellow"))
    for change in Change:
        for place, c in enumerate(history.of(change)):
            if place == 0:
                console.print(Text(change.value.upper(), STYLES.get(change, "bold")))
            verdicts = " → ".join(WORDS[finding.verdict] for finding in (c.before, c.after) if finding)
            said = f"{c.finding.probe} on {c.finding.target}: {verdicts}"
            if c.difference and c.finding.metric:
                value, low, high = c.difference
                apart = Metric(name=c.finding.metric.name, value=value, ci=(low, high), n=c.finding.metric.n)
                said += f", {interval(apart, c.finding.metric.unit, difference=True)}"
            console.print(Text(f"  {log_line(said)}"))
