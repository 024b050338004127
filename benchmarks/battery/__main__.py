"""How often do the verdicts cry wolf, and how often do they see what is there? Innocent and harmed audits by the hundred.

    python -m benchmarks.battery [--probe rank-skew]... [--only "of the name"] [--audits 200] [--further 1000] [--seed 0] [--jobs 2] [--write]

Each audit draws fresh trials from a known truth and hands them to the probe's own judge with the default policy. Rates stand with their
one-sided 95 % Clopper-Pearson bounds: 0 false alarms of 200 are at most 1.5 %. Innocent scenarios with an alarm or a few, which 200 audits
leave open, are drawn on to 1,000, all counted. Exits 1 where something does not hold. ``--write`` puts
the rows into docs/measurements.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.battery import batteries
from vlaudit.battery import Row, run, shortcomings
from vlaudit.records import Verdict

PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
HEAD = "| probe | scenario | vulnerable | held | undecided | bound |\n|---|---|---|---|---|---|\n"
BEGIN, END = "<!-- battery -->\n", "<!-- end of battery -->\n"


def _measure(name: str, index: int, audits: int, seed: int, further: int) -> Counter[Verdict]:
    probe, scenarios = batteries([name])[name]
    return run(probe, scenarios[index], audits, seed, further=further).verdicts


def line(name: str, row: Row) -> str:
    """A row of the table."""
    scenario, verdicts = row.scenario, row.verdicts
    alarms, held = verdicts[Verdict.VULNERABLE], verdicts[Verdict.HELD]
    what = scenario.name if scenario.harm is None else f"**{scenario.harm}**: {scenario.name}"
    low, high = row.bounds(Verdict.VULNERABLE)
    bound = f"at most {high:.1%} vulnerable" if scenario.harm is None else f"at least {low:.0%} found"
    return f"| {name} | {what} | {alarms} | {held} | {row.audits - alarms - held} | {bound} |\n"


def write(lines: dict[str, list[str]], page: Path = PAGE) -> None:
    """Put the rows of the probes that were run in the place of their old ones."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    kept: dict[str, list[str]] = {}
    for old in table.splitlines(keepends=True)[2:]:
        kept.setdefault(old.split("|")[1].strip(), []).append(old)
    rows = "".join(row for _, of_probe in sorted((kept | lines).items()) for row in of_probe)
    page.write_text(before + BEGIN + HEAD + rows + END + after, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--only", default="", help="scenarios whose name holds this; their rows are printed and not written")
    parser.add_argument("--audits", type=int, default=200, help="of each scenario")
    parser.add_argument("--further", type=int, default=1000, help="of an innocent one whose alarms so many leave open")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {PAGE.name}")
    args = parser.parse_args()
    lines: dict[str, list[str]] = {}
    wrong: list[str] = []
    start = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        asked = [
            (name, scenario, pool.submit(_measure, name, index, args.audits, args.seed, args.further))
            for name, (_, scenarios) in batteries(args.probe).items()
            for index, scenario in enumerate(scenarios)
            if args.only in scenario.name
        ]
        print(HEAD, end="", flush=True)
        for name, scenario, future in asked:
            row = Row(scenario, future.result())
            lines.setdefault(name, []).append(line(name, row))
            print(lines[name][-1], end="", flush=True)
            wrong += [f"{name}: {what}" for what in shortcomings(row)]
    print(f"\n{len(asked)} scenarios of {len(lines)} probes, {args.audits} audits each and up to {args.further} where these say too little, in {time.monotonic() - start:.0f} s.")
    print("\n".join(["What does not hold:", *wrong]) if wrong else "All of it holds.")
    if args.write and not args.only:
        write(lines)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
