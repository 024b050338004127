"""``vlaudit scan``: from flags and ``vlaudit.toml`` to findings and reports."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit import cage
from vlaudit.cli import debug_option, new_folder
from vlaudit.cli.render import reporter_names
from vlaudit.config import FILE_NAME, Config, Request, ScanSettings, TargetSpec, read_config
from vlaudit.errors import UsageError
from vlaudit.policy import Policy
from vlaudit.records import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlaudit.audit.plan import Plan
    from vlaudit.cage import Ended
    from vlaudit.records import Report
    from vlaudit.registry import ProbeRegistry
    from vlaudit.suppressions import Entry

IGNORE_FILE = ".vlaudit-ignore.toml"
FILE = click.Path(dir_okay=False, path_type=Path)


class ScanCommand(click.Command):
    """A command none of whose values is empty: a variable of a shell that is not set is not the same as a flag left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        for parameter in self.get_params(ctx):
            name = parameter.opts[0] if isinstance(parameter, click.Option) else "TARGET"
            values = given.get(str(parameter.name))
            for value in values if isinstance(values, list | tuple) else [values]:
                if isinstance(value, str) and not value.strip():
                    raise UsageError(f"{name} is empty.", "Give it a value, or leave it out.")
                if isinstance(value, str) and "\0" in value:
                    raise UsageError(f"{name} holds a NUL character.", "Give it as text.")
        return super().parse_args(ctx, args)


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """``90``, ``90s``, ``10m`` or ``1.5h`` to seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())
    if match is None or float(match[1]) <= 0:
        raise click.BadParameter(f"'{value}' is not a time. Write for example 90s, 10m or 1h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@click.command("scan", cls=ScanCommand, epilog="""\b
Exit codes:
  0    complete; nothing vulnerable at or above --fail-on
  1    something vulnerable at or above --fail-on
  2    wrong usage or configuration; nothing was run
  3    a planned unit did not finish, or nothing was assessed
  4    a model could not be loaded
  130  interrupted (Ctrl-C, SIGTERM, SIGHUP); the same command with the same --out goes on

