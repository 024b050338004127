"""Commands on an audit folder: ``report`` renders it, ``judge`` applies a policy to its trials. Neither needs a model."""

from __future__ import annotations

from pathlib import Path

import click

from vlaudit.cli import debug_option

AUDIT_DIR = click.argument("audit_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command("report")
@AUDIT_DIR
@click.option("--format", "formats", default="terminal", show_default=True,
              help="Comma-separated: terminal, html, json, junit, markdown, sarif ... (see vlaudit list reporters).")  # fmt: skip
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here instead of to the screen.")
@debug_option
def report_command(audit_dir: Path, formats: str, output: Path | None) -> int:
    """Render the report of AUDIT_DIR again, from the folder alone.

    One format goes to the screen or to --output; several are written into AUDIT_DIR as report.html, report.sarif and so on.
    """
    from vlaudit.audit.journal import write_atomically
    from vlaudit.audit.run import read_report
    from vlaudit.cli.render import reporter_names, write_reports
    from vlaudit.errors import UsageError
    from vlaudit.registry import plugin

    report, names = read_report(audit_dir), reporter_names(formats)
    if len(names) > 1:
        if output:
            raise UsageError("--output takes one --format.", "Leave --output out: several go into the audit folder.")
        for path in write_reports(report, audit_dir, formats):
            click.echo(f"Wrote {path}")
        return 0
    text = plugin("reporters", names[0])().render(report, audit_dir)
    if output:
        write_atomically(output, text)
        click.echo(f"Wrote {output}", err=True)
    else:
        click.echo(text)
    return 0


@click.command("judge")
@AUDIT_DIR
@click.option("--policy", "policy_file", type=click.Path(dir_okay=False, path_type=Path),
              help="TOML file with level, alpha, thresholds, severity, gate.")  # fmt: skip
@click.option("--plugin", "plugins", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Probe file the audit was made with.")  # fmt: skip
@debug_option
def judge_command(audit_dir: Path, policy_file: Path | None, plugins: tuple[Path, ...]) -> int:
    """Judge the trials of AUDIT_DIR again, under another policy, and rewrite its reports. No model is needed."""
    from vlaudit.audit.run import judge_folder, write_report
    from vlaudit.cli.render import write_reports
    from vlaudit.policy import load_policy
    from vlaudit.registry import plugin
    from vlaudit.reporting import exit_code

    policy = load_policy(policy_file) if policy_file else None
    report = judge_folder(audit_dir, policy, list(plugins))
    write_report(audit_dir, report)
    write_reports(report, audit_dir)
    click.echo(plugin("reporters", "terminal")().render(report, audit_dir))
    return exit_code(report)
