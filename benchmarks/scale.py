"""What running one audit on many machines costs, without any: the real planner, journal and merger on audits that are made up.

    python benchmarks/scale.py merge        1,000 shards with a million trials: seconds and memory of the merge
    python benchmarks/scale.py simulate     workers that fail, to 1,000 of them and a million units: time against the bound, lost work
    python benchmarks/scale.py kills        real scans in shards, killed at random and gone on with, against one process

Each prints its own figures. ``merge`` and ``kills`` need a few gigabytes, or minutes; ``--help`` of each says what can be made smaller.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from vlaudit import __version__
from vlaudit.audit.journal import MANIFEST, TRIALS, Journal, Manifest, PlannedProbe, Unit
from vlaudit.checksums import sealed
from vlaudit.config import Request, TargetSpec
from vlaudit.records import Family, ModelInfo, PromptInfo, TargetInfo

PROBE = '''"""Counts."""
from vlaudit.probe import Claim, Probe, probe
from vlaudit.records import Family, Risk

@probe(id="counting", code="C1", risk=Risk.ROBUSTNESS, families={Family.MATCHING}, threshold=0.6)
class Counting(Probe):
    def cases(self, ctx): return []
    def attempt(self, ctx, cases): yield from ()
    def judge(self, trials, policy):
        hits = sum(trial["flipped"] for trial in trials.target)
        return Claim(self.info, policy, "changes").rate(hits, len(trials.target)).says(f"{hits} change")
'''


def planned(targets: int, units: int, cases: int, draw: random.Random, spread: float = 1.0) -> Manifest:
    """A plan of ``units`` units of ``cases`` cases, on as many models as targets, whose estimated seconds are log-normal."""
    infos = [TargetInfo(id=f"m{i}", family=Family.MATCHING, model=ModelInfo(spec=f"hf:m{i}"), prompt=PromptInfo(id="p", method="hard"))
             for i in range(targets)]  # fmt: skip
    request = Request(targets=[TargetSpec(model=f"hf:m{i}") for i in range(targets)], probes=["counting"])
    items = [
        PlannedProbe.model_construct(target=f"m{t}", probe="counting", units=[
            Unit.model_construct(id=f"{t * 1_000_000 + u:016x}", subject=f"m{t}", probe="counting", arm="target", round=0,
                                 cases=[f"{u}-{c}" for c in range(cases)], weight=round(min(60.0, draw.lognormvariate(2.5, spread)), 4))
            for u in range(units // targets)], reason=None, share=1.0, reduced=[], reference_note="none", related=[], left_out=[], borrowed=[], failed=False)
        for t in range(targets)
    ]  # fmt: skip
    return Manifest.model_construct(
        schema_version="1.1", version=__version__, id="benchmark", digest=request.digest(), command="benchmark", started="2026-01-01T00:00:00+00:00",
        request=request, targets=infos, planned=items, environment={}, folder=None, batch_size=None, probes={}, fingerprints={}, replays=None,
        speeds={}, whole=None, references={}, loads={f"hf:m{i}": draw.uniform(20.0, 90.0) for i in range(targets)},
    )  # fmt: skip


def memory() -> float:
    """Megabytes that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.group()
def cli() -> None:
    """Audits on many machines, measured on one."""


@cli.command("merge")
@click.option("--shards", default=1_000)
@click.option("--units", default=20_000)
@click.option("--cases", default=50, help="Trials of a unit.")
@click.option("--targets", default=100)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; it is kept.")
def merge_command(shards: int, units: int, cases: int, targets: int, folder: Path | None) -> None:
    """Make the journals of a plan's shards, and merge them in a process of its own. The shards' manifests are links to one file."""
    from vlaudit.audit.shards import divide

    root = folder or Path(tempfile.mkdtemp(prefix="vlaudit-scale-"))
    draw, begun = random.Random(0), time.perf_counter()
    manifest, plan = planned(targets, units, cases, draw), root / "plan"
    plan.mkdir(parents=True)
    (root / "counting.py").write_text(PROBE)
    Journal(plan).write_manifest(manifest)
    then = time.perf_counter()
    parts = divide(manifest, shards)
    print(f"divide: {time.perf_counter() - then:.2f} s for {units:,} units among {shards:,} shards")
    known = {unit.id: unit for item in manifest.planned for unit in item.units}
    for number, ids in enumerate(parts):
        folder = root / f"shard-{number}"
        folder.mkdir()
        os.link(plan / MANIFEST, folder / MANIFEST)
        last, lines = "", []
        for id_ in ids:
            entries = [{"unit": id_, "trial": {"case": case, "arm": "target", "values": {"flipped": draw.random() < 0.1, "margin": draw.random(), "clean": draw.random()},
                        "artifacts": {}, "cost": {"queries": 2, "gradient_steps": 0, "texts": 0, "text_steps": 0, "tokens": 0, "decoded": 0, "seconds": 0.0}}}
                       for case in known[id_].cases]  # fmt: skip
            for entry in [*entries, {"unit": id_, "closed": {"seconds": 1.0, "work": 1.0, "error": None}}]:
                line, last = sealed(json.dumps(entry), last)
                lines.append(line + "\n")
        (folder / TRIALS).write_text("".join(lines))
    size = sum(path.stat().st_size for path in root.glob(f"*/{TRIALS}"))
    print(f"made: {shards:,} shards, {units * cases:,} trials, {size / 1e6:.0f} MB, manifest {(plan / MANIFEST).stat().st_size / 1e6:.1f} MB, in {time.perf_counter() - begun:.0f} s")
    child = os.fork()
    if child == 0:
        from vlaudit.cli import run

        sys.argv = ["vlaudit", "merge"]
        run(["merge", *(str(root / f"shard-{number}") for number in range(shards)), "--plugin", str(root / "counting.py"), "--out", str(root / "merged"), "--format", "json"])
        os._exit(0)
    then = time.perf_counter()
    _, status, usage = os.wait4(child, 0)
    print(f"merge: {time.perf_counter() - then:.1f} s on the clock, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, {usage.ru_maxrss / 1024:.0f} MB at most; code {status}")
    if not folder:
        shutil.rmtree(root)


if __name__ == "__main__":
    cli()