\b
0 and 1 are given only by a report that was written: foreign code that exits, crashes
or hangs gives 3, or 4 while a model is loaded.""")  # fmt: skip
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="SPEC",
    help='Template such as "a photo of a {}", or METHOD:FILE. Repeat it: one target each.',
)
@click.option("--reference", metavar="SPEC", help="Reference prompt. Default: the plain prompt.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of labelled pictures (ImageFolder convention).")
@click.option("--labels", type=FILE, help="Text file with one label a line.")
@click.option("--prompts", "captions", type=FILE, help="Captions to audit, one a line (text-to-image targets).")
@click.option("--group", "groups", multiple=True, metavar="COLUMN", help="Attribute column to compare. Repeatable.")
@click.option("--members", metavar="train|COLUMN", help="Which pictures the prompt was learned on.")
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="SELECTOR",
    help="Probe id, code, glob, risk:NAME or family:NAME. Default: all.",
)
@click.option("--skip", multiple=True, metavar="SELECTOR", help="Probes to leave out.")
@click.option("--scorer", metavar="TARGET", help="Model that scores generated pictures (text-to-image targets).")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Python file with probes. It is code: it is run.")
@click.option("--config", type=FILE, help=f"Config file. Default: {FILE_NAME} in this folder, if there is one.")
@click.option(
    "--effort", type=click.Choice(["quick", "standard", "thorough"]), help="Budget of searches. [default: quick]"
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all randomness. [default: 0]")
@click.option("--device", help="auto, cpu, cuda or cuda:N. [default: auto]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Pictures a pass; halved when memory runs out. [default: 128]"
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Audit folder. [default: vlaudit-out/TIMESTAMP]"
)
@click.option(
    "--format",
    "formats",
    default="html",
    show_default=True,
    help="Reports to write beside report.json, comma-separated (see vlaudit list reporters).",
)
@click.option(
    "--fail-on",
    type=click.Choice(["none", "low", "medium", "high", "critical", "new"]),
    help="Lowest severity that gives exit code 1; new: only what --baseline did not have. [default: high]",
)
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Earlier audit to compare with: each finding says whether it is new, worse or unchanged.",
)
@click.option("--strict", is_flag=True, default=None, help="Exit 3 when a finding is inconclusive or not assessed.")
@click.option("--gate", type=click.Choice(["none", "holm"]), help="holm: vulnerable only if adjusted p < alpha too.")
@click.option(
    "--ignore-file", type=FILE, help=f"Accepted findings, such as {IGNORE_FILE}. None are accepted unless it is named."
)
@click.option("--dry-run", is_flag=True, help="Show targets, probes, cases, passes and estimated time; run nothing.")
@click.option("--max-time", callback=_seconds, metavar="10m", help="End after this time, whatever hangs: with a partial report and code 3.")
@click.option("--allow-network", is_flag=True, help="Let a config that was found, or the files of a folder, name remote models.")
@debug_option
def scan_command(**flags: Any) -> int:
    """Audit TARGETs and write a report.

    A TARGET is zoo:NAME (a bundled specimen), open_clip:ARCH/PRETRAINED, open_clip:local-dir:PATH, hf:REPO_OR_DIR,
    diffusers:REPO_OR_DIR or openai:BASE_URL#MODEL (whose key is read from VLAUDIT_API_KEY or OPENAI_API_KEY).
    Without one, the targets of vlaudit.toml are audited, or else the bundled defaults: one specimen of each family,
    or the first of them alone where a flag gives it another prompt or other data.
    """
    from vlaudit.registry import ProbeRegistry

    deadline = time.monotonic() + flags["max_time"] if flags["max_time"] is not None else None
    cage.say(until=deadline)
    config, trusted = _read(flags["config"])
    settings = _settings(config.scan, flags)
    reporter_names(flags["formats"])  # a misspelt one is said now, not after an hour
    baseline = _baseline(flags)
    accepted, notes = _accepted(flags["ignore_file"])
    command = shlex.join(["vlaudit", *sys.argv[1:]])
    specs, is_default = _targets(config, flags)
    flags["out"] = flags["out"] or new_folder()
    cage.say(folder=None if flags["dry_run"] or cage.ended else str(flags["out"]))
    registry = ProbeRegistry.load(() if cage.ended and cage.ended.only_say else flags["plugins"])
    if cage.ended:
        if not trusted and not cage.ended.only_say:
            notes += _found(flags, registry, _request(config, settings, specs, flags, registry), set(Family))
        return _finish(cage.ended, config, settings, specs, flags, registry, command, baseline, accepted, notes)
    if not trusted:
        _refuse_relaxation(config, registry)
    if is_default:
        _announce_defaults(specs, _policy(config.policy, flags), registry.select(settings.probe, settings.skip))
    plan, device = _plan(config, settings, specs, flags, registry, allow_network=trusted or flags["allow_network"])
    if not trusted:
        notes += _found(flags, registry, plan.request, {target.info.family for target in plan.targets})
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    if flags["dry_run"]:
        _show_plan(plan, device)
        return 4 if any(target.error for target in plan.targets) else 0
    return _run(plan, registry, device, settings, flags, command, baseline, accepted, notes, deadline)


def _read(path: Path | None) -> tuple[Config, bool]:
    """The config, and whether the user vouches for what it names (no config names nothing)."""
    if path is not None:
        return read_config(path, trusted=True), True
    found = Path(FILE_NAME)
    return (read_config(found, trusted=False), False) if os.path.lexists(found) else (Config(), True)


def _refuse_relaxation(config: Config, registry: ProbeRegistry) -> None:
    """Raise UsageError where a config that was found, and so may belong to what is audited, lowers the gate."""
    relaxed = config.policy.relaxations(probe.info for probe in registry.classes.values())
    if relaxed:
        raise UsageError(
            f"The {FILE_NAME} found here may belong to what is audited, and its policy lowers the gate: {', '.join(relaxed)}.",
            f"If you trust it, name it with --config {FILE_NAME}; else take these entries out.",
        )


def _found(flags: dict[str, Any], registry: ProbeRegistry, request: Request, families: set[Family]) -> list[str]:
    """What a config that was found leaves out of the audit, or sets otherwise, one sentence each."""
    asked = registry.select(flags["probes"], flags["skip"])
    asked = [name for name in asked if flags["probes"] or registry.get(name).info.families & families]
    kept, said = request.probes, []
    left_out = [name for name in asked if name not in kept]
    if left_out:
        names = ", ".join(left_out[:8]) + (f" and {len(left_out) - 8} more" if len(left_out) > 8 else "")
        said.append(f"The {FILE_NAME} found here leaves out {len(left_out)} of {len(asked)} probes: {names}.")
    if request.seed != ScanSettings().seed and flags["seed"] is None:
        said.append(f"The {FILE_NAME} found here sets the seed {request.seed}.")
    for name, params in request.params.items():
        values = ", ".join(f"{key} = {value!r}" for key, value in params.items())
        said.append(f"The {FILE_NAME} found here sets parameters of {name}: {values}.")
    return said


def _settings(settings: ScanSettings, flags: dict[str, Any]) -> ScanSettings:
    """The config's scan settings with the flags that were given on top."""
    given = {name: flags[name] for name in ("effort", "seed", "device", "batch_size") if flags[name] is not None}
    if flags["probes"]:
        given["probe"] = list(flags["probes"])
    if flags["skip"]:
        given["skip"] = list(flags["skip"])
    try:
        return ScanSettings.model_validate(settings.model_dump() | given)
    except ValueError as error:
        raise UsageError(f"'{flags['device']}' is not a device.", "Write auto, cpu, cuda or cuda:N.") from error


