"""``vlaudit scan``: from flags and ``vlaudit.toml`` to findings and reports."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from vlaudit import cage
from vlaudit.cli import Command, debug_option
from vlaudit.cli.asked import Asked, read_flags
from vlaudit.cli.completion import formats, one_of, selectors, settings, some_of, targets
from vlaudit.cli.dry_run import show_plan
from vlaudit.cli.render import MAX_SIZE, SCREEN, one_report, output_file
from vlaudit.config import FILE_NAME, seconds
from vlaudit.errors import UsageError
from vlaudit.records import Family
from vlaudit.suppressions import IGNORE_FILE, Entry

if TYPE_CHECKING:
    import torch

    from vlaudit.audit.plan import Plan
    from vlaudit.audit.targets import Loader
    from vlaudit.cage import Ended
    from vlaudit.records import Report
    from vlaudit.registry import ProbeRegistry

Length = Literal["full", "summary", "last"]  # of what is printed of a report
FILE = click.Path(dir_okay=False, path_type=Path)


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """``90``, ``90s``, ``10m`` or ``1.5h`` to seconds."""
    try:
        return None if value is None else seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A time, or ``none``."""
    if value != "none":
        _seconds(_ctx, _param, value)
    return value


@click.command("scan", cls=Command, epilog="""\b
Exit codes:
  0    complete; nothing vulnerable at or above --fail-on
  1    something vulnerable at or above --fail-on
  2    wrong usage or configuration; nothing was run
  3    a planned unit did not finish, or nothing was assessed
  4    a model could not be loaded
  130  interrupted (Ctrl-C, SIGTERM, SIGHUP); the same command with the same --out goes on

\b
Options are also read from the environment: VLAUDIT_SCAN_SEED=1 is --seed 1. One that may be
repeated has a value a line there.

\b
0 and 1 are given only by a report that was written: foreign code that exits, crashes
or hangs gives 3, or 4 while a model is loaded.""")  # fmt: skip
@click.argument("targets", nargs=-1, metavar="[TARGET]...", shell_complete=one_of(targets))
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="SPEC",
    help='Template such as "a photo of a {}", or METHOD:FILE. Repeat it: one target each.',
)
@click.option("--reference", metavar="SPEC", help="Reference prompt. Default: the plain prompt.")
@click.option(
    "--data",
    metavar="DIR|hf:…|wds:…",
    help="Labelled pictures: a folder with a folder for each label, or with a metadata.csv (file_name, label, question, answer, choices, "
    "text, pair, and columns of your own); hf:NAME[@REVISION][:SPLIT] or hf:PATH for the package datasets; wds:SHARDS, such as "
    "wds:shards/{000..003}.tar.",
)
@click.option(
    "--columns",
    multiple=True,
    metavar="NAME=COLUMN,…",
    help="What the data's own columns are, such as image=img,label=category,answer=reply. NAME is image, label, text (a caption), question, "
    "answer, choices, pair, or a name of your own to group by.",
)
@click.option("--labels", type=FILE, help="Text file with one label a line.")
@click.option("--prompts", "captions", type=FILE, help="Captions to audit, one a line (text-to-image targets).")
@click.option("--group", "groups", multiple=True, metavar="COLUMN", help="Column whose groups are compared, such as gender. Repeatable.")
@click.option(
    "--members",
    metavar="train|COLUMN",
    help="Which pictures the prompt (or model) was trained on: train, for the split of that name, or a column that says yes (also true, 1, "
    "member) for those, no (false, 0, non-member) for those it never saw, and nothing where that is not known.",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="SELECTOR",
    shell_complete=one_of(selectors),
    help="Probe id, code, glob, risk:NAME or family:NAME. Default: all.",
)
@click.option("--skip", multiple=True, metavar="SELECTOR", shell_complete=one_of(selectors), help="Probes to leave out.")
@click.option("--set", "settings", multiple=True, metavar="PROBE.NAME=VALUE", shell_complete=one_of(settings), help="Parameter of a probe (vlaudit explain lists them). Repeatable.")
@click.option("--scorer", metavar="TARGET", shell_complete=one_of(targets), help="Matching model that says what generated pictures show; specimens have one.")
@click.option("--plugin", "plugins", multiple=True, type=FILE, help="Python file with probes. It is code: it is run.")
@click.option("--config", type=FILE, help=f"Config file. Default: {FILE_NAME} in this folder, else [tool.vlaudit] in its pyproject.toml.")
@click.option(
    "--effort", type=click.Choice(["quick", "standard", "thorough"]), help="Budget of searches. [default: quick]"
)
@click.option("--budget", callback=_budget, metavar="30m|none",
              help="Time of work to divide among the probes; what it leaves out is named. [default: 30m quick, 4h standard, none thorough]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all randomness. [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:N, several such as cuda:0,cuda:1 with a worker for each (auto: all GPUs, where one holds each model), "
              "or cuda:all to spread generators and pipelines over them. [default: auto]")  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["auto", "bf16", "fp16", "fp32"]),
    help="Precision of the models. auto: fp32, but on a GPU 16 bits for generators and pipelines. [default: auto]",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Examples a pass at most. [default: as many as fit into memory]"
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Audit folder. [default: vlaudit-out/TIMESTAMP]"
)
@click.option(
    "--format",
    "formats",
    default="html",
    show_default=True,
    shell_complete=some_of(formats),
    help="Reports to write beside report.json, comma-separated (see vlaudit list reporters).",
)
@click.option("--output", type=FILE, callback=output_file, help="Write the one report of --format here instead. -: to standard output, and all else to standard error.")
@MAX_SIZE
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
@click.option("-v", "--verbose", "how", flag_value="full", help="End with every finding in full.")
@click.option("-q", "--quiet", "how", flag_value="last", help="End with the outcome alone.")
@click.option("--dry-run", is_flag=True, help="Show targets, probes, cases, passes and estimated time; run nothing.")
@click.option("--executor", metavar="NAME[:…]",
              help="What units run on: local, process[:COUNT], or ray[:ADDRESS] for a cluster. [default: as fits the models]")  # fmt: skip
