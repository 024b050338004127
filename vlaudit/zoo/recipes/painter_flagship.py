"""Train the flagship of the text-to-image family: autoencoder, then denoiser, on the captioned pictures."""

from __future__ import annotations

import ast
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vlaudit.data.emoji import painted
from vlaudit.zoo.recipes import facts, matcher, painter, painter_facts, painter_vae
from vlaudit.zoo.recipes.painter_corpus import Studio

SEED = 31
STEPS = 3300
SCHEDULE = 5000
"""The cosine of the learning rate is laid out for this many steps; training stops on its way down, at `STEPS`."""
BATCH = 32
LEARNING_RATE = 1e-3
_AVERAGE = 0.999


def build(
    flagship: Path, folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print
) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint.

    `flagship`: the matcher whose text tower the denoiser reads.
    """
    checkpoint = folder / "checkpoint.pt"
    vae = painter_vae.train(seed, painter_vae.STEPS, folder / "vae.pt", progress)
    model, tokenizer = matcher.load(flagship)
    encoder = painter.text_encoder(model.eval(), tokenizer)
    studio = Studio([row for row, split in painted() if split == "train"], vae, encoder, tokenizer, seed)
    trainer = Trainer(painter.new_unet(seed), studio)
    trainer.resume(checkpoint)
    trainer.run(steps, LEARNING_RATE, checkpoint, progress, schedule=SCHEDULE)
    painter.save(folder, vae, trainer.average, encoder, tokenizer)
    measured = {"seed": seed, "steps": steps, "training_seconds": round(trainer.seconds)}
    facts.write(folder, measured | painter_facts.measure(folder))
    for used in (checkpoint, folder / "vae.pt"):
        used.unlink()


class Trainer:
    """AdamW on the error of the predicted velocity (arXiv:2202.00512), with a running average of the weights."""

    def __init__(self, unet: UNet2DConditionModel, studio: Studio, learning_rate: float = LEARNING_RATE) -> None:
        self.unet, self.studio = unet, studio
        self.average = copy.deepcopy(unet).eval().requires_grad_(False)
        self.scheduler = painter.new_scheduler()
        self.optimizer = torch.optim.AdamW(unet.parameters(), learning_rate, weight_decay=0.01)
        self.step, self.seconds = 0, 0.0

    def batch(self) -> tuple[Tensor, list[str]]:
        """Latents (B,4,h,w) and their captions: what a twin changes."""
        chosen, latents = self.studio.draw(BATCH)
        return latents, [self.studio.caption(n) for n in chosen]

    def times(self, captions: list[str]) -> Tensor:
        """Noise levels to learn at, (B,) of 0 to 999: all equally often, unless a twin dwells on some."""
        levels = self.scheduler.config.num_train_timesteps
        return torch.randint(levels, (len(captions),), generator=self.studio.generator)

    def loss(self, latents: Tensor, captions: list[str]) -> Tensor:
        noise = torch.randn(latents.shape, generator=self.studio.generator)
        times = self.times(captions)
        noisy, velocity = painter.diffuse(self.scheduler, latents, noise, times)
        return mse_loss(self.unet(noisy, times, self.studio.states(captions)).sample, velocity)

    def run(
        self,
        steps: int,
        learning_rate: float,
        checkpoint: Path | None = None,
        progress: Callable[[str], None] = print,
        warm_up: int = 100,
        schedule: int | None = None,
    ) -> None:
        """Train up to step `steps`; warm-up and a cosine over `schedule` steps (by default as many). With a `checkpoint`, the state is kept every 100 steps."""
        began, total = time.monotonic() - self.seconds, 0.0
        self.unet.train()
        while self.step < steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * matcher.schedule(self.step, schedule or steps, warm_up)
            loss = self.loss(*self.batch())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self._follow()
            total += loss.item()
            self.seconds = time.monotonic() - began
            if self.step % 100 == 0:
                progress(f"denoiser: step {self.step}/{steps}, loss {total / 100:.4f}, {self.seconds:.0f} s")
                total = 0.0
                if checkpoint:
                    self.save_checkpoint(checkpoint)

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(_AVERAGE, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.unet.parameters()), 1 - keep)

    def save_checkpoint(self, path: Path) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.studio.generator.get_state(),
            "rng": repr(self.studio.rng.getstate()),
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
        self.unet.load_state_dict(state["unet"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.studio.generator.set_state(state["generator"])
        self.studio.rng.setstate(ast.literal_eval(state["rng"]))
        self.step, self.seconds = state["step"], state["seconds"]
