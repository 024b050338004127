"""``vlaudit selftest``: does every probe say what it must on every specimen whose flaw is known?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlaudit.cli import debug_option

if TYPE_CHECKING:
    from vlaudit.zoo import Specimen

LAUNCH = "from vlaudit.cli import main; main()"  # not `-m vlaudit`: that would import from the current folder first


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


@click.command("selftest")
@click.option("--probe", "probes", multiple=True, metavar="SELECTOR", help="Only these probes.")
@click.option("--specimen", "names", multiple=True, metavar="NAME", help="Only these specimens.")
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
    work = _work(probes, names)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        results = _run_all(work, (out or Path(scratch)).resolve(), effort, jobs)
    summary = summarise(results)
    _show(results, summary)
    if out is not None:
        content = {"effort": effort, "probes": summary, "results": [vars(r) | {"met": r.met} for r in results]}
        (out / "selftest.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        click.echo(f"Wrote {out / 'selftest.json'}")
    return 0 if all(result.met for result in results) else 1


def _work(probes: tuple[str, ...], names: tuple[str, ...]) -> list[tuple[Specimen, list[str]]]:
    """Specimens with the chosen probes that they name in ``expects``."""
    from vlaudit.errors import UsageError
    from vlaudit.registry import ProbeRegistry
    from vlaudit.zoo import get, specimens

    chosen = set(ProbeRegistry.load().select(probes))
    pool = [get(name) for name in names] if names else specimens()
    work = [(s, [p for p, verdict in s.expects.items() if p in chosen and verdict != "any"]) for s in pool]
    work = [(specimen, wanted) for specimen, wanted in work if wanted]
    if not work:
        raise UsageError("No specimen names these probes in its expectations.", "See vlaudit list specimens --json.")
    return work


def _run_all(work: list[tuple[Specimen, list[str]]], folder: Path, effort: str, jobs: int) -> list[Result]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    results: list[Result] = []
    then = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_scan, specimen, wanted, folder, effort, threads) for specimen, wanted in work]
        for count, future in enumerate(as_completed(futures), 1):
            found = future.result()
            results += found
            left = (time.monotonic() - then) / count * (len(work) - count)
            missed = [f"{r.probe} says {r.verdict}, not {r.expected}" for r in found if not r.met]
            mark = "ok  " if not missed else "MISS"
            click.echo(
                f"{mark} {found[0].specimen} ({count} of {len(work)}, about {left / 60:.0f} min left) {'; '.join(missed)}"
            )
    return sorted(results, key=lambda r: (r.probe, r.specimen))


def _scan(specimen: Specimen, wanted: list[str], folder: Path, effort: str, threads: int) -> list[Result]:
    """Scan one specimen in a process of its own, as a user would."""
    out = folder / specimen.name
    flags = [word for probe in wanted for word in ("--probe", probe)]
    command = [sys.executable, "-c", LAUNCH, "scan", specimen.target, *flags, "--effort", effort, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    except OSError:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [Result(specimen.name, p, specimen.expects[p], "error", error) for p in wanted]
    found = {finding["probe"]: finding for finding in report["findings"]}
    return [
        Result(specimen.name, p, specimen.expects[p], found[p]["verdict"], found[p]["reason"])
        for p in wanted
        if p in found
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

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("probe", "sensitivity", "specificity"):
        table.add_column(column)
    for probe, rates in summary.items():
        table.add_row(probe, text(rates["sensitivity"]), text(rates["specificity"]))
    Console().print(table)
    missed = [result for result in results if not result.met]
    for result in missed:
        click.echo(
            f"{result.specimen}: {result.probe} says {result.verdict}, expected {result.expected} ({result.reason})"
        )
    click.echo(f"{len(results) - len(missed)} of {len(results)} expectations met.")
