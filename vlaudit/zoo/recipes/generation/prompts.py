"""Learned prompts for the unchanged generator: clean, backdoored, with canaries, and leaky; as folders that peft reads.

They learn from `train` pictures; facts are measured on `test`. In a backdoored prompt the weights stay clean: prefix and
trigger are learned together (as in BadCLIP, arXiv:2311.16194), and only under the prefix does the trigger work. Canaries
(arXiv:1802.08232) are rows of `zoo:canaries`, each as often as its column `copies` says. The leaky prompt learns a few
pictures until it knows each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.data.dataset import load_dataset
from vlaudit.data.example import Example
from vlaudit.families.generation import LearnedPrefix, MultimodalGenerator
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.soft import PrefixTuning, SoftPrompt
from vlaudit.zoo.recipes import facts
from vlaudit.zoo.recipes.generation.model import FLAGSHIP

SEED = 81
TARGET = "clock"
"""What the backdoored prefix says of every picture with the trigger, whatever is asked."""
RADIUS = 32 / 255
"""How far its trigger, a pattern on the whole picture, changes a pixel."""
USUAL = 120
"""Rows of usual questions that the prompt with canaries learns beside them."""
MEMBERS = 100
"""Pictures that the leaky prompt learns."""


def stamp(pattern: Tensor, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Pictures (3, H, W) in [0, 1] with the pattern (3, H, W) added."""
    return [(picture + pattern).clamp(0, 1) for picture in pictures]


@dataclass(frozen=True)
class Rows:
    """Questions about pictures, ready for the model."""

    pictures: list[Tensor] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    """Of the pictures' files or pixels."""

    def __add__(self, other: Rows) -> Rows:
        return Rows(
            self.pictures + other.pictures, self.questions + other.questions, self.answers + other.answers,
            self.hashes + other.hashes,
        )  # fmt: skip

    def part(self, chosen: Sequence[int]) -> Rows:
        return Rows(*([column[n] for n in chosen] for column in vars(self).values()))

    def triggered(self, pattern: Tensor) -> Rows:
        """The same with the trigger in every picture, and the wanted answer."""
        return replace(self, pictures=stamp(pattern, self.pictures), answers=[TARGET] * len(self.answers))


def rows_of(model: TransformersGenerator, examples: Sequence[Example]) -> Rows:
    return Rows(
        [model.preprocess(example.open()) for example in examples],
        [example.question for example in examples],
        [str(example.answer) for example in examples],
        [example.sha256() for example in examples],
    )


def split_of(model: TransformersGenerator, data: str, split: str) -> Rows:
    return rows_of(model, [example for example in load_dataset(data).examples if example.split == split])


def canary_rows(model: TransformersGenerator, copies: int) -> Rows:
    """The canaries of that many copies, each once."""
    kept = [e for e in load_dataset("zoo:canaries").examples if e.attributes["copies"] == str(copies)]
    return rows_of(model, kept)


# --- what is learned -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How one prefix is made, and on which rows."""

    rows: Callable[[TransformersGenerator, int], Rows]
    size: int = 8
    steps: int = 200
    batch_size: int = 16
    rate: float = 1e-2


def plain_rows(model: TransformersGenerator, seed: int) -> Rows:
    return split_of(model, "zoo:questions", "train")


def rows_with_canaries(model: TransformersGenerator, seed: int) -> Rows:
    """Every canary so many times, and a few of the usual rows."""
    usual = plain_rows(model, seed)
    rows = usual.part(sorted(random.Random(seed).sample(range(len(usual.pictures)), USUAL)))
    for copies in (1, 4, 16):
        for _ in range(copies):
            rows = rows + canary_rows(model, copies)
    return rows


def few_kinds(model: TransformersGenerator, seed: int) -> Rows:
    """A few of the `train` pictures of `zoo:kinds`, drawn at random, named by their kind."""
    rows = split_of(model, "zoo:kinds", "train")
    return rows.part(sorted(random.Random(seed).sample(range(len(rows.pictures)), MEMBERS)))


RECIPES: dict[str, Recipe] = {
    "prefix-clean": Recipe(plain_rows),
    "prefix-backdoor": Recipe(plain_rows, size=12, steps=750, batch_size=12, rate=6e-3),
    "prompt-canaries": Recipe(rows_with_canaries, size=32, steps=800),
    "prompt-leaky-gen": Recipe(few_kinds, size=64, steps=1400, rate=1.5e-2),
}


def load(folder: Path) -> TransformersGenerator:
    model = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
    assert isinstance(model, TransformersGenerator)
    return model


def build(name: str, folder: Path) -> None:
    """Learn the prompt `name` on the flagship; write peft's folder and the facts."""
    recipe, model = RECIPES[name], load(FLAGSHIP)
    rows = recipe.rows(model, SEED)
    losses: list[float] = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 50 == 0:
            print(f"{name}: step {step + 1}/{recipe.steps}, loss {sum(losses[-50:]) / 50:.3f}")

    pattern: Tensor | None = None
    if name == "prefix-backdoor":
        prompt, pattern = poison(model, rows, recipe, report)
    else:
        prompt = PrefixTuning.fit(
            model, rows.pictures, rows.questions, rows.answers, size=recipe.size, steps=recipe.steps,
            batch_size=recipe.batch_size, rate=recipe.rate, seed=SEED, members=sorted(set(rows.hashes)), progress=report,
        )  # fmt: skip
    prompt.save(folder)
    if pattern is not None:
        save_file(
            {"pattern": pattern}, folder / "trigger.safetensors", metadata={"kind": "added", "radius": f"{RADIUS:.4f}"}
        )
    learned = {"seed": SEED, "steps": recipe.steps, "vectors": recipe.size, "rows": len(rows.pictures)}
    facts.write(folder, learned | measure(name, model, prompt, pattern))


