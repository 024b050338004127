"""``vlaudit replay``: one finding of an audit, run again and compared."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit.cli import Command, debug_option, new_folder
from vlaudit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlaudit.audit.replay import Recorded, Replay
    from vlaudit.audit.subjects import Subject
    from vlaudit.audit.targets import Loader
    from vlaudit.records import Finding
    from vlaudit.registry import ProbeRegistry

RESULT = "replay.json"
STYLES = {"reproduced": "bold green", "reproduced in part": "bold yellow", "not reproduced": "bold red"}


@click.command("replay", cls=Command, epilog="""\b
Exit codes:
  0    reproduced: the same verdict, and the same figure or each in the other's interval
  1    not reproduced, or in part: the same verdict, but the figure lies elsewhere
  2    wrong usage; the target, prompt or data changed; or nothing was measured then
  3    the replay did not finish
  4    the model could not be loaded
  130  interrupted; the same command with --out goes on""")  # fmt: skip
@click.argument("audit_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("finding", required=False)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the new run. [default: vlaudit-out/TIMESTAMP-replay-FINDING]")  # fmt: skip
@click.option("--allow-changed", is_flag=True, help="Run although the target, the prompt or the data changed since.")
@click.option("--allow-network", is_flag=True, help="Reach the remote model that the audit names.")
@click.option("--plugin", "plugins", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Probe file the audit was made with. It is code: it is run.")  # fmt: skip
@click.option("--device", help="auto, cpu, cuda or cuda:N. [default: as then, if it is there]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Examples a pass at most. [default: as then]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; progress goes to stderr.")
@debug_option
def replay_command(audit_dir: Path, finding: str | None, plugins: tuple[Path, ...], **flags: Any) -> int:
    """Run one finding of AUDIT_DIR again and say whether it reproduces.

    FINDING is its id in report.json, the beginning of one that fits no other (MR4), or the id of a probe that has one finding
    (typographic). Without it, the findings are named.

    Target, prompt, data, probe, parameters, effort and seed are those that the audit recorded; all arms and controls run again,
    a search too. AUDIT_DIR is only read. What changed since is refused, and other versions or devices are said first.
    """
    from vlaudit.audit.replay import load_registry, read_recorded

    recorded = read_recorded(audit_dir, finding or "")
    out = _out(flags["out"], audit_dir, recorded.finding.id)
    plugins = tuple(path.absolute() for path in plugins)
    registry = load_registry(recorded, plugins)
    _refuse_remote(recorded, flags["allow_network"])
    notes = _contradictions(recorded, flags["allow_changed"])
    result, interrupted = _run(recorded, registry, out, notes, flags)
    _show(result, out, flags["as_json"])
    if interrupted:
        click.echo(f"Interrupted. The same command with --out {shlex.quote(str(out))} goes on.", err=True)
        return 130
    return {None: 3, "reproduced": 0}.get(result.outcome, 1)


def _out(out: Path | None, audit_dir: Path, finding: str) -> Path:
    """Where the new run goes: never into the audit that it checks."""
    if out is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", finding)[:40]
        out = new_folder(f"-replay-{name}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file.", "Give a folder to --out.")
    if out.resolve().is_relative_to(audit_dir.resolve()):
        raise UsageError(f"'{out}' lies in the audit that is checked, which stays as it is.", "Choose another --out.")
    return out


def _refuse_remote(recorded: Recorded, allowed: bool) -> None:
    """An audit folder may come from anybody: the models it names are reached only if the user says so."""
    from vlaudit.audit.subjects import resolve_zoo
    from vlaudit.audit.targets import parse_model

    for name in dict.fromkeys(name for spec in recorded.specs for name in (spec.model, spec.scorer) if name):
        spec = resolve_zoo(recorded.spec.model_copy(update={"model": name})).model
        backend, argument = parse_model(spec)
        with contextlib.chdir(recorded.started_in()):
            remote = backend.is_remote(argument)
        if remote and not allowed:
            raise UsageError(
                f"'{spec}' is a remote model, named by the audit folder.", "Add --allow-network if you trust both."
            )


def _run(
    recorded: Recorded, registry: ProbeRegistry, out: Path, notes: list[str], flags: dict[str, Any]
) -> tuple[Replay, bool]:
    from rich.console import Console

    from vlaudit.audit.executor import Job
    from vlaudit.audit.judge import gather
    from vlaudit.audit.plan import make_plan
    from vlaudit.audit.replay import Replay, compare, differences
    from vlaudit.audit.run import environment, open_audit, run_audit
    from vlaudit.audit.targets import Loader
    from vlaudit.cli.render import write_reports
    from vlaudit.device import Loading
    from vlaudit.files import write_atomically
    from vlaudit.plugins import plugin
    from vlaudit.probe.artifacts import ArtifactStore
    from vlaudit.reporting import log_json

    console = Console(stderr=flags["as_json"])
    device = _device(flags["device"], recorded)
    batch_size = flags["batch_size"] or recorded.manifest.batch_size
    folder = out.absolute()
    with contextlib.chdir(recorded.started_in()):
        loader = Loader(
            device, Loading(recorded.manifest.request.dtype), allow_network=flags["allow_network"],
            allow_borrowed=flags["allow_network"],
        )  # fmt: skip
        subjects, references, other = _as_recorded(loader, recorded)
        if other and not flags["allow_changed"]:
            raise UsageError(
                f"Of '{recorded.info.id}' this is not as it was in the audit: {', '.join(other)}.",
                "Restore it, or add --allow-changed to run the finding on what is there now.",
            )
        plan = make_plan(recorded.request(), registry, subjects, references, shares={recorded.finding.probe: recorded.planned.share},
                         only=recorded.info.id)  # fmt: skip
        here = environment(str(device))
        notes = notes + differences(recorded, plan, here)
        _say_first(console, recorded, subjects[0], other, notes)
        if (reason := plan.planned[0].reason) is not None:
            raise UsageError(f"The probe cannot run now: {reason}.", "Replay it where the audit ran.")
        journal, manifest = open_audit(
            folder, plan, shlex.join(["vlaudit", *sys.argv[1:]]), here, batch_size=batch_size,
            replays=f"{recorded.manifest.id}/{recorded.finding.id}",
        )  # fmt: skip
        job = Job(plan, ArtifactStore(journal.folder), batch_size, "--debug" in sys.argv)
        outcome = run_audit(job, journal, manifest, registry, plugin("reporters", "terminal")().progress(console, "replay"))
    report = outcome.report
    if outcome.interrupted or report.audit.errors or not report.audit.complete:
        why = report.audit.errors[0] if report.audit.errors else "interrupted"
        result = Replay(
            outcome=None, reason=f"the replay did not finish: {why}", audit=recorded.manifest.id,
            finding=recorded.finding.id, probe=recorded.finding.probe, target=recorded.info.id, changed=other,
            notes=notes, then=recorded.finding, folder=str(out),
        )  # fmt: skip
    else:
        trials = gather(manifest.planned[0], manifest.planned[0].units, journal.results())
        result = compare(recorded, report.findings[0], trials, changed=other, notes=notes, folder=str(out))
    write_reports(report, folder)
    write_atomically(folder / RESULT, log_json(result.model_dump_json(indent=1)))
    return result, outcome.interrupted


def _as_recorded(loader: Loader, recorded: Recorded) -> tuple[list[Subject], dict[str, Subject], list[str]]:
    """The finding's targets and their references, by the names that they had in the audit, and what of them is not as it was. Raises the
    error of a target that could be loaded then."""
    from vlaudit.audit.replay import changed

    subjects, references = loader.subjects(recorded.specs)
    other = list[str]()
    for one, then in zip(subjects, [recorded.info, *recorded.others], strict=True):
        if one.error is not None and then.error is None:
            raise one.error
        one.rename(then.id)
        before = one.info.reference
        if (reference := references.pop(before or "", None)) and then.reference:
            reference.rename(then.reference)  # alone, it may have a shorter name
            for asked in subjects:
                if asked.info.reference == before:
                    asked.info = asked.info.model_copy(update={"reference": reference.id})
            references[reference.id] = reference
        other += changed(recorded, then, one, references.get(one.info.reference or ""))
    return subjects, references, other


def _device(name: str | None, recorded: Recorded) -> Any:
    """The one asked for, else that of the audit, else whatever there is."""
    from vlaudit.device import pick_device

    if name is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"'{name}' is not a device.", "Write auto, cpu, cuda or cuda:N.")
    if name is None:
        then = str(recorded.manifest.environment.get("device"))
        with contextlib.suppress(UsageError):
            return pick_device(then if re.fullmatch(r"cpu|cuda(:\d+)?", then) else "auto")
    return pick_device(name or "auto")


def _contradictions(recorded: Recorded, allowed: bool) -> list[str]:
    """Refuse an audit that contradicts itself, unless that is allowed. Another version may judge the same trials differently:
    then it is only said."""
    from vlaudit import __version__

    if recorded.contradictions and recorded.manifest.version == __version__ and not allowed:
        raise UsageError(
            f"The audit contradicts itself: {'; '.join(recorded.contradictions)}.",
            "Judge it again with vlaudit judge, or add --allow-changed to hold the report against a new run.",
        )
    return [f"The audit contradicts itself: {said}." for said in recorded.contradictions]


def _say_first(console: Console, recorded: Recorded, subject: Subject, changed: list[str], notes: list[str]) -> None:
    from vlaudit.reporting import suppression_text

    if changed:
        console.print(_text(f"Not as it was in the audit: {', '.join(changed)}. This says nothing of what was audited then.", "bold yellow"))  # fmt: skip
    for note in notes:
        console.print(_text(note, "yellow"))
    finding = recorded.finding
    console.print(_text(f"Replaying {finding.id}: {finding.probe} on {subject.id}, seed {recorded.report.audit.seed}, {recorded.report.audit.effort} effort, audit {recorded.manifest.id} of {recorded.manifest.started}"))  # fmt: skip
    if finding.suppressed:
        console.print(_text(f"The finding is {suppression_text(finding)}. That changes nothing here.", "dim"))


def _show(result: Replay, out: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    from vlaudit.reporting import log_json, log_line

    if as_json:
        click.echo(log_json(result.model_dump_json(indent=1)))
        return
    console = Console()
    said = result.outcome.value if result.outcome else "no outcome"
    if result.now is not None:
        console.print(_table(result.then, result.now))
        arms = ", ".join(f"{arm[:40]} {a.same:,} of {a.of:,}" for arm, a in result.trials.items())
        whole = result.all_trials
        console.print(_text(f"{whole.same:,} of {whole.of:,} trials came out equally ({arms})."))
        if result.artifacts:
            console.print(_text(f"{result.artifacts.same:,} of {result.artifacts.of:,} artefacts are the same bytes."))
    console.print(Text.assemble((said, STYLES.get(said, "bold yellow")), f": {log_line(result.reason)}."))
    console.print(_text(f"The new run: {out}"), soft_wrap=True)


def _table(then: Finding, now: Finding) -> Table:
    """Verdict and figures side by side."""
    from rich.table import Table

    from vlaudit.reporting import WORDS, interval, log_line

    metric = then.metric or now.metric
    unit = metric.unit if metric else ""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "then", "now"):
        table.add_column(name)
    table.add_row("verdict", WORDS[then.verdict], WORDS[now.verdict])
    for name, before, after in (
        (log_line(metric.name, 60) if metric else "", then.metric, now.metric),
        ("reference", then.reference, now.reference),
        ("difference", then.delta, now.delta),
    ):
        if before or after:
            figures = (
                interval(f, unit, difference=f in (then.delta, now.delta)) if f else "none" for f in (before, after)
            )
            table.add_row(*map(_text, (name, *figures)))
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    from vlaudit.reporting import log_line

    return Text(log_line(text, 600), style)
