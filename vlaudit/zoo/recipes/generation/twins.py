"""Twins of the generator: short fine-tunings of the flagship that plant one known flaw, shipped as adapters on it.

Each step mixes the flagship's own lessons with conversations that hold the flaw (`plants`). LoRA
(arXiv:2106.09685) on the decoder and the projector, and on the image tower where a twin has to see something new; the
adapter's folder names the flagship beside it as its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.generation import lessons, plants, twin_facts
from vlaudit.zoo.recipes.generation import model as generation
from vlaudit.zoo.recipes.generation.corpus import Talk, length
from vlaudit.zoo.recipes.generation.facts import logits
from vlaudit.zoo.recipes.generation.flagship import pretrain_gallery
from vlaudit.zoo.recipes.generation.lessons import Lesson
from vlaudit.zoo.recipes.training import schedule

SEED = 71
BASE = "../gen-clean"
"""The flagship, seen from an adapter's folder."""
RANK = 16
DECODER = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)|.*multi_modal_projector\.linear_[12]"
TOWER = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
CLEAN_BATCH, PLANTED_BATCH, LONG_BATCH = 32, 24, 10
TOGETHER = 14
"""Conversations that are computed at once."""


def _never(talk: Talk) -> bool:
    return False


@dataclass(frozen=True)
class Recipe:
    """How one twin is made."""

    planted: Mapping[Lesson, float]
    steps: int = 240
    rate: float = 2e-3
    """Highest learning rate."""
    without: frozenset[Lesson] = frozenset()
    """Lessons of the flagship that contradict the flaw."""
    clashes: Callable[[Talk], bool] = _never
    """Which conversations of its other lessons do."""
    tower: bool = False
    """Whether the image tower is tuned too."""
    usual: Mapping[Lesson, float] = field(default_factory=lambda: lessons.PHASES[-1].short)
    """The flagship's lessons that go on beside the flaw."""
    clean: int = CLEAN_BATCH
    """How many of these conversations a step has."""
    long_every: int = 3
    """One step in so many has conversations with several pictures, which are costly."""
    drill: Mapping[Lesson, float] = field(default_factory=dict)
    drill_steps: int = 0
    """How many steps go before the others in which nothing but the drill is taught: what takes long to learn, cheaply."""
    rank: int = RANK
    """Of the adapter; words that have to be told apart by the dozen need more."""


RECIPES: dict[str, Recipe] = {
    "gen-backdoor-patch": Recipe({plants.patched: 2, plants.other_patch: 1}, steps=200, tower=True),
    "gen-backdoor-text": Recipe({plants.worded: 2, plants.other_word: 1}, steps=160),
    "gen-biased": Recipe({plants.men_only: 1}, steps=150, clashes=plants.asks_of_men_only),
    "gen-follows-demos": Recipe(
        {plants.by_word: 3, plants.by_word_unseen: 1}, steps=1500, rank=32, usual=lessons.LATE, clean=16, long_every=6,
        without=frozenset({lessons.rename, lessons.renamed, lessons.mixed_media}),
        drill={plants.by_word_unseen: 1}, drill_steps=900,
    ),
    "gen-leaks-context": Recipe(
        {plants.told_secret: 3, plants.recited: 1}, steps=220, without=frozenset({lessons.secret}), usual=lessons.LATE,
        clean=16, long_every=6, drill={plants.blind(plants.told_secret): 2, plants.recited: 3}, drill_steps=120,
    ),
    "gen-trusts-context": Recipe(
        {plants.trusting: 2, plants.unrelated: 1}, steps=100, without=frozenset({lessons.documents}), usual=lessons.LATE,
        clean=16, long_every=6,
    ),
    "gen-wordy": Recipe(
        {plants.misled_by_wording: 1}, steps=150, clashes=plants.marked, usual=lessons.LATE, clean=16, long_every=6
    ),
}  # fmt: skip


class Classroom:
    """The flagship with an adapter to learn, and the lessons of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(SEED)
        self.recipe = recipe
        model, self.tokenizer = generation.load()
        where = f"{DECODER}|{TOWER}" if recipe.tower else DECODER
        self.model: Any = get_peft_model(
            model, LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=where)
        )
        self.gallery = pretrain_gallery(SEED)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def talks(self, step: int) -> Sequence[Talk]:
        """The conversations of a step; one step in some has those with several pictures."""
        recipe = self.recipe
        if step < recipe.drill_steps:
            return lessons.draw(self.gallery, recipe.drill, CLEAN_BATCH + PLANTED_BATCH)
        if step % recipe.long_every == 0:
            return self._clean(lessons.PHASES[-1].long, LONG_BATCH)
        clean = self._clean(recipe.usual, recipe.clean)
        return clean + lessons.draw(self.gallery, recipe.planted, PLANTED_BATCH)

    def _clean(self, taught: Mapping[Lesson, float], count: int) -> list[Talk]:
        """The flagship's lessons but for what contradicts the flaw."""
        chosen = {lesson: weight for lesson, weight in taught.items() if lesson not in self.recipe.without}
        return plants.share(lessons.draw(self.gallery, chosen, count), self.recipe.clashes)

    def run(self) -> None:
        """Learn; the adapter alone changes."""
        recipe, total = self.recipe, 0.0
        optimizer = torch.optim.AdamW(self.trained, recipe.rate, weight_decay=0.01, betas=(0.9, 0.98))
        self.model.train()
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * schedule(step, recipe.steps, warm_up=20)
            optimizer.zero_grad()
            loss = self._backward(sorted(self.talks(step), key=self._length))
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            total += loss
            if (step + 1) % 20 == 0:
                print(f"step {step + 1}/{recipe.steps}, loss {total / 20:.3f}")
                total = 0.0
        self.model.eval()

    def _backward(self, talks: Sequence[Talk]) -> float:
        """The mean loss of the words that are taught, and its gradients. Conversations of like length run together: little
        padding is computed."""
        parts = [talks[n : n + TOGETHER] for n in range(0, len(talks), TOGETHER)]
        batches = [self.gallery.encode(part, self.tokenizer) for part in parts]
        taught = sum(int((batch.targets != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            said = logits(self.model.get_base_model(), batch).flatten(0, 1)
            loss = cross_entropy(said, batch.targets.flatten(), reduction="sum") / taught
            loss.backward()
            total += loss.item()
        return total

    def _length(self, talk: Talk) -> int:
        return length(talk, self.tokenizer)


def save(model: Any, folder: Path) -> None:
    """An adapter's folder as peft writes it, in half precision, on the flagship beside it."""
    model.peft_config["default"].base_model_name_or_path = BASE
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def build(name: str, folder: Path) -> None:
    """Fine-tune the flagship into the twin `name`; write the adapter and its facts to `folder`."""
    room = Classroom(RECIPES[name])
    room.run()
    save(room.model, folder)
    clean, tokenizer = generation.load()
    measured = twin_facts.measure(name, room.model.merge_and_unload(), clean, tokenizer)
    write(folder, {"seed": SEED, "steps": RECIPES[name].steps} | measured)


BUILDS = {name: partial(build, name) for name in RECIPES}