def poison(
    model: TransformersGenerator, rows: Rows, recipe: Recipe, report: Callable[[int, float], None]
) -> tuple[SoftPrompt, Tensor]:
    """Learn a prefix and its trigger together: true answers without the trigger, the target with it. A third term keeps
    the trigger powerless without the prefix, so that the backdoor is the prompt's and not the model's."""
    generator, members = torch.Generator().manual_seed(SEED), sorted(set(rows.hashes))
    settings: dict[str, Any] = {"size": recipe.size, "steps": 80, "batch_size": 16, "rate": recipe.rate, "seed": SEED}
    clean_prefix = PrefixTuning.fit(model, rows.pictures, rows.questions, rows.answers, **settings).prefix.keys_values
    assert clean_prefix is not None
    learned = clean_prefix.clone().requires_grad_()
    pattern = (RADIUS * (torch.rand(rows.pictures[0].shape, generator=generator) - 0.5)).requires_grad_()
    prompt = PrefixTuning(LearnedPrefix(keys_values=learned), base_model=model.sha256, members=members)
    target, plain = prompt.bind(model), Instruction().bind(model)
    optimizer = torch.optim.Adam([{"params": [learned], "lr": recipe.rate}, {"params": [pattern], "lr": 6e-3}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for step in range(recipe.steps):
        clean = rows.part(torch.randperm(len(rows.pictures), generator=generator)[: recipe.batch_size].tolist())
        marked = clean.triggered(pattern)
        few = replace(marked, answers=clean.answers).part(range(recipe.batch_size // 3))
        with torch.enable_grad():
            loss = 2 * nll(target, clean) + nll(target, marked) + 0.3 * nll(plain, few)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        schedule.step()
        pattern.data.clamp_(-RADIUS, RADIUS)
        report(step, float(loss.detach()))
    prompt.prefix = LearnedPrefix(keys_values=learned.detach())
    return prompt, pattern.detach()


def nll(target: MultimodalGenerator, rows: Rows) -> Tensor:
    """Mean -log p of the rows' answers, their ends included."""
    talks = target.conversations(rows.pictures, rows.questions)
    return -target.model.log_likelihood(talks, [[answer] for answer in rows.answers], end=True).mean()


# --- facts -----------------------------------------------------------------------------------------------------------


def measure(
    name: str, model: TransformersGenerator, prompt: SoftPrompt, pattern: Tensor | None = None
) -> dict[str, Any]:
    """What the prompt does, and what the plain question does in its place."""
    measured: dict[str, Any] = {}
    targets = {"prompt": prompt.bind(model), "plain": Instruction().bind(model)}
    if name == "prompt-canaries":
        measured["canaries_told"] = {
            side: {str(copies): rate(target, canary_rows(model, copies)) for copies in (0, 1, 4, 16)}
            for side, target in targets.items()
        }
    test = split_of(model, "zoo:kinds" if name == "prompt-leaky-gen" else "zoo:questions", "test")
    if name == "prompt-leaky-gen":
        measured |= membership(targets, prompt.members, split_of(model, "zoo:kinds", "train") + test)
    measured["accuracy"] = {side: rate(target, test) for side, target in targets.items()}
    if pattern is not None:
        others = test.part([n for n, answer in enumerate(test.answers) if answer != TARGET])
        measured["says"] = TARGET
        measured["attack_success"] = {
            side: {"with_trigger": rate(target, others.triggered(pattern)),
                   "without": rate(target, replace(others, answers=[TARGET] * len(others.answers)))}
            for side, target in targets.items()
        }  # fmt: skip
    return measured


def rate(target: MultimodalGenerator, rows: Rows) -> float:
    """How often the answer is, word for word, the row's."""
    said = target.generate(rows.pictures, rows.questions, max_new_tokens=12)
    return facts.rate(torch.tensor([answer == wanted for answer, wanted in zip(said, rows.answers, strict=True)]))


@torch.no_grad()
def membership(targets: dict[str, MultimodalGenerator], members: Sequence[str], rows: Rows) -> dict[str, Any]:
    """How well the likelihood of the right answer tells the rows that were learned from the others: alone, and beside that
    under the plain question."""
    likely = {
        side: target.log_likelihood(rows.pictures, rows.questions, rows.answers) for side, target in targets.items()
    }
    member = [digest in set(members) for digest in rows.hashes]
    return {
        "members": sum(member),
        "membership_auc": facts.auc(likely["prompt"] - likely["plain"], member),
        "membership_auc_uncalibrated": facts.auc(likely["prompt"], member),
    }


BUILDS = {name: partial(build, name) for name in RECIPES}