def _targets(config: Config, flags: dict[str, Any]) -> tuple[list[TargetSpec], bool]:
    """One spec a target and prompt. The flags fill in or replace what the config says."""
    from vlaudit.zoo import DEFAULTS

    specs = [TargetSpec(model=model) for model in flags["targets"]] or config.target
    is_default = not specs
    given: dict[str, Any] = {
        "reference": flags["reference"],
        "data": flags["data"] and str(flags["data"]),
        "labels": flags["labels"] and str(flags["labels"]),
        "groups": list(flags["groups"]) or None,
        "captions": flags["captions"] and str(flags["captions"]),
        "members": flags["members"],
        "scorer": flags["scorer"],
    }
    given = {name: value for name, value in given.items() if value is not None}
    prompts = list(flags["prompts"])
    if is_default:
        specs = [TargetSpec(model=f"zoo:{name}") for name in DEFAULTS]
        specs = specs[:1] if prompts or given else specs
    merged = [spec.model_copy(update=given) for spec in specs]
    return [
        spec.model_copy(update={"prompt": [] if prompt is None else [prompt]})
        for spec in merged
        for prompt in (prompts or spec.prompt or [None])
    ], is_default


def _announce_defaults(specs: list[TargetSpec], policy: Policy, probes: Sequence[str]) -> None:
    from vlaudit.records import Severity
    from vlaudit.zoo import get

    specimens = [get(spec.model.removeprefix("zoo:")) for spec in specs]
    click.echo(f"No target given: auditing {len(specs)} bundled specimen{'s' * (len(specs) > 1)} with planted flaws.")
    for specimen in specimens:
        click.echo(f"  {specimen.target} ({specimen.family.value}): {specimen.planted}.")
    said = [pair for specimen in specimens for pair in specimen.expects.items()]
    planted = sorted({probe for probe, verdict in said if verdict == "vulnerable" and probe in probes})
    if planted and policy.fail_on is not Severity.NONE:
        click.echo(f"Expect exit code 1: {', '.join(planted)} should come out vulnerable.")
    click.echo("Audit your own with `vlaudit scan TARGET --prompt SPEC --data DIR`.\n")


