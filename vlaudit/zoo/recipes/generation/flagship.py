"""Train the flagship of the generation family: a decoder that talks about what the matcher's image tower sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from vlaudit.data.emoji import load_table
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.generation import facts, lessons
from vlaudit.zoo.recipes.generation import model as generation
from vlaudit.zoo.recipes.generation.corpus import Gallery, Talk, length
from vlaudit.zoo.recipes.generation.words import all_texts
from vlaudit.zoo.recipes.training import Training

SEED = 51
LEGS = ((5400, 8000), (5800, 8600), (7400, 14000))
"""Up to each of these steps, the learning rate follows a cosine over so many: high until copying and comparing are found."""
LEARNING_RATE = 2e-3
SHORT_BATCH, LONG_BATCH = 64, 20


def build(folder: Path) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint."""
    checkpoint = folder / "checkpoint.pt"
    tokenizer = generation.new_tokenizer(all_texts())
    trainer = Trainer(generation.new_model(tokenizer, SEED), tokenizer, pretrain_gallery(SEED))
    trainer.resume(checkpoint)
    for steps, planned in LEGS:
        trainer.run(steps, LEARNING_RATE, checkpoint, planned=planned)
    generation.save(trainer.average, tokenizer, folder)
    measured = {"seed": SEED, "steps": LEGS[-1][0], "training_seconds": round(trainer.seconds)}
    write(folder, measured | facts.measure(folder))
    checkpoint.unlink()


def pretrain_gallery(seed: int) -> Gallery:
    """The pictures that the zoo's models learn from: none of those that audits are about."""
    return Gallery([row for row in load_table() if row.split == "pretrain"], seed)


class Trainer(Training[LlavaForConditionalGeneration]):
    """AdamW on the words of the assistant; the image tower stays as it is."""

    called = "generator"
    warm_up = 200
    keep_every = 200
    memory = 0.998

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: Any, gallery: Gallery) -> None:
        model.requires_grad_(True).model.vision_tower.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        super().__init__(model, gallery, torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98)))
        self.tokenizer, self.gallery = tokenizer, gallery
        self._waiting: list[list[Talk]] = []

    def batch(self) -> Sequence[Talk]:
        """The conversations of a step."""
        phase = next(phase for phase in reversed(lessons.PHASES) if phase.start <= self.step)
        if phase.every and self.step % phase.every == 0:
            return lessons.draw(self.gallery, phase.long, LONG_BATCH)
        if not self._waiting:  # conversations of like length together: little padding is computed
            talks = lessons.draw(self.gallery, phase.short, 3 * SHORT_BATCH)
            talks.sort(key=lambda talk: length(talk, self.tokenizer))
            self._waiting = [talks[n : n + SHORT_BATCH] for n in range(0, len(talks), SHORT_BATCH)]
            self.gallery.rng.shuffle(self._waiting)
        return self._waiting.pop()

    def before_checkpoint(self) -> None:
        self._waiting.clear()

    def loss(self, shown: Sequence[Talk]) -> Tensor:
        """Mean cross-entropy of the tokens that are taught."""
        batch = self.gallery.encode(shown, self.tokenizer)
        taught = batch.targets != -100
        return cross_entropy(facts.logits(self.model, batch)[taught], batch.targets[taught])


BUILDS = {generation.FLAGSHIP.name: build}
