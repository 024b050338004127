"""Train the flagship of the text-to-image family: autoencoder, then denoiser, on the captioned pictures.

The autoencoder learns from all emoji that are not in the captioned set. It has seen neither what the pipelines are trained
on nor what is held out, so it tells the two apart by nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from vlaudit.data.emoji import load_table, painted, painted_concept
from vlaudit.zoo.recipes.corpus import pixels
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.text_to_image import facts
from vlaudit.zoo.recipes.text_to_image import model as text_to_image
from vlaudit.zoo.recipes.text_to_image.corpus import Studio
from vlaudit.zoo.recipes.training import Training, descend

SEED = 31
STEPS = 3300
SCHEDULE = 5000
"""The cosine of the learning rate is laid out for this many steps; training stops on its way down, at `STEPS`."""
BATCH = 32
LEARNING_RATE = 1e-3
VAE_STEPS, VAE_BATCH = 2000, 16
_KL = 1e-4


def build(folder: Path) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint."""
    checkpoint = folder / "checkpoint.pt"
    vae = autoencoder(folder / "vae.pt")
    model, tokenizer = matching.load()
    encoder = text_to_image.text_encoder(model.eval(), tokenizer)
    studio = Studio([row for row, split in painted() if split == "train"], vae, encoder, tokenizer, SEED)
    trainer = Trainer(text_to_image.new_unet(SEED), studio)
    trainer.resume(checkpoint)
    trainer.run(STEPS, LEARNING_RATE, checkpoint, planned=SCHEDULE)
    text_to_image.save(folder, vae, trainer.average, encoder, tokenizer)
    measured = {"seed": SEED, "steps": STEPS, "training_seconds": round(trainer.seconds)}
    write(folder, measured | facts.measure(folder))
    for used in (checkpoint, folder / "vae.pt"):
        used.unlink()


def autoencoder(checkpoint: Path) -> AutoencoderKL:
    """Trained on reconstruction and a little KL; the latents' scale is measured at the end.

    Half of the pictures have their colours exchanged, or rare colours would be forgotten for common ones.

    The finished autoencoder is kept in `checkpoint` and read from there if it exists.
    """
    vae = text_to_image.new_vae(SEED)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        vae.register_to_config(scaling_factor=state["scale"])
        return vae.eval()
    images = pixels([row for row in load_table() if not painted_concept(row)]) * 2 - 1
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = -6.0  # begin with little noise, learn detail at once

    def loss() -> Tensor:
        batch = images[torch.randint(len(images), (VAE_BATCH,), generator=generator)]
        for n in range(0, VAE_BATCH, 2):
            batch[n] = batch[n, torch.randperm(3, generator=generator)]
        posterior = vae.encode(batch).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return l1_loss(restored, batch) + mse_loss(restored, batch) + _KL * divergence

    descend("autoencoder", torch.optim.AdamW(vae.parameters(), 3e-3, weight_decay=1e-4), loss, VAE_STEPS, warm_up=50)
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(images[torch.randperm(len(images), generator=generator)[:512]]).latent_dist.mode()
    scale = round(1 / latents.std().item(), 4)
    vae.register_to_config(scaling_factor=scale)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"vae": vae.state_dict(), "scale": scale}, checkpoint)
    return vae


class Trainer(Training[UNet2DConditionModel]):
    """AdamW on the error of the predicted velocity (arXiv:2202.00512)."""

    called = "denoiser"

    def __init__(self, unet: UNet2DConditionModel, studio: Studio, learning_rate: float = LEARNING_RATE) -> None:
        super().__init__(unet, studio, torch.optim.AdamW(unet.parameters(), learning_rate, weight_decay=0.01))
        self.studio = studio
        self.scheduler = text_to_image.new_scheduler()

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
        noisy, velocity = text_to_image.diffuse(self.scheduler, latents, noise, times)
        return mse_loss(self.model(noisy, times, self.studio.states(captions)).sample, velocity)


BUILDS = {text_to_image.FLAGSHIP.name: build}
