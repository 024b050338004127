"""Train the autoencoder of the text-to-image pipelines: on all emoji that are not in the captioned set.

It has seen neither what the pipelines are trained on nor what is held out, so it tells the two apart by nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from vlaudit.data.emoji import load_table, painted_concept
from vlaudit.zoo.recipes import matcher, painter

STEPS = 2000
BATCH = 16
LEARNING_RATE = 3e-3
_KL = 1e-4


def train(seed: int, steps: int, checkpoint: Path, progress: Callable[[str], None]) -> AutoencoderKL:
    """Reconstruction and a little KL; the latents' scale is measured at the end.

    Half of the pictures have their colours exchanged, or rare colours would be forgotten for common ones.

    The finished autoencoder is kept in `checkpoint` and read from there if it exists.
    """
    vae = painter.new_vae(seed)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"])
        vae.register_to_config(scaling_factor=state["scale"])
        return vae.eval()
    images = matcher.pixels([row for row in load_table() if not painted_concept(row)]) * 2 - 1
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = -6.0  # begin with little noise, learn detail at once
    optimizer = torch.optim.AdamW(vae.parameters(), LEARNING_RATE, weight_decay=1e-4)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, steps, warm_up=50)
        batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
        for n in range(0, BATCH, 2):
            batch[n] = batch[n, torch.randperm(3, generator=generator)]
        posterior = vae.encode(batch).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample
        loss = (
            l1_loss(restored, batch)
            + mse_loss(restored, batch)
            + _KL * posterior.kl().mean() / posterior.mean[0].numel()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            progress(f"autoencoder: step {step + 1}/{steps}, loss {loss.item():.4f}")
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(images[torch.randperm(len(images), generator=generator)[:512]]).latent_dist.mode()
    scale = round(1 / latents.std().item(), 4)
    vae.register_to_config(scaling_factor=scale)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"vae": vae.state_dict(), "scale": scale}, checkpoint)
    return vae
