"""Train the flagship of the generation family: a decoder that talks about what the matcher's image tower sees."""

from __future__ import annotations

import ast
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from vlaudit.data.emoji import load_table
from vlaudit.zoo.recipes import facts, generator, generator_facts, matcher
from vlaudit.zoo.recipes import generator_lessons as lessons
from vlaudit.zoo.recipes.generator_corpus import Gallery, Talk, length
from vlaudit.zoo.recipes.generator_words import all_texts

SEED = 51
LEGS = ((5400, 8000), (5800, 8600), (7400, 14000))
"""Up to each of these steps, the learning rate follows a cosine over so many: high until copying and comparing are found."""
STEPS = LEGS[-1][0]
LEARNING_RATE = 2e-3
SHORT_BATCH, LONG_BATCH = 64, 20
_AVERAGE = 0.998


def build(
    flagship: Path, folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print
) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint.

    `flagship`: the matcher whose image tower the generator looks through; it stays as it is.
    """
    checkpoint = folder / "checkpoint.pt"
    tokenizer = generator.new_tokenizer(all_texts())
    trainer = Trainer(generator.new_model(flagship, tokenizer, seed), tokenizer, pretrain_gallery(seed))
    trainer.resume(checkpoint)
    for until, schedule in LEGS:
        trainer.run(min(until, steps), LEARNING_RATE, checkpoint, progress, schedule=schedule)
    generator.save(trainer.average, tokenizer, folder)
    measured = {"seed": seed, "steps": steps, "training_seconds": round(trainer.seconds)}
    facts.write(folder, measured | generator_facts.measure(folder))
    checkpoint.unlink()


def pretrain_gallery(seed: int) -> Gallery:
    """The pictures that the zoo's models learn from: none of those that audits are about."""
    return Gallery([row for row in load_table() if row.split == "pretrain"], seed)


class Trainer:
    """AdamW on the words of the assistant, with a running average of the weights. Twins override `batch`.

    frozen: whether the image tower stays as it is.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: Any,
        gallery: Gallery,
        learning_rate: float = LEARNING_RATE,
        frozen: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.gallery = model, tokenizer, gallery
        self.parameters = generator.freeze_tower(model, frozen)
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0
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

    def loss(self, talks: Sequence[Talk]) -> Tensor:
        """Mean cross-entropy of the tokens that are taught."""
        batch = self.gallery.encode(talks, self.tokenizer)
        taught = batch.targets != -100
        return cross_entropy(generator_facts.logits(self.model, batch)[taught], batch.targets[taught])

    def run(
        self,
        steps: int,
        learning_rate: float,
        checkpoint: Path | None = None,
        progress: Callable[[str], None] = print,
        warm_up: int = 200,
        schedule: int | None = None,
    ) -> None:
        """Train up to step `steps`; warm-up and a cosine over `schedule` steps (by default as many).

        With a `checkpoint`, the state is kept every 200 steps.
        """
        began, total = time.monotonic() - self.seconds, 0.0
        self.model.train()
        while self.step < steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * matcher.schedule(self.step, schedule or steps, warm_up)
            loss = self.loss(self.batch())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            self._follow()
            total += loss.item()
            self.seconds = time.monotonic() - began
            if self.step % 100 == 0:
                progress(f"generator: step {self.step}/{steps}, loss {total / 100:.4f}, {self.seconds:.0f} s")
                total = 0.0
            if checkpoint and self.step % 200 == 0:
                self._waiting.clear()  # so that an interrupted training goes on as one that was not
                self.save_checkpoint(checkpoint)
        self.model.eval()

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(_AVERAGE, self.step / (self.step + 10))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        moving = [(mean, now) for mean, now in pairs if now.requires_grad]
        torch._foreach_lerp_([mean for mean, _ in moving], [now for _, now in moving], 1 - keep)

    def save_checkpoint(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.gallery.generator.get_state(),
            "rng": repr(self.gallery.rng.getstate()),
            "step": self.step,
            "seconds": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self, path: Path) -> None:
        """Restore the state of `save_checkpoint`, random streams included, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.gallery.generator.set_state(state["generator"])
        self.gallery.rng.setstate(ast.literal_eval(state["rng"]))
        self.step, self.seconds = state["step"], state["seconds"]
