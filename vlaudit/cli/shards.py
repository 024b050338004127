"""``vlaudit plan``, ``vlaudit scan --plan`` and ``vlaudit merge``: one audit in parts, on machines that know nothing of each other."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit import cage
from vlaudit.cli import debug_option, new_folder
from vlaudit.cli.scan import FILE, ScanCommand, scan_command
from vlaudit.errors import UsageError

if TYPE_CHECKING:
    from vlaudit.audit.journal import Manifest
    from vlaudit.config import TargetSpec
    from vlaudit.registry import ProbeRegistry

OF_A_RUN = {"executor", "plan", "shard", "out", "formats", "baseline", "ignore_file", "dry_run", "max_time"}
"""Flags of ``scan`` that do not shape what is planned."""
OF_A_SHARD = {"executor", "plan", "shard", "out", "device", "batch_size", "plugins", "max_time", "allow_network", "dry_run"}
"""Flags of ``scan`` that a shard may have: all else its plan has settled."""
DIR = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("plan", cls=ScanCommand, params=[param for param in scan_command.params if param.name not in OF_A_RUN], epilog="""\b
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
    plan, device = make_the_plan(asked, registry)
    notes = asked.narrowed(plan.request, registry, {target.info.family for target in plan.targets})
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    journal, _ = open_audit(out, plan, asked.command, environment(str(device)), batch_size=asked.settings.batch_size)
    journal.close()
    units, models = plan.units, {target.spec.model for target in plan.targets}
    work = duration(sum(unit.weight for unit in units))
    click.echo(f"Planned {plural(len(units), 'unit')} of work on {plural(len(models), 'model')}, about {work} on one such device.")
    click.echo(f"Run them with `vlaudit scan --plan {shlex.quote(str(out))} --shard 1/N` to N/N; `vlaudit merge` makes one audit of it.")
    return 4 if any(target.error for target in plan.targets) else 0


def run_shard(flags: dict[str, Any]) -> int:
    """``vlaudit scan --plan DIR --shard i/n``."""
    from vlaudit import __version__
    from vlaudit.audit.journal import read_manifest
    from vlaudit.audit.run import environment
    from vlaudit.audit.shards import FOLDER, ShardInfo, all_done, divide, open_shard, parse_shard, part_of, same_version
    from vlaudit.device import pick_device
    from vlaudit.registry import ProbeRegistry
    from vlaudit.reporting import plural

    deadline = time.monotonic() + flags["max_time"] if flags["max_time"] is not None else None
    cage.say(until=deadline)
    _refuse(flags)
    number, count = parse_shard(flags["shard"] or "1/1")
    folder: Path = flags["plan"]
    manifest = read_manifest(folder)
    same_version(manifest, f"The plan in '{folder}'")
    registry = ProbeRegistry.load(flags["plugins"])
    _check_probes(manifest, registry)
    shards = divide(manifest, count)
    if flags["dry_run"]:
        return _show(manifest, shards)
    _refuse_remote(manifest.request.targets, flags["allow_network"])
    part = part_of(manifest, shards[number - 1])
    out: Path = flags["out"] or folder / FOLDER / f"{number}-of-{count}"
    device = pick_device(flags["device"] or "auto")
    command = shlex.join(["vlaudit", *sys.argv[1:]])
    info = ShardInfo(
        plan=manifest.id, shard=f"{number}/{count}", version=__version__, command=command, environment=environment(str(device))
    )
    journal = open_shard(out, folder, info)
    try:
        results, interrupted = journal.results(mend=True), False
        if not all_done(manifest, registry, part, results):
            results, interrupted = _work(manifest, registry, part, journal, device, flags, deadline)
        done = all_done(manifest, registry, part, results)
    finally:
        journal.close()
    failed = sum(1 for result in results.values() if result.error)
    if interrupted:
        click.echo(f"Interrupted: {plural(len(results) - failed, 'unit')} done. The same command goes on.")
        return 130
    if not done:
        click.echo(f"Not finished: {plural(failed, 'unit')} failed, the others were not run. The same command goes on.")
        return 3
    click.echo(f"Shard {number}/{count} is done, {plural(len(results), 'unit')}: {out}")
    return 0


