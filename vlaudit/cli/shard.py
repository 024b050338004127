"""``vlaudit scan --plan DIR --shard i/n``: a part of an audit that was planned."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit import cage
from vlaudit.errors import UsageError

if TYPE_CHECKING:
    from vlaudit.audit.journal import Manifest
    from vlaudit.config import TargetSpec
    from vlaudit.registry import ProbeRegistry

OF_A_RUN = {"executor", "plan", "shard", "out", "formats", "output", "baseline", "ignore_file", "dry_run", "max_time"}
"""Flags of ``scan`` that do not shape what is planned."""
OF_A_SHARD = {"executor", "plan", "shard", "out", "device", "batch_size", "plugins", "max_time", "allow_network", "dry_run"}
"""Flags of ``scan`` that a shard may have: all else its plan has settled."""


def run_shard(flags: dict[str, Any]) -> int:
    """``vlaudit scan --plan DIR --shard i/n``."""
    from vlaudit import __version__
    from vlaudit.audit.division import divide, part_of
    from vlaudit.audit.journal import read_manifest
    from vlaudit.audit.planned_again import same_version
    from vlaudit.audit.run import environment
    from vlaudit.audit.shard import ShardInfo, all_done, open_shard, parse_shard, shard_folder
    from vlaudit.device import pick_devices
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
    out: Path = flags["out"] or shard_folder(folder, number, count)
    devices = pick_devices(flags["device"] or "auto", apart=flags["executor"] is None)
    command = shlex.join(["vlaudit", *sys.argv[1:]])
    info = ShardInfo(
        plan=manifest.id, shard=f"{number}/{count}", version=__version__, command=command, environment=environment(str(devices[0]))
    )
    journal = open_shard(out, folder, info)
    try:
        results, interrupted = journal.results(mend=True), False
        if not all_done(manifest, registry, part, results):
            results, interrupted = _work(manifest, registry, part, journal, devices, flags, deadline)
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
    manifest: Manifest, registry: ProbeRegistry, part: list[Any], journal: Any, devices: list[Any], flags: dict[str, Any], deadline: float | None
) -> tuple[dict[str, Any], bool]:
    """Load what a shard needs and run it."""
    from rich.console import Console

    from vlaudit.audit.executor import Job, Site
    from vlaudit.audit.planned_again import plan_again
    from vlaudit.audit.run import run_units
    from vlaudit.audit.targets import Loader
    from vlaudit.device import ALL, Loading
    from vlaudit.plugins import plugin
    from vlaudit.probe.artifacts import ArtifactStore

    named, allowed = flags["device"] or "auto", flags["allow_network"]
    loader = Loader(devices[0], Loading(manifest.request.dtype, spread=named == ALL), allow_network=allowed, allow_borrowed=allowed)
    plan = plan_again(manifest, registry, loader, part, devices=len(devices))
    site = Site.of(manifest, flags["plugins"], named, devices, allow_network=allowed, allow_borrowed=allowed)
    batch_size = flags["batch_size"] or manifest.batch_size
    job = Job(plan, ArtifactStore(journal.folder), batch_size, "--debug" in sys.argv, site, loader.let_go)
    return run_units(job, journal, plugin("reporters", "terminal")().progress(Console()), deadline=deadline, executor=flags["executor"])


def _refuse(flags: dict[str, Any]) -> None:
    """Flags that a plan has settled are not settled otherwise by one of its shards."""
    for param in click.get_current_context().command.params:
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
    from vlaudit.audit.subjects import resolve_zoo
    from vlaudit.audit.targets import parse_model

    for name in dict.fromkeys(name for spec in specs for name in (spec.model, spec.scorer) if name):
        model = resolve_zoo(specs[0].model_copy(update={"model": name})).model
        backend, argument = parse_model(model)
        if backend.is_remote(argument) and not allowed:
            raise UsageError(f"'{model}' is a remote model, named by the plan.", "Add --allow-network if you trust both.")


def _show(manifest: Manifest, shards: list[list[str]]) -> int:
    """What each shard would run, for ``--dry-run``."""
    from vlaudit.audit.division import milliseconds, part_of
    from vlaudit.reporting import duration, plural

    for number, ids in enumerate(shards, 1):
        part = part_of(manifest, ids)
        units = {unit.id: unit for item in part for unit in item.units}
        models = {manifest.specs[item.target].model for item in part}
        took = duration(milliseconds(units.values()) / 1000)
        click.echo(f"{number}/{len(shards)}: {plural(len(units), 'unit')} on {plural(len(models), 'model')}, about {took}")
    return 0