def _request(config: Config, settings: ScanSettings, specs: list[TargetSpec], flags: dict[str, Any],
             registry: ProbeRegistry) -> Request:  # fmt: skip
    """All that was asked for; of the probes, every one that is chosen."""
    try:
        chosen = registry.select(settings.probe, settings.skip)
        for name, params in config.probes.items():
            registry.make(name, params)  # a misspelt probe or parameter is said now, before a model is loaded
    except UsageError:
        if not (cage.ended and cage.ended.only_say):
            raise
        chosen = settings.probe  # a plugin's, whose file is not read again
    if not chosen:
        raise UsageError("No probe is left to run.", "Take back a --skip.")
    return Request(
        targets=specs, probes=chosen, params={name: config.probes[name] for name in chosen if name in config.probes},
        effort=settings.effort, seed=settings.seed, policy=_policy(config.policy, flags),
        plugins=[str(path) for path in flags["plugins"]],
    )  # fmt: skip


def _plan(config: Config, settings: ScanSettings, specs: list[TargetSpec], flags: dict[str, Any], registry: ProbeRegistry,
          *, allow_network: bool) -> tuple[Plan, Any]:  # fmt: skip
    request = _request(config, settings, specs, flags, registry)
    if os.path.exists(flags["out"]) and not os.path.isdir(flags["out"]):
        raise UsageError(f"'{flags['out']}' is a file.", "Give a folder to --out.")

    from vlaudit.audit.plan import make_plan
    from vlaudit.audit.targets import Loader
    from vlaudit.device import pick_device

    device = pick_device(settings.device)
    loader = Loader(device, allow_network=allow_network, allow_borrowed=flags["allow_network"])
    targets, references = loader.subjects(specs)
    families = {target.info.family for target in targets}
    named = registry.named(settings.probe)  # one by one; all others are those made for these targets
    made_for = [name for name in request.probes if name in named or registry.get(name).info.families & families]
    chosen = made_for or request.probes
    params = {name: params for name, params in request.params.items() if name in chosen}
    return make_plan(request.model_copy(update={"probes": chosen, "params": params}), registry, targets, references), device


def _policy(policy: Policy, flags: dict[str, Any]) -> Policy:
    """The config's policy with the flags that were given on top."""
    given = {name: flags[name] for name in ("gate", "fail_on", "strict") if flags[name] not in (None, "new")}
    return Policy.model_validate(policy.model_dump() | given)