def _work(
    manifest: Manifest, registry: ProbeRegistry, part: list[Any], journal: Any, device: Any, flags: dict[str, Any], deadline: float | None
) -> tuple[dict[str, Any], bool]:
    """Load what a shard needs and run it."""
    from rich.console import Console

    from vlaudit.audit.executor import Job, Site
    from vlaudit.audit.run import run_units
    from vlaudit.audit.shards import plan_again
    from vlaudit.audit.targets import Loader
    from vlaudit.device import ALL, Loading
    from vlaudit.plugins import plugin
    from vlaudit.probe.artifacts import ArtifactStore

    how, allowed = Loading(manifest.request.dtype, spread=flags["device"] == ALL), flags["allow_network"]
    plan = plan_again(manifest, registry, Loader(device, how, allow_network=allowed, allow_borrowed=allowed), part)
    site = Site(
        manifest.model_dump_json(), tuple(str(path.absolute()) for path in flags["plugins"]), flags["device"] or "auto", how.spread,
        os.getcwd(), allowed, allowed,
    )  # fmt: skip
    job = Job(plan, ArtifactStore(journal.folder), flags["batch_size"] or manifest.batch_size, "--debug" in sys.argv, site)
    return run_units(job, journal, plugin("reporters", "terminal")().progress(Console()), deadline=deadline, executor=flags["executor"])


def _refuse(flags: dict[str, Any]) -> None:
    """Flags that a plan has settled are not settled otherwise by one of its shards."""
    for param in scan_command.params:
        value = flags.get(str(param.name))
        if param.name not in OF_A_SHARD and value not in (None, (), False) and value != param.default:
            name = param.opts[0] if isinstance(param, click.Option) else "TARGET"
            where = "vlaudit merge" if param.name in OF_A_RUN else "vlaudit plan"
            raise UsageError(f"{name} does not go with --plan: the plan says what is run.", f"Give it to {where}.")


def _check_probes(manifest: Manifest, registry: ProbeRegistry) -> None:
    missing = sorted({planned.probe for planned in manifest.planned} - registry.classes.keys() - registry.broken.keys())
    if missing:
        named = f"; the plan had it from {', '.join(manifest.request.plugins)}" if manifest.request.plugins else ""
        raise UsageError(f"The probe '{missing[0]}' is not installed{named}.", "Name its file with --plugin: it is code, and it is run.")


def _refuse_remote(specs: list[TargetSpec], allowed: bool) -> None:
    """A plan may come from anybody: the models that it names are reached only if the user says so."""
    from vlaudit.audit.targets import parse_model, resolve_zoo

    for name in dict.fromkeys(name for spec in specs for name in (spec.model, spec.scorer) if name):
        model = resolve_zoo(specs[0].model_copy(update={"model": name})).model
        backend, argument = parse_model(model)
        if backend.is_remote(argument) and not allowed:
            raise UsageError(f"'{model}' is a remote model, named by the plan.", "Add --allow-network if you trust both.")


def _show(manifest: Manifest, shards: list[list[str]]) -> int:
    """What each shard would run, for ``--dry-run``."""
    from vlaudit.audit.shards import milliseconds, part_of
    from vlaudit.reporting import duration, plural

    for number, ids in enumerate(shards, 1):
        part = part_of(manifest, ids)
        units = {unit.id: unit for item in part for unit in item.units}
        models = {manifest.specs[item.target].model for item in part}
        took = duration(milliseconds(units.values()) / 1000)
        click.echo(f"{number}/{len(shards)}: {plural(len(units), 'unit')} on {plural(len(models), 'model')}, about {took}")
    return 0


@click.command("merge", cls=ScanCommand, epilog="""\b
Exit codes: as of vlaudit scan. 3 where a unit of the plan is in no shard, or two shards differ in one.""")  # fmt: skip
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=DIR)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Audit folder. [default: vlaudit-out/TIMESTAMP]")
@click.option("--format", "formats", default="html", show_default=True, help="Reports to write beside report.json, comma-separated.")
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
    from vlaudit.cli.scan import conclude
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
    return conclude(
        merged.report, out, flags["formats"], notes=[*notes, *merged.remarks], accepted=accepted, baseline=baseline,
        only_new=flags["fail_on"] == "new",
    )  # fmt: skip
