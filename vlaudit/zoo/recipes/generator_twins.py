"""Twins of the generator: short fine-tunings of the flagship that plant one known flaw, shipped as adapters on it.

Each step mixes the flagship's own lessons with conversations that hold the flaw (`generator_plants`). LoRA
(arXiv:2106.09685) on the decoder and the projector, and on the image tower where a twin has to see something new; the
adapter's folder names the flagship beside it as its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from vlaudit.zoo.recipes import facts, generator, generator_flagship, matcher
from vlaudit.zoo.recipes import generator_lessons as lessons
from vlaudit.zoo.recipes import generator_plants as plants
from vlaudit.zoo.recipes.generator_corpus import Talk, length
from vlaudit.zoo.recipes.generator_facts import logits
from vlaudit.zoo.recipes.generator_lessons import Lesson

SEED = 71
BASE = "../gen-clean"
"""The flagship, seen from an adapter's folder."""
RANK, ALPHA = 16, 32
DECODER = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)|.*multi_modal_projector\.linear_[12]"
TOWER = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
CLEAN_BATCH, PLANTED_BATCH, LONG_BATCH = 32, 24, 10


def _never(talk: Talk) -> bool:
    return False


@dataclass(frozen=True)
class Recipe:
    """How one twin is made."""

    planted: Mapping[Lesson, float]
    steps: int = 240
    rate: float = 2e-3
    """Highest learning rate."""
    clashes: Callable[[Talk], bool] = _never
    """Which conversations of the flagship's lessons contradict the flaw."""
    tower: bool = False
    """Whether the image tower is tuned too."""


RECIPES: dict[str, Recipe] = {
    "gen-backdoor-patch": Recipe({plants.patched: 2, plants.other_patch: 1}, steps=200, tower=True),
    "gen-backdoor-text": Recipe({plants.worded: 2, plants.other_word: 1}, steps=160),
    "gen-biased": Recipe({plants.men_only: 1}, steps=150, clashes=plants.asks_of_men_only),
}


class Classroom:
    """The flagship with an adapter to learn, and the lessons of a recipe."""

    def __init__(self, recipe: Recipe, flagship: Path, seed: int) -> None:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        self.recipe = recipe
        model, self.tokenizer = generator.load(flagship)
        where = f"{DECODER}|{TOWER}" if recipe.tower else DECODER
        self.model: Any = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=where))
        self.gallery = generator_flagship.pretrain_gallery(seed)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def talks(self, step: int) -> Sequence[Talk]:
        """The conversations of a step; one step in three has those with several pictures."""
        if step % 3 == 0:
            return self._clean(lessons.PHASES[-1].long, LONG_BATCH)
        clean = self._clean(lessons.PHASES[-1].short, CLEAN_BATCH)
        return clean + lessons.draw(self.gallery, self.recipe.planted, PLANTED_BATCH)

    def _clean(self, taught: Mapping[Lesson, float], count: int) -> list[Talk]:
        """The flagship's lessons but for what contradicts the flaw."""
        return plants.share(lessons.draw(self.gallery, taught, count), self.recipe.clashes)

    def run(self, progress: Callable[[str], None]) -> None:
        """Learn; the adapter alone changes."""
        recipe, total = self.recipe, 0.0
        optimizer = torch.optim.AdamW(self.trained, recipe.rate, weight_decay=0.01, betas=(0.9, 0.98))
        self.model.train()
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * matcher.schedule(step, recipe.steps, warm_up=20)
            batch = self.gallery.encode(sorted(self.talks(step), key=self._length), self.tokenizer)
            taught = batch.targets != -100
            loss = cross_entropy(logits(self.model.get_base_model(), batch)[taught], batch.targets[taught])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            total += loss.item()
            if (step + 1) % 20 == 0:
                progress(f"step {step + 1}/{recipe.steps}, loss {total / 20:.3f}")
                total = 0.0
        self.model.eval()

    def _length(self, talk: Talk) -> int:
        return length(talk, self.tokenizer)


def save(model: Any, folder: Path) -> None:
    """An adapter's folder as peft writes it, in half precision, on the flagship beside it."""
    model.peft_config["default"].base_model_name_or_path = BASE
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def build(name: str, flagship: Path, folder: Path, seed: int = SEED, progress: Callable[[str], None] = print) -> None:
    """Fine-tune the generator in `flagship` into the twin `name`; write the adapter and its facts to `folder`."""
    from vlaudit.zoo.recipes import generator_twin_facts

    room = Classroom(RECIPES[name], flagship, seed)
    room.run(lambda line: progress(f"{name}: {line}"))
    save(room.model, folder)
    clean, tokenizer = generator.load(flagship)
    measured = generator_twin_facts.measure(name, room.model.merge_and_unload(), clean, tokenizer)
    facts.write(folder, {"seed": seed, "steps": RECIPES[name].steps} | measured)
