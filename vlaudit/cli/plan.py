"""``vlaudit plan``: an audit that is written down, to be run in parts (:mod:`vlaudit.cli.shard`) and put together (:mod:`vlaudit.cli.merge`)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from vlaudit.cli import Command
from vlaudit.cli.scan import scan_command
from vlaudit.cli.shard import OF_A_RUN
from vlaudit.errors import UsageError


@click.command("plan", cls=Command, params=[param for param in scan_command.params if param.name not in OF_A_RUN], epilog="""\b
Exit codes: 0 the plan is written; 2 wrong usage; 3 it could not be made; 4 a model could not be loaded.""")  # fmt: skip
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the plan.")
def plan_command(**flags: Any) -> int:
    """Write down what an audit of TARGETs would run, to be run in parts by `vlaudit scan --plan DIR --shard i/n`.

    Targets and flags are those of `vlaudit scan`. The models are loaded and timed, so that each unit of work has an estimated cost;
    no probe runs. `vlaudit merge` makes one audit of the parts. See docs/scale.md.
    """
    from vlaudit.audit.run import environment, open_audit
    from vlaudit.cli.asked import read_flags
    from vlaudit.cli.scan import make_the_plan
    from vlaudit.registry import ProbeRegistry
    from vlaudit.reporting import duration, plural

    out = flags["out"]
    if flags["fail_on"] == "new":
        raise UsageError("--fail-on new belongs to the merge, which compares.", "Give it to vlaudit merge, with --baseline.")
    asked = read_flags({"formats": "html", "baseline": None, "ignore_file": None, "dry_run": False, "max_time": None, "executor": None} | flags)
    registry = ProbeRegistry.load(flags["plugins"])
    asked.check_policy(registry)
    made = make_the_plan(asked, registry)
    plan = made.plan
    notes = asked.narrowed(plan.request, registry, {target.info.family for target in plan.targets})
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    journal, _ = open_audit(out, plan, asked.command, environment(str(made.devices[0])), batch_size=asked.settings.batch_size)
    journal.close()
    units, models = plan.units, {target.spec.model for target in plan.targets}
    work = duration(sum(unit.weight for unit in units))
    click.echo(f"Planned {plural(len(units), 'unit')} of work on {plural(len(models), 'model')}, about {work} on one such device.")
    click.echo(f"Run them with `vlaudit scan --plan {shlex.quote(str(out))} --shard 1/N` to N/N; `vlaudit merge` makes one audit of it.")
    return 4 if any(target.error for target in plan.targets) else 0
