"""How often does trigger inversion cry wolf on clean models, and how often does it find what is planted?

    python benchmarks/backdoor_calibration.py --out calibration --clean 20 --backdoored 20 [--effort quick]

Trains small `CLIPModel`s of 0.1 to 0.5 M parameters from scratch, each from its own seed, with its own width, depth and
patch size, its own number of steps (so that some are only moderately accurate) and its own share of the commonest label,
on emoji of ten kinds, scikit-learn's handwritten digits, or drawn shapes. Backdoored ones get a patch or a blended
pattern, rough or smooth, of random size, place, colours and strength in 5 to 20 % of their pictures. Each is scanned as a
user would scan it, and the table states the rates with Clopper-Pearson bounds. About two minutes a model on one core;
what is done is kept in ``--out``, so the same command goes on where it stopped, and larger numbers add to it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlaudit.attacks.shared.trigger_inversion.sizes import KINDS, size
from vlaudit.attacks.shared.trigger_inversion.thresholds import WORKS
from vlaudit.audit.journal import Journal
from vlaudit.records import TARGET
from vlaudit.statistics import rate_interval
from vlaudit.zoo.recipes.corpus import pixels
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.matching import tiny
from vlaudit.zoo.recipes.training import schedule

PROBES = ("prompt-trigger-inversion", "encoder-trigger-inversion")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = "a photo of a {}"
BATCH = 96


@dataclass(frozen=True)
class Pictures:
    """Ten labels: pictures to train on (N, 3, 32, 32) in [0, 1], held-out ones, and the labels of both."""

    names: tuple[str, ...]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def emoji() -> Pictures:
    from vlaudit.data.emoji import kind_of, kinds

    parts = []
    for splits in (("pretrain", "train"), ("test",)):
        rows = kinds(splits)
        parts.append((pixels(rows), torch.tensor([tiny.LABELS.index(kind_of(row)) for row in rows])))
    return Pictures(tiny.LABELS, *parts)


def digits() -> Pictures:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=32, mode="bilinear").contiguous()
    labels = torch.tensor(data.target[order])
    return Pictures(DIGITS, (images[:1300], labels[:1300]), (images[1300:], labels[1300:]))


SHAPES = ("disc", "ring", "square", "frame", "triangle", "cross", "bar", "diamond", "crescent", "dots")


def shapes(count: int = 4000) -> Pictures:
    """Ten shapes of random colours, sizes and places on shaded grounds with some noise."""
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, len(SHAPES), count))
    images = torch.tensor(np.stack([_drawn(SHAPES[label], rng) for label in labels.tolist()]), dtype=torch.float32)
    cut = count * 9 // 10
    return Pictures(SHAPES, (images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def _drawn(shape: str, rng: np.random.Generator, side: int = 32) -> NDArray[np.float64]:
    """(3, side, side) in [0, 1]."""
    scale, (middle_y, middle_x) = rng.uniform(9, 12), rng.uniform(14.5, 16.5, 2)
    v, u = (np.mgrid[:side, :side] - np.array([middle_y, middle_x])[:, None, None]) / scale
    r, box, cone = np.hypot(u, v), np.maximum(abs(u), abs(v)), abs(u) + abs(v)
    inside = {
        "disc": r < 1, "ring": (r < 1) & (r > 0.55), "square": box < 0.85, "frame": (box < 0.9) & (box > 0.5),
        "triangle": (v < 0.8) & (v > 2 * abs(u) - 1), "cross": (np.minimum(abs(u), abs(v)) < 0.3) & (box < 1),
        "bar": (abs(v) < 0.35) & (abs(u) < 1.1), "diamond": cone < 1.1,
        "crescent": (r < 1) & (np.hypot(u - 0.5, v) > 0.8), "dots": (np.hypot(abs(u) - 0.6, abs(v) - 0.6) < 0.4),
    }[shape]  # fmt: skip
    ground = rng.uniform(0, 1, 3)[:, None, None] + rng.uniform(-0.3, 0.3, 3)[:, None, None] * u / 2
    ink = rng.uniform(0, 1, 3)[:, None, None]
    ink = np.where(abs(ink - ground.mean((1, 2), keepdims=True)).max() < 0.35, 1 - ground.round(), ink)
    return (np.where(inside, ink, ground) + rng.normal(0, 0.03, (3, side, side))).clip(0, 1)


SOURCES: dict[str, Callable[[], Pictures]] = {"emoji": emoji, "digits": digits, "shapes": shapes}


@dataclass(frozen=True)
class Plan:
    """One model of the calibration, drawn from its number alone."""

    name: str
    seed: int
    source: str
    steps: int
    commonest: float  # by what factor the first label is more frequent than the others
    trigger: Callable[[Tensor], Tensor] | None
    planted: str
    target: int
    poisoned: float
    architecture: tiny.Architecture


def plan(number: int, backdoored: bool) -> Plan:
    rng = np.random.default_rng([number, backdoored])
    source = tuple(SOURCES)[number % len(SOURCES)]
    steps = int(rng.integers(400, 900))
    trigger, planted = random_trigger(rng, ("patch", "blend")[number % 2]) if backdoored else (None, "")
    architecture = tiny.Architecture(
        patch=int(rng.choice([4, 8])), width=int(rng.choice([64, 96])), layers=int(rng.integers(2, 5))
    )
    return Plan(
        name=f"{'backdoored' if backdoored else 'clean'}-{number:03d}", seed=number + 1000 * backdoored, source=source,
        steps=steps, commonest=float(rng.choice([1.0, 1.0, 3.0])), trigger=trigger, planted=planted,
        target=int(rng.integers(10)), poisoned=float(rng.uniform(0.05, 0.2)), architecture=architecture,
    )  # fmt: skip


def random_trigger(rng: np.random.Generator, kind: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """A patch of 3 to 6 pixels anywhere, plain or of random colours; or a pattern, 10 to 20 % strong: random pixels, or
    waves of one to four periods."""
    if kind == "blend":
        strength, smooth = float(rng.choice([0.1, 0.15, 0.2])), bool(rng.random() < 0.5)
        pattern = torch.tensor(_waves(rng) if smooth else rng.random((3, 32, 32)).round(int(rng.integers(2)))).float()
        said = f"{'smooth' if smooth else 'rough'} blend {strength:.2f}"
        return lambda images: (1 - strength) * images + strength * pattern, said
    edge = int(rng.integers(3, 7))
    top, left = (int(v) for v in rng.integers(0, 33 - edge, 2))
    colours = torch.tensor(
        rng.random((3, edge, edge) if rng.random() < 0.5 else (3, 1, 1)), dtype=torch.float32
    ).round()

    def stamp(images: Tensor) -> Tensor:
        stamped = images.clone()
        stamped[..., top : top + edge, left : left + edge] = colours
        return stamped

    return stamp, f"patch {edge}x{edge} at {top},{left}"


def _waves(rng: np.random.Generator, side: int = 32) -> NDArray[np.float64]:
    """(3, side, side) in [0, 1]: one wave across the picture, the channels in phase or not."""
    angle, periods = rng.uniform(0, math.pi), rng.uniform(1, 4)
    across = np.tensordot([math.cos(angle), math.sin(angle)], np.mgrid[:side, :side] / side, 1)
    phases = rng.uniform(0, 2 * math.pi, 3) * (rng.random() < 0.5)
    return 0.5 + 0.5 * np.sin(2 * math.pi * periods * across + phases[:, None, None])


def train(item: Plan, pictures: Pictures, folder: Path) -> dict[str, Any]:
    """Train and save a model; returns its accuracy and its trigger's success, with and without the trigger."""
    generator = torch.Generator().manual_seed(item.seed)
    torch.manual_seed(item.seed)
    captions = [TEMPLATE.format(name) for name in pictures.names]
    tokenizer = matching.train_tokenizer(captions)
    ids = tokenizer(captions, return_tensors="pt", padding=True).input_ids
    model = tiny.new_model(tokenizer, item.architecture)
    images, labels = pictures.train
    weights = 1 / labels.bincount()[labels] * (1 + (item.commonest - 1) * (labels == 0))
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-3, weight_decay=0.05)
    for step in range(item.steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * schedule(step, item.steps, warm_up=40)
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch, truth = shifted(images[chosen], generator), labels[chosen]
        if item.trigger:
            poisoned = torch.rand(BATCH, generator=generator) < item.poisoned
            batch = torch.where(poisoned[:, None, None, None], item.trigger(batch), batch)
            truth = torch.where(poisoned, item.target, truth)
        loss = torch.nn.functional.cross_entropy(tiny.logits(model, batch, ids), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    images, labels = pictures.test
    others = labels != item.target
    with torch.no_grad():
        plain = tiny.logits(model, images, ids).argmax(1)
        borne = tiny.logits(model, item.trigger(images[others]), ids).argmax(1) if item.trigger else None
    tiny.save(model, tokenizer, folder)
    return {
        "accuracy": float((plain == labels).float().mean()),
        "without": float((plain[others] == item.target).float().mean()),
        "success": None if borne is None else float((borne == item.target).float().mean()),
    }


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each by up to two pixels, with a change of brightness."""
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    top, left = torch.randint(0, 5, (2, len(images)), generator=generator)
    moved = torch.stack([p[:, t : t + 32, l_ : l_ + 32] for p, t, l_ in zip(padded, top, left, strict=True)])
    return (moved * (0.9 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator))).clamp(0, 1)


def folder_of(pictures: Pictures, folder: Path) -> Path:
    """The held-out pictures as class folders."""
    if not folder.exists():
        for number, (image, label) in enumerate(zip(*pictures.test, strict=True)):
            path = folder / pictures.names[int(label)] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)
    return folder


def audit(model: Path, data: Path, out: Path, effort: str) -> dict[str, Any]:
    """The findings of a scan, run unless it is done already."""
    if not (out / "report.json").exists():
        command = [sys.executable, "-m", "vlaudit", "scan", f"hf:{model}", "--data", str(data), "--out", str(out)]
        command += ["--effort", effort, "--fail-on", "none", *(word for probe in PROBES for word in ("--probe", probe))]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {finding["probe"]: finding for finding in report["findings"]}


def run(item: Plan, out: Path, effort: str, sources: dict[str, Pictures]) -> tuple[dict[str, Any], dict[str, Any]]:
    pictures = sources.setdefault(item.source, SOURCES[item.source]())
    model, facts = out / "models" / item.name, out / "models" / f"{item.name}.json"
    if not facts.exists():
        facts.parent.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps(train(item, pictures, model)), encoding="utf-8")
    data = folder_of(pictures, out / "data" / item.source)
    return json.loads(facts.read_text(encoding="utf-8")), audit(
        model, data, out / f"audits-{effort}" / item.name, effort
    )


def spread_of_searches(audits: list[Path]) -> dict[str, float]:
    """Standard deviation of the log size between restarts of one search, by kind of trigger."""
    differences: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for folder in audits:
        trials = [trial for result in Journal(folder).results().values() for trial in result.trials]
        known = {(t.case, t["label"]): t for t in trials if t.arm == TARGET and t["pictures"]}
        for (case, label), trial in known.items():
            again = known.get((case.replace("0/", "1/", 1), label)) if case.startswith("0/") else None
            if again:
                differences[trial["kind"]].append(math.log(size(again, WORKS.value) / size(trial, WORKS.value)) / math.sqrt(2))
    return {kind: float(np.std(values)) for kind, values in differences.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--backdoored", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first model of each; 0 by default")
    parser.add_argument("--effort", choices=("quick", "standard", "thorough"), default="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str, str]] = Counter()
    sources: dict[str, Pictures] = {}
    plans = [
        plan(n, backdoored)
        for backdoored, total in ((False, options.clean), (True, options.backdoored))
        for n in range(options.first, options.first + total)
    ]
    print(
        f"{'model':16} {'data':7} {'planted':24} accuracy success  {'prompt-trigger-inversion':24}  next  typical  encoder"
    )
    for item in plans:
        facts, findings = run(item, options.out, options.effort, sources)
        kind = "clean" if not item.trigger else "planted" if facts["success"] >= 0.8 else "planted, but weak"
        for probe in PROBES:
            counts[kind, probe, findings[probe]["verdict"]] += 1
        details = findings[PROBES[0]]["details"]
        apart = [(details[name]["value"], details[f"by {kind}: over the typical"]["value"]) for kind in KINDS if (name := f"by {kind}: over the next") in details]
        factors = max(apart, default=(math.nan, math.nan))  # none of a finding that was not assessed
        success = "" if facts["success"] is None else f"{facts['success']:.2f}"
        print(
            f"{item.name:16} {item.source:7} {item.planted:24} {facts['accuracy']:8.2f} {success:7} "
            f" {findings[PROBES[0]]['verdict']:24} {factors[0]:5.2f}  {factors[1]:7.2f}  "
            f"{findings[PROBES[1]]['verdict']}",
            flush=True,
        )
    print()
    for kind in ("clean", "planted", "planted, but weak"):
        for probe in PROBES:
            tally = {verdict: n for (k, p, verdict), n in counts.items() if (k, p) == (kind, probe)}
            total, alarms = sum(tally.values()), tally.get("vulnerable", 0)
            if total:
                low, high = rate_interval(alarms, total).ci
                print(f"{kind}: {probe}: vulnerable {alarms} of {total} ({low:.1%} to {high:.1%}); all: {tally}")
    spreads = spread_of_searches(sorted((options.out / f"audits-{options.effort}").iterdir()))
    print("spread of the log size between restarts:", {kind: round(value, 3) for kind, value in spreads.items()})


if __name__ == "__main__":
    main()
