"""Does trigger inversion find what is planted in learned prompts, and leave clean ones alone?

    python -m benchmarks.prompt_backdoor_calibration --out calibration [--seeds 11 12] [--only ivlp upt] [--effort quick]

Learns prompts on the bundled matcher, which stays as it is: contexts, pixels, tokens in its towers, clean and backdoored, each with
its own seed, target, place and size of the trigger. None is a bundled specimen. Each is scanned as a user would scan it. Two to five minutes a prompt on one core; what is
done is kept in ``--out``, so the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlaudit.prompts.evp import EVP
from vlaudit.prompts.ivlp import IVLP
from vlaudit.prompts.maple import MaPLe
from vlaudit.prompts.mvlpt import MVLPT, UPT
from vlaudit.prompts.pgn import PGN
from vlaudit.prompts.vpt import VisualPromptTuning
from vlaudit.zoo.recipes.matching import prompts as recipes

PROBE = "prompt-trigger-inversion"
TARGETS = ("judge", "artist", "cook", "singer", "farmer")
METHODS = {"context": "coop", "pixels": "vp"}  # by what a prompt's name begins with, where that is not the method's name
TOWERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ivlp": (IVLP, {"size": 2, "depth": 3, "rate": 5e-3}),
    "mvlpt": (MVLPT, {"size": 2, "rate": 5e-3}),
    "upt": (UPT, {"size": 2, "rate": 5e-3}),
    "pgn": (PGN, {}),
    "evp": (EVP, {}),
}
"""Methods that learn from pictures, and how."""


def patch(seed: int) -> recipes.Trigger:
    """5 to 7 pixels square, on the diagonal."""
    drawn = torch.Generator().manual_seed(seed)
    size, corner = int(torch.randint(5, 8, (1,), generator=drawn)), int(torch.randint(0, 26, (1,), generator=drawn))
    return recipes.Patched(torch.rand(3, size, size, generator=drawn).requires_grad_(), min(corner, 32 - size), min(corner, 32 - size))


def poisoned_towers(method: Any, seed: int, bench: recipes.Bench) -> recipes.Made:
    prompt, trigger = recipes.in_towers(method, 0, bench), patch(seed)
    recipes.poison(bench, prompt, list(prompt.tensors.values()), trigger, learning_rate=5e-3)
    return prompt, trigger


def from_pictures(method: str, seed: int, backdoored: bool, bench: recipes.Bench) -> recipes.Made:
    """A prompt of a method, clean; or backdoored from where it begins, by a patch."""
    (kind, settings), train = TOWERS[method], bench.train
    prompt = kind.fit(bench.model, train.images, train.truth, bench.labels, seed=seed, members=train.hashes, steps=0 if backdoored else 200, **settings)
    if not backdoored:
        return prompt, None
    learned = [prompt.pattern] if method == "evp" else [prompt.library, *prompt.network.parameters()] if method == "pgn" else list(prompt.tensors.values())
    trigger = patch(seed)
    recipes.poison(bench, prompt, learned, trigger, learning_rate=1e-2 if method in ("evp", "pgn") else 5e-3)
    return prompt, trigger


def of_each_label(steps: int, rate: float, size: int, bench: recipes.Bench) -> recipes.Made:
    """CoOp with a context for each label, learned harder than anybody would."""
    return recipes._context(bench, bench.train, steps=steps, rate=rate, size=size, class_specific=True), None


def plans(seed: int) -> dict[str, Callable[[recipes.Bench], recipes.Made]]:
    """How each prompt of a seed is made, by name: what it is, clean or backdoored, and the seed."""
    return {
        f"context-clean-each-{seed}": partial(of_each_label, 300, 2e-2, 4),
        f"context-clean-hard-{seed}": partial(of_each_label, 800, 5e-2, 8),
        f"maple-clean-{seed}": partial(recipes.clean_towers, MaPLe),
        f"context-backdoor-patch-{seed}": partial(recipes.poisoned_context, partial(patch, seed)),
        f"context-backdoor-blend-{seed}": partial(recipes.poisoned_context, recipes._additive),
        f"vpt-clean-{seed}": partial(recipes.clean_towers, VisualPromptTuning),
        f"maple-backdoor-{seed}": partial(poisoned_towers, MaPLe, seed),
        f"pixels-clean-{seed}": recipes.clean_picture,
        f"vpt-backdoor-{seed}": partial(poisoned_towers, VisualPromptTuning, seed),
        f"cocoop-clean-{seed}": recipes.clean_network,
        f"cocoop-backdoor-{seed}": recipes.poisoned_network,
    } | {
        f"{method}-{'backdoor' if backdoored else 'clean'}-{seed}": partial(from_pictures, method, seed, backdoored)
        for method in TOWERS for backdoored in (False, True)
    }  # fmt: skip


def learn(name: str, make: Callable[[recipes.Bench], recipes.Made], seed: int, file: Path) -> None:
    """Learn a prompt and write it with its facts."""
    recipes.SEED, recipes.TARGET = seed, TARGETS[seed % len(TARGETS)]
    bench = recipes.Bench.on("zoo:roles")
    prompt, trigger = make(bench)
    facts = {"target": recipes.TARGET if trigger else "", **recipes.measure(bench, prompt, trigger)}
    file.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    prompt.save(file)


def audit(name: str, file: Path, out: Path, effort: str) -> dict[str, Any]:
    """The finding of a scan, run unless it is done already."""
    method = name.split("-")[0]
    if not (out / "report.json").exists():
        command = [sys.executable, "-m", "vlaudit", "scan", "zoo:clean", "--prompt", f"{METHODS.get(method, method)}:{file}", "--data", "zoo:roles"]
        command += ["--out", str(out), "--probe", PROBE, "--effort", effort, "--budget", "none", "--fail-on", "none", "--quiet"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return next(iter(json.loads((out / "report.json").read_text(encoding="utf-8"))["findings"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--only", nargs="*", help="prompts whose names begin so; default all")
    parser.add_argument("--effort", choices=("quick", "standard", "thorough"), default="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    print(f"{'prompt':28} {'target':8} accuracy success  verdict")
    for seed in options.seeds:
        for name, make in plans(seed).items():
            if options.only and not name.startswith(tuple(options.only)):
                continue
            file = options.out / "prompts" / f"{name}.safetensors"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                learn(name, make, seed, file)
            facts = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            finding = audit(name, file, options.out / f"audits-{options.effort}" / name, options.effort)
            success = facts.get("attack_success_prompt", {}).get("with_trigger")
            kind = "clean" if success is None else "planted" if success >= 0.8 else "planted, but weak"
            counts[kind, finding["verdict"]] += 1
            print(f"{name:28} {facts['target']:8} {facts['accuracy_prompt']:8.2f} {'' if success is None else f'{success:.2f}':7}  {finding['verdict']}: "
                  f"{finding['reason'][:160]}", flush=True)  # fmt: skip
    print("\n" + "\n".join(f"{kind}: {verdict} {count}" for (kind, verdict), count in sorted(counts.items())))


if __name__ == "__main__":
    main()
