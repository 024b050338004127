"""``vlaudit selftest``: does every probe say what it must on every specimen whose flaw is known?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.completion import one_of, selectors, specimens

if TYPE_CHECKING:
    from vlaudit.zoo import Specimen

LAUNCH = "from vlaudit.cli import main; main()"  # not `-m vlaudit`: that would import from the current folder first


@dataclass(frozen=True)
class Scan:
    """Specimens that are the same model on the same data, and the probes that all of them name: scanned together, because
    their reference arm is the same and is measured once."""

    specimens: tuple[Specimen, ...]
    probes: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many expectations."""
        return len(self.specimens) * len(self.probes)

    @property
    def name(self) -> str:
        return "+".join(specimen.name for specimen in self.specimens)


@dataclass(frozen=True)
class Result:
    """One probe on one specimen."""

    specimen: str
    probe: str
    expected: str
    verdict: str
    reason: str

    @property
    def met(self) -> bool:
        return self.verdict == self.expected


@click.command("selftest", cls=Command)
@click.option("--probe", "probes", multiple=True, metavar="SELECTOR", shell_complete=one_of(selectors), help="Only these probes.")
@click.option("--specimen", "names", multiple=True, metavar="NAME", shell_complete=one_of(specimens), help="Only these specimens.")
@click.option("--effort", type=click.Choice(["quick", "standard", "thorough"]), default="quick", show_default=True)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Specimens scanned at the same time."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Keep the audits and selftest.json here.")
@debug_option
def selftest_command(probes: tuple[str, ...], names: tuple[str, ...], effort: str, jobs: int, out: Path | None) -> int:
    """Run every probe on every bundled specimen that says what it must find.

    Prints sensitivity (planted flaws found) and specificity (clean ones not called vulnerable) of each probe with exact
    intervals. Exits with 1 if an expectation is not met.
    """
    from vlaudit.files import make_folder, write_atomically

    work = _work(probes, names)
    if out is not None:
        make_folder(out)
    with tempfile.TemporaryDirectory() as scratch:
        results = _run_all(work, (out or Path(scratch)).resolve(), effort, jobs)
    summary = summarise(results)
    _show(results, summary)
    if out is not None:
        content = {"effort": effort, "probes": summary, "results": [vars(r) | {"met": r.met} for r in results]}
        write_atomically(out / "selftest.json", json.dumps(content, indent=1))
        click.echo(f"Wrote {out / 'selftest.json'}")
    return 0 if all(result.met for result in results) else 1


def _work(probes: tuple[str, ...], names: tuple[str, ...]) -> list[Scan]:
    """The chosen probes on the specimens that name them in ``expects``, the most work first."""
    from vlaudit.errors import UsageError
    from vlaudit.registry import ProbeRegistry
    from vlaudit.zoo import get, specimens

    chosen = set(ProbeRegistry.load().select(probes))
    together: dict[tuple[Any, str], list[Specimen]] = {}
    for specimen in [get(name) for name in names] if names else specimens():
        same = (specimen.model, specimen.data, *specimen.groups, specimen.members)
        for probe, verdict in specimen.expects.items():
            if probe in chosen and verdict != "any":
                together.setdefault((same, probe), []).append(specimen)
    work: dict[str, Scan] = {}
    for (_, probe), found in together.items():
        scan = Scan(tuple(found), (probe,))
        before = work.get(scan.name)
        work[scan.name] = replace(before, probes=(*before.probes, probe)) if before else scan
    if not work:
        raise UsageError("No specimen names these probes in its expectations.", "See vlaudit list specimens --json.")
    return sorted(work.values(), key=lambda scan: -scan.size)


def _run_all(work: list[Scan], folder: Path, effort: str, jobs: int) -> list[Result]:
    from vlaudit.reporting import log_line

    threads = max(1, (os.cpu_count() or 1) // jobs)
    results: list[Result] = []
    total, then = sum(scan.size for scan in work), time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_run, scan, folder, effort, threads) for scan in work]
        for future in as_completed(futures):
            found = future.result()
            results += found
            left = (time.monotonic() - then) / len(results) * (total - len(results)) / 60
            for result in found:
                mark, missed = ("ok  ", "") if result.met else ("MISS", f", not {result.expected}")
                click.echo(log_line(f"{mark} {result.specimen}: {result.probe} says {result.verdict}{missed}"))
            click.echo(f"     {len(results)} of {total} expectations, about {left:.0f} min left")
    return sorted(results, key=lambda r: (r.probe, r.specimen))


def _run(scan: Scan, folder: Path, effort: str, threads: int) -> list[Result]:
    """Scan in a process of its own, as a user would."""
    from vlaudit.audit.run import read_report
    from vlaudit.errors import UsageError

    out = folder / scan.name
    flags = [word for probe in scan.probes for word in ("--probe", probe)]
    targets = [specimen.target for specimen in scan.specimens]
    command = [sys.executable, "-c", LAUNCH, "scan", *targets, *flags, "--effort", effort, "--budget", "none", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    expected = {(s.target, probe): s.expects[probe] for s in scan.specimens for probe in scan.probes}
    found: dict[tuple[str, str], tuple[str, str]] = {}
    error = "no finding"
    try:
        report = read_report(out)
        specs = {target.id: target.model.spec for target in report.targets}
        found = {(specs.get(f.target, ""), f.probe): (f.verdict.value, f.reason) for f in report.findings}
    except UsageError:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return [
        Result(target.removeprefix("zoo:"), probe, wanted, *found.get((target, probe), ("error", error)))
        for (target, probe), wanted in expected.items()
    ]


def summarise(results: list[Result]) -> dict[str, dict[str, Any]]:
    """Sensitivity and specificity by probe, with Clopper-Pearson 95 % intervals."""
    from vlaudit.statistics import rate_interval

    def rate(hits: list[bool]) -> dict[str, Any] | None:
        if not hits:
            return None
        return {"hits": sum(hits), "n": len(hits), "ci": list(rate_interval(sum(hits), len(hits)).ci)}

    return {
        probe: {
            "sensitivity": rate(
                [r.verdict == "vulnerable" for r in results if r.probe == probe and r.expected == "vulnerable"]
            ),
            "specificity": rate(
                [r.verdict != "vulnerable" for r in results if r.probe == probe and r.expected == "held"]
            ),
        }
        for probe in sorted({r.probe for r in results})
    }


def _show(results: list[Result], summary: dict[str, dict[str, Any]]) -> None:
    def text(rate: dict[str, Any] | None) -> str:
        return f"{rate['hits']}/{rate['n']} [{rate['ci'][0]:.2f}, {rate['ci'][1]:.2f}]" if rate else "no specimen"

    from rich.console import Console
    from rich.table import Table

    from vlaudit.reporting import log_line

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("probe", "sensitivity", "specificity"):
        table.add_column(column)
    for probe, rates in summary.items():
        table.add_row(probe, text(rates["sensitivity"]), text(rates["specificity"]))
    Console().print(table)
    missed = [result for result in results if not result.met]
    for result in missed:
        said = f"{result.specimen}: {result.probe} says {result.verdict}, expected {result.expected} ({result.reason})"
        click.echo(log_line(said))
    click.echo(f"{len(results) - len(missed)} of {len(results)} expectations met.")
