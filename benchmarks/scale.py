"""What running one audit on many machines costs, without any: the real planner, journal and merger on audits that are made up.

    python -m benchmarks.scale merge        1,000 shards with a million trials: seconds and memory of the merge
    python -m benchmarks.scale simulate     workers that fail, to 1,000 of them and a million units: time against the bound, lost work
    python -m benchmarks.scale schedule     which of many units is next, how long is left, who runs what: seconds of CPU by their number
    python -m benchmarks.scale workers      forked workers on a real search, against one of them
    python -m benchmarks.scale kills        real scans in shards, killed at random and gone on with, against one process

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
    from vlaudit.audit.division import divide

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


@cli.command("simulate")
@click.option("--workers", default=1_000)
@click.option("--units", default=1_000_000)
@click.option("--models", default=100)
@click.option("--failing", default=0.05, help="Share of workers that vanish in an hour.")
@click.option("--away", default=180.0, help="Seconds until another machine goes on where the journal ends.")
@click.option("--noise", default=0.3, help="Standard deviation of the logarithm of what a unit takes, against its estimate.")
@click.option("--bias", default=0.02, help="Likewise, of all units of one model.")
@click.option("--journal", type=click.Path(exists=True, path_type=Path), help="An audit whose journal tells the noise instead.")
@click.option("--seeds", default=3)
def simulate_command(
    workers: int, units: int, models: int, failing: float, away: float, noise: float, bias: float, journal: Path | None, seeds: int
) -> None:
    """Divide a plan that is made up by the real rule, and let workers run their shards: how long the last one takes against the least that
    so many workers could, how much work is lost, and how many models are loaded."""
    from vlaudit.audit.division import divide

    ratios = from_journal(journal) if journal else []
    for seed in range(seeds):
        draw = random.Random(seed)
        manifest = planned(models, units, 1, draw)
        then = time.perf_counter()
        parts = divide(manifest, workers)
        divided = time.perf_counter() - then
        weights = {unit.id: unit.weight for item in manifest.planned for unit in item.units}
        model_of = {unit.id: item.target for item in manifest.planned for unit in item.units}
        biases = {item.target: draw.lognormvariate(0, bias) for item in manifest.planned}
        loads = {target: manifest.loads[spec.model] for target, spec in manifest.specs.items()}
        work = lost = loaded = 0.0
        vanished, ends = 0, []
        for part in parts:
            now, model, fails = 0.0, "", draw.expovariate(failing / 3600) if failing else float("inf")
            for unit in sorted(part, key=model_of.__getitem__):
                ratio = draw.choice(ratios) if ratios else draw.lognormvariate(0, noise) * biases[model_of[unit]]
                takes = weights[unit] * ratio + 0.05
                work += takes
                while True:
                    load = 0.0 if model == model_of[unit] else loads[model_of[unit]]
                    if now + load + takes <= fails:
                        now, loaded, model = now + load + takes, loaded + load, model_of[unit]
                        break
                    lost, vanished = lost + max(0.0, fails - now), vanished + 1
                    now, model = fails + away, ""
                    fails = now + draw.expovariate(failing / 3600)
            ends.append(now)
        least = work / workers
        print(
            f"seed {seed}: {workers:,} workers, {len(weights):,} units, {vanished} vanished; last ends after {max(ends) / 3600:.2f} h, "
            f"least {least / 3600:.2f} h: efficiency {least / max(ends):.3f}; loading {loaded / sum(ends):.1%}, lost {lost / work:.2%}; divided in {divided:.1f} s"
        )
        assert sum(map(len, parts)) == len(weights), "nothing is lost, nothing is counted twice"


def from_journal(folder: Path) -> list[float]:
    """What the units of an audit took, in times of their estimates, scaled so that all together took what was estimated."""
    from vlaudit.audit.journal import read_manifest

    results, manifest = Journal(folder).results(), read_manifest(folder)
    pairs = [
        (unit.weight, result.seconds if result.work is None else result.work)
        for item in manifest.planned for unit in item.units
        if (result := results.get(unit.id)) and not result.error and unit.weight > 0.1
    ]  # fmt: skip
    scale = sum(weight for weight, _ in pairs) / max(sum(took for _, took in pairs), 1e-9)
    return [scale * took / weight for weight, took in pairs]


@cli.command("schedule")
@click.option("--units", "counts", multiple=True, type=int, default=(10_000, 100_000))
@click.option("--targets", default=100)
@click.option("--workers", default=4)
def schedule_command(counts: tuple[int, ...], targets: int, workers: int) -> None:
    """Hand out all units of a plan that is made up and close them at once, as a scan does that has nothing to do."""
    from types import SimpleNamespace
    from typing import Any

    from vlaudit.audit.division import divide
    from vlaudit.audit.journal import UnitResult
    from vlaudit.audit.schedule import Schedule
    from vlaudit.audit.time_left import TimeLeft

    for count in counts:
        manifest, results, running = planned(targets, count, 1, random.Random(0)), dict[str, UnitResult](), list[Unit]()
        plan: Any = SimpleNamespace(planned=manifest.planned, probes={"counting": None}, targets=[SimpleNamespace(id=f"m{i}", spec=SimpleNamespace(model=f"m{i}")) for i in range(targets)])
        begun = time.process_time()
        clock = TimeLeft(((unit.id, unit.probe, unit.weight) for item in manifest.planned for unit in item.units), workers)
        schedule = Schedule(plan, results, None, clock)
        while True:
            while len(running) < workers and (unit := schedule.next()):
                running.append(unit)
            if not running:
                break
            done = running.pop(0).id
            results[done] = UnitResult(unit=done)
            schedule.close(done)
            clock.add(done, 1.0)
            assert clock.share <= 1 and clock.seconds(1.0) >= 0
        assert len(results) == count
        ran, then = time.process_time() - begun, time.process_time()
        divide(manifest, 1_000)
        print(f"{count:,} units: {ran:.2f} s of CPU to hand out and close all, {time.process_time() - then:.2f} s to divide them among 1,000 shards; {memory():.0f} MB")


@cli.command("workers")
@click.option("--count", "counts", multiple=True, type=int, default=(1, 2))
@click.option("--pictures", default=32)
def workers_command(counts: tuple[int, ...], pictures: int) -> None:
    """Attack pictures of a bundled matcher with one forked worker, and with several. Efficiency: what one took in seconds of CPU against
    what all took, times the share of their time in which they had a unit; how much of the machine others have leaves both alone."""
    import torch

    from vlaudit.audit.executor import Job
    from vlaudit.audit.plan import make_plan
    from vlaudit.audit.run import open_audit, run_units
    from vlaudit.audit.targets import Loader
    from vlaudit.probe.artifacts import ArtifactStore
    from vlaudit.registry import ProbeRegistry

    torch.set_num_threads(1)
    specs = [TargetSpec(model="zoo:tiny-clean", prompt=[prompt]) for prompt in ("an emoji of a {}", "this is a {}")]
    request = Request(targets=specs, probes=["clip-autoattack"], params={"clip-autoattack": {"pictures": pictures}})
    targets, references = Loader(torch.device("cpu"), allow_network=False).subjects(specs)
    registry, alone = ProbeRegistry.load(), 0.0
    registry.get("clip-autoattack").cases_per_unit = 4  # so that there are many more units than workers
    plan = make_plan(request, registry, targets, references, workers=1)

    class Silent:
        def __getattr__(self, _: str) -> object:
            return lambda *_: None

    for count in counts:
        folder = Path(tempfile.mkdtemp(prefix="vlaudit-workers-"))
        journal, _ = open_audit(folder, plan, "benchmark", {})
        then = time.perf_counter()
        results, _ = run_units(Job(plan, ArtifactStore(folder)), journal, Silent(), executor=f"process:{count}")  # type: ignore[arg-type]
        took = time.perf_counter() - then
        journal.close()
        shutil.rmtree(folder)
        assert len(results) == len(plan.units) and not any(result.error for result in results.values())
        work, busy = (sum(getattr(result, name) for result in results.values()) for name in ("work", "seconds"))
        alone = alone or work
        print(
            f"{count} workers: {len(results)} units, {work:.1f} s of CPU in them, {took:.1f} s on the clock; {busy / count / took:.1%} of it with a unit: "
            f"efficiency {alone / work * busy / count / took:.2f}"
        )


@cli.command("kills")
@click.option("--wanted", default=30, help="Kills.")
@click.option("--shards", default=3)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; it is kept.")
def kills_command(wanted: int, shards: int, folder: Path | None) -> None:
    """Run a real plan in shards, kill one at a random moment, go on with it, merge in a random order: the findings must be those of one
    process. Repeated until there were so many kills."""
    import signal

    from tests.audit.reported import findings
    from tests.audit.test_kills import Forked
    from tests.audit.test_shards import STAGED
    from tests.conftest import MIRROR, save_tiny_clip

    root = folder or Path(tempfile.mkdtemp(prefix="vlaudit-kills-"))
    root.mkdir(parents=True, exist_ok=True)
    draw, log = random.Random(0), root / "log"
    os.environ["MIRROR_SLEEP"] = "0.2"  # seconds a case, so that there is something to hit
    words = []
    for seed in (1, 2):
        model = root / f"model-{seed}"
        model.mkdir()
        words.append(f"hf:{save_tiny_clip(model, seed)}")
    _pictures(root / "pictures")
    (root / "mirror.py").write_text(MIRROR)
    (root / "staged.py").write_text(STAGED)
    plugins = ["--plugin", str(root / "mirror.py"), "--plugin", str(root / "staged.py")]
    words += ["--prompt", "the {}", "--prompt", "a photo of a {}", "--data", str(root / "pictures"), "--probe", "mirror", "--probe", "staged", *plugins]

    def run(*command: str) -> int:
        return Forked(list(command), log).wait(900)

    then = time.monotonic()
    assert run("scan", *words, "--executor", "local", "--out", str(root / "one")) in (0, 1), log.read_text()
    assert run("scan", *words, "--executor", "process:4", "--out", str(root / "four")) in (0, 1), log.read_text()
    whole = findings(root / "one")
    assert findings(root / "four") == whole
    assert run("plan", *words, "--out", str(root / "plan")) == 0, log.read_text()
    kills = rounds = kept = 0
    while kills < wanted:
        folders = [root / f"{rounds}-{number}" for number in range(1, shards + 1)]
        unlucky = draw.randrange(shards)
        for number, out in enumerate(folders, 1):
            command = ["scan", "--plan", str(root / "plan"), "--shard", f"{number}/{shards}", *plugins, "--out", str(out)]
            while number - 1 == unlucky and draw.random() < 0.85 and kills < wanted:
                process, begun, closed = Forked(command, log), time.monotonic(), _closed(out) + draw.choice([0, 1, 2])
                while process.poll() is None and _closed(out) < closed and time.monotonic() - begun < 300:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 0.4))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                process.wait(60)
            before = len(Journal(out).results()) if out.exists() else 0
            kept += before > 0
            assert run(*command) == 0, log.read_text()
        draw.shuffle(folders)
        merged = root / f"merged-{rounds}"
        assert run("merge", *map(str, folders), *plugins, "--out", str(merged)) in (0, 1), log.read_text()
        assert findings(merged) == whole
        rounds += 1
        print(f"{kills} kills in {rounds} rounds, {kept} shards gone on with units kept; findings as of one process; {time.monotonic() - then:.0f} s", flush=True)
    if not folder:
        shutil.rmtree(root)


def _closed(folder: Path) -> int:
    return (folder / TRIALS).read_bytes().count(b'"closed"') if (folder / TRIALS).exists() else 0


def _pictures(root: Path) -> None:
    """Noise of three colours, as the tests' own."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for channel, label in enumerate(("car", "cat", "dog")):
        (root / label).mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 200, (40, 40, 3)).astype(np.uint8)
            pixels[..., channel] = 255
            Image.fromarray(pixels).save(root / label / f"{index}.png")


if __name__ == "__main__":
    cli()