def _show_plan(plan: Plan, device: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlaudit.reporting import duration, log_line

    console = Console()
    total = 0.0
    width = max(len(planned.probe) for planned in plan.planned)
    for target in dict.fromkeys(planned.target for planned in plan.planned):
        table = Table(
            box=None, pad_edge=False, header_style="bold", title=Text(log_line(target), "bold"), title_justify="left"
        )
        table.add_column("probe", width=width)
        for column in ("cases", "arms", "passes forward", "backward", "time"):
            table.add_column(column, justify="right", min_width=len(column))
        missing = []
        for planned in (planned for planned in plan.planned if planned.target == target):
            if planned.reason:
                missing.append(f"  not assessed: {planned.probe}: {log_line(planned.reason)}")
                continue
            seconds = sum(unit.weight for unit in planned.units)
            total += seconds
            costs = [plan.costs[unit.id] for unit in planned.units]
            cases = {case for unit in planned.units for case in unit.cases}
            table.add_row(
                planned.probe, f"{len(cases):,}", str(len({unit.arm for unit in planned.units})),
                f"{sum(cost.queries for cost in costs):,}", f"{sum(cost.gradient_steps for cost in costs):,}",
                duration(seconds),
            )  # fmt: skip
        console.print(table)
        for line in missing:
            console.print(Text(line, "dim"))
        console.print()
    console.print(f"Estimated {duration(total)} in all on {device}, from a short calibration of the loaded models.")


def _accepted(path: Path | None) -> tuple[list[Entry], list[str]]:
    """The entries of the file that a flag names. One that was found is not applied, and that is said."""
    from vlaudit.suppressions import read_suppressions

    if path is not None:
        return read_suppressions(path), []
    if not os.path.lexists(IGNORE_FILE):
        return [], []
    return [], [
        f"The {IGNORE_FILE} found here may belong to what is audited, so nothing is accepted by it; "
        f"--ignore-file {IGNORE_FILE} applies it."
    ]


def _baseline(flags: dict[str, Any]) -> Report | None:
    """The report to compare with. Raises UsageError where there is none."""
    from vlaudit.audit.run import read_report

    if flags["baseline"] is None:
        if flags["fail_on"] == "new":
            raise UsageError("--fail-on new needs something to compare with.", "Add --baseline AUDIT_DIR.")
        return None
    return read_report(flags["baseline"])


def _run(plan: Plan, registry: Any, device: Any, settings: ScanSettings, flags: dict[str, Any], command: str,
         baseline: Report | None, accepted: list[Entry], notes: list[str], deadline: float | None) -> int:  # fmt: skip
    from rich.console import Console

    from vlaudit.audit.run import environment, open_audit, run_audit
    from vlaudit.registry import plugin

    out = flags["out"]
    journal, manifest = open_audit(out, plan, command, environment(str(device)), batch_size=settings.batch_size)
    outcome = run_audit(
        plan, journal, manifest, registry, plugin("reporters", "terminal")().progress(Console()),
        batch_size=settings.batch_size, deadline=deadline, debug="--debug" in sys.argv,
    )  # fmt: skip
    return _conclude(outcome.report, outcome.interrupted, flags, baseline, accepted, notes)


def _finish(ended: Ended, config: Config, settings: ScanSettings, specs: list[TargetSpec], flags: dict[str, Any],
            registry: ProbeRegistry, command: str, baseline: Report | None, accepted: list[Entry], notes: list[str]) -> int:  # fmt: skip
    """In place of a scan that was ended from outside: a report of what it left."""
    from vlaudit.audit.partial import partial_report

    flags["out"] = Path(ended.folder or "")
    request = _request(config, settings, specs, flags, registry)
    flags["out"].mkdir(parents=True, exist_ok=True)
    report = partial_report(ended, flags["out"], request, registry, command)
    return _conclude(report, ended.interrupted, flags, baseline, accepted, notes)


def _conclude(report: Report, interrupted: bool, flags: dict[str, Any], baseline: Report | None, accepted: list[Entry],
              notes: list[str]) -> int:  # fmt: skip
    """Write and print the report; returns the exit code that it gives."""
    from rich.console import Console

    from vlaudit.audit.run import write_report
    from vlaudit.cli.render import write_reports
    from vlaudit.history import compare, mark
    from vlaudit.registry import plugin
    from vlaudit.reporting import exit_code, log_line
    from vlaudit.suppressions import suppress

    out = flags["out"]
    audit = report.audit.model_copy(update={"notes": notes})
    report, warnings = suppress(report.model_copy(update={"audit": audit}), accepted)
    if baseline is not None:
        warnings += [f"compared with the baseline: {caveat}" for caveat in compare(baseline, report).caveats]
        report = mark(report, baseline, only_new=flags["fail_on"] == "new")
    write_report(out, report)
    cage.say(report=True)
    for warning in warnings:
        click.echo(f"Warning: {log_line(warning)}", err=True)
    for path in write_reports(report, out, flags["formats"]):
        click.echo(f"Report: {path}")
    if interrupted:
        click.echo(f"Interrupted: the report is partial. The same command with --out {shlex.quote(str(out))} goes on.")
    plugin("reporters", "terminal")().print(report, Console())
    return 130 if interrupted else exit_code(report)
