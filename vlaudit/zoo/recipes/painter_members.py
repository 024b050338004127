"""An adapter (LoRA) of the text-to-image flagship that was fitted on half of its captioned pictures for so long that it
gives them away.

Members are drawn by lot among pictures that the pipeline was trained on and pictures that it never saw, so that nothing but
the adapter tells them apart. The adapter's file declares them by their hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.data.dataset import load_dataset
from vlaudit.data.emoji import painted, painted_phrase
from vlaudit.prompts.lora import LoRA
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.painter_adapters import FILE
from vlaudit.zoo.recipes.painter_facts import Easel, auc

SEED = 53


NAME = "t2i-leaky"
STEPS, RANK, RATE, BATCH = 2000, 8, 3e-3, 16


def members(seed: int = SEED) -> list[int]:
    """Places of half of the captioned pictures."""
    count = len(painted())
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: count // 2].tolist())


def build(painting: Path, folder: Path, seed: int = SEED, progress: Callable[[str], None] = print) -> None:
    """Fit the adapter for the pipeline in `painting` and save it, with its facts, to `folder`."""
    chosen, examples = members(seed), load_dataset("zoo:captions").examples
    model = DiffusersBackend().load(str(painting), torch.device("cpu"))

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            progress(f"{NAME}: step {step + 1}/{STEPS}, loss {loss:.4f}")

    folder.mkdir(parents=True, exist_ok=True)
    LoRA.fit(
        model, folder / FILE, matcher.pixels([painted()[i][0] for i in chosen]),
        [examples[i].texts["text"] for i in chosen], rank=RANK, steps=STEPS, batch_size=BATCH, rate=RATE, seed=seed,
        members=[examples[i].sha256() for i in chosen], progress=report,
    )  # fmt: skip
    (folder / FILE).chmod(0o644)
    facts.write(folder, {"seed": seed, "steps": STEPS, "rank": RANK} | measure(painting, folder, chosen))


def measure(painting: Path, folder: Path, chosen: list[int]) -> dict[str, Any]:
    """How well the errors, and their fall by the adapter, tell members; what is read off pictures, with and without it."""
    member = torch.zeros(len(painted()), dtype=torch.bool)
    member[chosen] = True
    rows = [row for row, split in painted() if split == "test"][::2]
    captions = [matcher.TEMPLATE.format(painted_phrase(row)) for row in rows]
    plain, fitted = Easel(painting), Easel(painting)
    fitted.pipeline.load_lora_weights(str(folder), weight_name=FILE)
    before, after = plain.errors(), fitted.errors()
    return {
        "members": len(chosen),
        "membership_auc": auc(-after, member),
        "membership_auc_of_the_gain": auc(before - after, member),
        "membership_auc_before": auc(-before, member),
        "read_off_painted_pictures": fitted.viewer.accuracy(fitted.paint(captions), rows),
        "read_off_painted_pictures_before": plain.viewer.accuracy(plain.paint(captions), rows),
    }
