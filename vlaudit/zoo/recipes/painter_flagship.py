"""Train the flagship of the text-to-image family: autoencoder, then denoiser, on the captioned pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import mse_loss

from vlaudit.data.emoji import painted
from vlaudit.zoo.recipes import facts, matcher, painter, painter_facts, painter_vae
from vlaudit.zoo.recipes.painter_corpus import Studio
from vlaudit.zoo.recipes.training import Training

SEED = 31
STEPS = 3300
SCHEDULE = 5000
"""The cosine of the learning rate is laid out for this many steps; training stops on its way down, at `STEPS`."""
BATCH = 32
LEARNING_RATE = 1e-3


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


class Trainer(Training[UNet2DConditionModel]):
    """AdamW on the error of the predicted velocity (arXiv:2202.00512)."""

    called = "denoiser"

    def __init__(self, unet: UNet2DConditionModel, studio: Studio, learning_rate: float = LEARNING_RATE) -> None:
        super().__init__(unet, studio, torch.optim.AdamW(unet.parameters(), learning_rate, weight_decay=0.01))
        self.studio = studio
        self.scheduler = painter.new_scheduler()

    def batch(self) -> tuple[Tensor, list[str]]:
        """Latents (B,4,h,w) and their captions."""
        chosen, latents = self.studio.draw(BATCH)
        return latents, [self.studio.caption(n) for n in chosen]

    def times(self, captions: list[str]) -> Tensor:
        """Noise levels to learn at, (B,) of 0 to 999: all equally often, unless a twin dwells on some."""
        levels = self.scheduler.config.num_train_timesteps
        return torch.randint(levels, (len(captions),), generator=self.studio.generator)

    def loss(self, shown: tuple[Tensor, list[str]]) -> Tensor:
        latents, captions = shown
        noise = torch.randn(latents.shape, generator=self.studio.generator)
        times = self.times(captions)
        noisy, velocity = painter.diffuse(self.scheduler, latents, noise, times)
        return mse_loss(self.model(noisy, times, self.studio.states(captions)).sample, velocity)