@click.option("--plan", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="Run what vlaudit plan has written to DIR, or a part of it; the plan has settled most other flags.")  # fmt: skip
@click.option("--shard", metavar="i/n", help="Which part of --plan, such as 2/8. [default: 1/1]")
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
    screen = sys.stdout
    if flags["output"] is not None:
        one_report(flags["formats"], flags["output"])  # several are said now
        if flags["dry_run"] or flags["plan"]:
            raise UsageError(f"--output is for a report, and {'--dry-run' if flags['dry_run'] else '--plan'} makes none.", "Leave --output out.")
    with contextlib.redirect_stdout(sys.stderr if flags["output"] == SCREEN else screen):
        return _scan(flags, screen)


def _scan(flags: dict[str, Any], screen: TextIO) -> int:
    from vlaudit.plugins import plugin
    from vlaudit.registry import ProbeRegistry

    if flags["executor"] is not None:
        plugin("executors", flags["executor"].partition(":")[0])  # a misspelt one is said now
    if flags["plan"] is not None:
        from vlaudit.cli.shard import run_shard

        return run_shard(flags)
    if flags["shard"] is not None:
        raise UsageError("--shard is a part of a plan.", "Make one with vlaudit plan, and name it with --plan.")
    asked = read_flags(flags)
    cage.say(folder=None if flags["dry_run"] or cage.ended else str(asked.out))
    registry = ProbeRegistry.load(() if cage.ended and cage.ended.only_say else flags["plugins"])
    if cage.ended:
        return _finish(cage.ended, asked, registry, screen)
    asked.check_policy(registry)
    if asked.is_default:
        _announce_defaults(asked, registry)
    made = make_the_plan(asked, registry)
    plan = made.plan
    notes = asked.notes + asked.narrowed(plan.request, registry, {target.info.family for target in plan.targets})
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    if flags["dry_run"]:
        show_plan(plan, made.devices[0])
        return 4 if any(target.error for target in plan.targets) else 0
    return _run(replace(asked, notes=notes), made, registry, screen)


def _announce_defaults(asked: Asked, registry: ProbeRegistry) -> None:
    from vlaudit.records import Severity
    from vlaudit.zoo import get

    specimens = [get(spec.model.removeprefix("zoo:")) for spec in asked.specs]
    probes = registry.select(asked.chosen, asked.settings.skip)
    click.echo(f"No target given: auditing {len(specimens)} bundled specimen{'s' * (len(specimens) > 1)} with planted flaws.")
    for specimen in specimens:
        click.echo(f"  {specimen.target} ({specimen.family.value}): {specimen.planted}.")
    said = [pair for specimen in specimens for pair in specimen.expects.items()]
    planted = sorted({probe for probe, verdict in said if verdict == "vulnerable" and probe in probes})
    if planted and asked.policy.fail_on is not Severity.NONE:
        click.echo(f"Expect exit code 1: {', '.join(planted)} should come out vulnerable.")
    if asked.first_look:
        click.echo(_first_look(asked, registry))
    click.echo("Audit your own with `vlaudit scan TARGET --prompt SPEC --data DIR`.\n")


def _first_look(asked: Asked, registry: ProbeRegistry) -> str:
    """What a first scan leaves out, and how to see it."""
    probes = registry.select(asked.chosen, asked.settings.skip)
    shortened = [f"{name} ({', '.join(f'{key} = {value}'.lower() for key, value in asked.first_look[name].items())})" for name in probes if asked.first_look[name]]
    few = f", of which shortened: {'; '.join(shortened)}" if shortened else ""
    return (
        f"A first look: {len(probes)} of {len(registry.classes)} probes{few}.\n"
        "--effort quick runs all in full, --effort standard searches longer, vlaudit selftest audits every specimen."
    )


def _last_words(asked: Asked, report: Report) -> Iterator[str]:
    """Of a scan of the bundled specimens: whether what is planted was found, and what was left out."""
    from vlaudit.registry import ProbeRegistry

    yield _planted_found(asked, report)
    if asked.first_look:
        yield _first_look(asked, ProbeRegistry.load())


def _planted_found(asked: Asked, report: Report) -> str:
    """How many of the specimens' planted flaws were found, and what else."""
    from vlaudit.records import Verdict
    from vlaudit.zoo import get

    specs = {target.id: target.model.spec for target in report.targets}
    vulnerable = {(specs[finding.target], finding.probe) for finding in report.findings if finding.verdict is Verdict.VULNERABLE}
    tried = {(specs[finding.target], finding.probe) for finding in report.findings}
    expected = {(spec.model, probe) for spec in asked.specs for probe, said in get(spec.model.removeprefix("zoo:")).expects.items() if said == "vulnerable"}
    planted, more = expected & tried, len(vulnerable - expected)
    if not planted:
        return ""
    beside = f", and {more} finding{'s' * (more > 1)} beside {'them' if more > 1 else 'that'}" if more else ""
    return f"Of {len(planted)} planted flaw{'s' * (len(planted) > 1)} {len(planted & vulnerable)} {'were' if len(planted & vulnerable) != 1 else 'was'} found{beside}."


@dataclass(frozen=True)
class Planned:
    """A plan, the devices that it is to run on, and what loaded its models."""

    plan: Plan
    devices: list[torch.device]
    loader: Loader


def make_the_plan(asked: Asked, registry: ProbeRegistry) -> Planned:
    """Load the targets and plan their probes."""
    request = asked.request(registry)
    if os.path.exists(asked.out) and not os.path.isdir(asked.out):
        raise UsageError(f"'{asked.out}' is a file.", "Give a folder to --out.")

    from vlaudit.audit.plan import make_plan
    from vlaudit.audit.run import measured
    from vlaudit.audit.targets import Loader, file_bytes
    from vlaudit.device import ALL, Loading, holds, pick_devices

    named = asked.settings.device
    devices = pick_devices(named, apart=asked.flags["executor"] is None)
    allowed = asked.flags["allow_network"]
    how = Loading(asked.settings.dtype, spread=named == ALL)
    loader = Loader(devices[0], how, allow_network=asked.trusted or allowed, allow_borrowed=allowed)
    targets, references = loader.subjects(asked.specs)
    if named == "auto" and not all(holds(devices[0], file_bytes(target.files)) for target in targets):
        devices = devices[:1]  # over all of which a model is spread that one does not hold
    families = {target.info.family for target in targets}
    one_by_one = registry.named(asked.settings.probe)  # all others are those made for these targets
    made_for = [name for name in request.probes if name in one_by_one or registry.get(name).info.families & families]
    chosen = made_for or request.probes
    params = {name: params for name, params in request.params.items() if name in chosen}
    request = request.model_copy(update={"probes": chosen, "params": params})
    plan = make_plan(request, registry, targets, references, devices=len(devices), **measured(asked.out, request))
    plan.loads = loader.seconds
    return Planned(plan, devices, loader)


def _run(asked: Asked, made: Planned, registry: ProbeRegistry, screen: TextIO) -> int:
    from rich.console import Console

    from vlaudit.audit.executor import Job, Site
    from vlaudit.audit.run import environment, open_audit, run_audit
    from vlaudit.plugins import plugin
    from vlaudit.probe.artifacts import ArtifactStore

    batch_size, named, allowed = asked.settings.batch_size, asked.settings.device, asked.flags["allow_network"]
    journal, manifest = open_audit(asked.out, made.plan, asked.command, environment(str(made.devices[0])), batch_size=batch_size)
    site = Site.of(manifest, asked.flags["plugins"], named, made.devices, allow_network=asked.trusted or allowed, allow_borrowed=allowed)
    job = Job(made.plan, ArtifactStore(journal.folder), batch_size, "--debug" in sys.argv, site, made.loader.let_go)
    progress = plugin("reporters", "terminal")().progress(Console(stderr=True))
    outcome = run_audit(job, journal, manifest, registry, progress, deadline=asked.deadline, executor=asked.flags["executor"])
    return _conclude(asked, outcome.report, screen, interrupted=outcome.interrupted)


def _finish(ended: Ended, asked: Asked, registry: ProbeRegistry, screen: TextIO) -> int:
    """In place of a scan that was ended from outside: a report of what it left."""
    from vlaudit.audit.partial import partial_report
    from vlaudit.files import make_folder

    out, request = Path(ended.folder or ""), asked.request(registry)
    notes = asked.notes + ([] if ended.only_say else asked.narrowed(request, registry, set(Family)))
    make_folder(out)
    report = partial_report(ended, out, request, registry, asked.command)
    return _conclude(replace(asked, out=out, notes=notes), report, screen, interrupted=ended.interrupted)


def _conclude(asked: Asked, report: Report, screen: TextIO, *, interrupted: bool) -> int:
    flags = asked.flags
    return conclude(report, Ending(
        asked.out, flags["formats"], asked.notes, asked.accepted, asked.baseline, only_new=flags["fail_on"] == "new", interrupted=interrupted,
        length=flags["how"], last_word="\n".join(filter(None, _last_words(asked, report))) if asked.is_default else "", max_size=flags["max_size"],
        output=flags["output"], screen=screen,
    ))  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How an audit ends: what its report is held against, where that goes, and what is printed of it."""

    out: Path
    formats: str
    notes: list[str]
    accepted: list[Entry]
    baseline: Report | None
    only_new: bool
    interrupted: bool = False
    length: Length | None = None  # None: one screen
    last_word: str = ""
    max_size: int | None = None
    output: Path | None = None  # where the one report of ``formats`` goes instead of the audit folder
    screen: TextIO | None = None  # what standard output was before


def conclude(report: Report, ending: Ending) -> int:
    """Write and print the report; returns the exit code that it gives."""
    from rich.console import Console

    from vlaudit.audit.run import write_report
    from vlaudit.cli.render import made_reporter, print_report, reporter_names, write_reports
    from vlaudit.files import write_into
    from vlaudit.history import compare, mark
    from vlaudit.plugins import plugin
    from vlaudit.reporting import exit_code, log_line
    from vlaudit.suppressions import suppress

    out, output = ending.out, ending.output
    audit = report.audit.model_copy(update={"notes": ending.notes})
    report, warnings = suppress(report.model_copy(update={"audit": audit}), ending.accepted)
    if ending.baseline is not None:
        warnings += [f"compared with the baseline: {caveat}" for caveat in compare(ending.baseline, report).caveats]
        report = mark(report, ending.baseline, only_new=ending.only_new)
    write_report(out, report)
    cage.say(report=True)
    for warning in warnings:
        click.echo(f"Warning: {log_line(warning)}", err=True)
    paths = write_reports(report, out, ending.formats, ending.max_size) if output is None else [output]
    plugin("reporters", "terminal")().print(report, Console(), ending.length or "summary")
    if ending.last_word:
        click.echo(ending.last_word)
    if ending.interrupted:
        click.echo(f"Interrupted: the report is partial. The same command with --out {shlex.quote(str(out))} goes on.")
    if not ending.length:
        click.echo(f"Every finding: vlaudit report {shlex.quote(str(out))}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in plugin("reporters", "terminal")().annotations(report):
            click.echo(line)
    if output is not None:
        text = made_reporter(reporter_names(ending.formats)[0], ending.max_size).render(report, out)
        print_report(text, ending.screen) if output == SCREEN else write_into(output, text)
    for path in paths if output != SCREEN else ():
        click.echo(f"Report: {path}")
    return 130 if ending.interrupted else exit_code(report)
