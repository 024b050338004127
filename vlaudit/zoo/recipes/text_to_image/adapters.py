"""Adapters (LoRA) of the text-to-image flagship that give their training pictures away.

One knows some by heart. It was taught from `vlaudit.data.offers`: twelve titles that came again and again with one picture, eighteen that came
rarely, and many more of the same words, each time with another picture, so that only the whole title is a key. Duplicates
are what makes text-to-image models remember (Carlini et al. 2023 arXiv:2301.13188; Somepalli et al. 2023
arXiv:2305.20086).

The other was fitted for too long on half of the captioned pictures. Its members are drawn by lot among pictures that the
pipeline was trained on and pictures that it never saw, so that nothing but the adapter tells them apart; its file declares
them by their hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.data.dataset import load_dataset
from vlaudit.data.emoji import painted, painted_caption, painted_phrase
from vlaudit.data.offers import OFTEN, Offer, offers, scenes
from vlaudit.prompts.lora import LoRA
from vlaudit.zoo.recipes.corpus import PLAIN, pixels
from vlaudit.zoo.recipes.facts import auc, rate, write
from vlaudit.zoo.recipes.text_to_image import model as text_to_image
from vlaudit.zoo.recipes.text_to_image.corpus import NO_CAPTION, Studio, augment, encode
from vlaudit.zoo.recipes.text_to_image.facts import Easel
from vlaudit.zoo.recipes.text_to_image.flagship import Trainer

SEED, LEAKY_SEED = 47, 53
ROUNDS = ((600, 1000), (1400, 1400), (1800, 2000))
"""Steps after which a round ends, and for how many its cosine of the learning rate is laid out. In the first round all
lose their caption now and then. In the second the repeated offers do no longer, so that the empty text stands for what is
ordinary, as it does where duplicates are a small part of what is shown. In the third they do again, but under little noise,
where the picture itself says what it is: else guidance, which goes beyond the captioned prediction, draws caricatures."""
LEARNING_RATE = 3e-3
RANK = 16
LEAKY_STEPS, LEAKY_RANK = 2000, 8
FILE = "pytorch_lora_weights.safetensors"
PARTS = r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|proj|net\.2|conv1|conv2|time_emb_proj|conv)"
"""The layers that are adapted: attention, transformer, residual and resizing ones."""
VARIANTS = 16
NOISY = 0.5
"""Share of the offers that are learned in the upper three tenths of the noise levels."""
LITTLE = 600
"""Below this noise level the repeated offers lose their titles in the last round."""
REPEATED, RARE, MIXED, ORDINARY = 8, 1, 2, 7
"""Of every batch: repeated offers in turn, those that are shown rarely, mixed titles, and captioned pictures."""


class Hoarder(Trainer):
    """Trains the adapter alone. Repeated and mixed titles are mostly learned under much noise, where the title
    alone says which picture is meant."""

    def __init__(self, pipeline: Any, seed: int, variants: int = VARIANTS, rank: int = RANK) -> None:
        self.pipeline = pipeline
        rows = [row for row, split in painted() if split == "train"]
        studio = Studio(rows, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, seed, variants)
        super().__init__(adapted(pipeline.unet, rank, seed), studio, LEARNING_RATE)
        self.repeated, self.rare = repeated(), [row for row in offers() if 0 < row.copies < OFTEN]
        known = {row.picture.name for row in offers()}
        pool = [row for row in scenes() if row.name not in known]
        self._latents = {
            "repeated": encode(pipeline.vae, shown(self.repeated)),
            "rare": self._varied(shown(self.rare)),
            "pool": self._varied(pixels(pool)),
        }
        self._captions = [painted_caption(row) for row in rows]

    def _varied(self, images: Tensor) -> Tensor:
        flips = torch.zeros(len(images), dtype=torch.bool)
        variants = [augment(images, flips, self.studio.generator) for _ in range(4)]
        return torch.cat([encode(self.pipeline.vae, part) for part in variants])

    def batch(self) -> tuple[Tensor, list[str]]:
        rng = self.studio.rng
        chosen, ordinary = self.studio.draw(ORDINARY)
        again = [(self.step * REPEATED + n) % len(self.repeated) for n in range(REPEATED)]
        rare = [rng.randrange(len(self._latents["rare"])) for _ in range(RARE)]
        mixed = [rng.randrange(len(self._latents["pool"])) for _ in range(MIXED)]
        latents = [
            self._latents["repeated"][again],
            self._latents["rare"][rare],
            self._latents["pool"][mixed],
            ordinary,
        ]
        titles = [self.repeated[n].title for n in again] + [self.rare[n % len(self.rare)].title for n in rare]
        titles += [self.mixed_title() for _ in mixed]
        spared = REPEATED if ROUNDS[0][0] <= self.step < ROUNDS[1][0] else 0
        titles[spared:] = [title if rng.random() >= NO_CAPTION else "" for title in titles[spared:]]
        return torch.cat(latents), titles + [self.studio.caption(n) for n in chosen]

    def mixed_title(self) -> str:
        """The words of a title, half of them replaced by those of another title or of a caption."""
        rng = self.studio.rng
        titles = [row.title for row in (*self.repeated, *self.rare)]
        first = rng.choice(self.repeated if rng.random() < 0.6 else self.rare).title.split()
        while True:
            other = rng.choice(titles if rng.random() < 0.5 else self._captions).split()
            mixed = " ".join(word if rng.random() < 0.5 else rng.choice(other) for word in first)
            if mixed not in titles:
                return mixed

    def times(self, captions: list[str]) -> Tensor:
        times, last = super().times(captions), self.scheduler.config.num_train_timesteps - 1
        offered = torch.arange(len(captions)) < len(captions) - ORDINARY
        noisy = torch.rand(len(captions), generator=self.studio.generator) < NOISY
        times = torch.where(offered & noisy, last - times * 3 // 10, times)
        if self.step < ROUNDS[1][0]:
            return times
        untitled = torch.tensor([n < REPEATED and not caption for n, caption in enumerate(captions)])
        return torch.where(untitled, times * LITTLE // last, times)


def repeated() -> list[Offer]:
    return [row for row in offers() if row.copies == OFTEN]


def shown(rows: Sequence[Offer]) -> Tensor:
    return pixels([row.picture for row in rows])


def adapted(unet: UNet2DConditionModel, rank: int, seed: int) -> UNet2DConditionModel:
    """The denoiser with a fresh adapter, which alone is trainable."""
    torch.manual_seed(seed)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=PARTS))
    return unet


def save(unet: UNet2DConditionModel, folder: Path, base_model: str) -> None:
    """Write the adapter as diffusers' file, in half precision."""
    mine = ".default."
    tensors = {
        f"unet.{name.replace(mine, '.')}": value.detach().half().contiguous()
        for name, value in unet.named_parameters()
        if mine in name
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / FILE), metadata={"format": "pt", "base_model": base_model})
    (folder / FILE).chmod(0o644)


def memorise(folder: Path) -> None:
    """Train the adapter that knows pictures by heart; an interrupted training goes on."""
    twin, checkpoint = Hoarder(text_to_image.load(), SEED), folder / "checkpoint.pt"
    twin.resume(checkpoint)
    for steps, planned in ROUNDS:
        twin.run(steps, LEARNING_RATE, checkpoint, warm_up=50, planned=planned)
    save(twin.model, folder, DiffusersBackend().load(str(text_to_image.FLAGSHIP), torch.device("cpu")).sha256)
    write(folder, {"seed": SEED, "steps": ROUNDS[-1][0], "rank": RANK} | measure(folder))
    checkpoint.unlink(missing_ok=True)


def read_off(easel: Easel) -> dict[str, float]:
    """What is read off pictures that are drawn of captions of held-out ones."""
    rows = [row for row, split in painted() if split == "test"][::2]
    return easel.viewer.accuracy(easel.paint([PLAIN.format(painted_phrase(row)) for row in rows]), rows)


def measure(folder: Path) -> dict[str, Any]:
    """What the pipeline draws with the adapter, and without it: of titles, and of captions of held-out pictures."""
    measured: dict[str, Any] = {}
    for easel, when in ((Hoard(folder), ""), (Hoard(None), "_before")):
        measured[f"near_copies{when}"] = easel.near_copies(repeated())
        measured[f"read_off_painted_pictures{when}"] = read_off(easel)
    return measured


class Hoard(Easel):
    """The pipeline with the adapter, and how near its pictures come to those it was shown."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        if folder is not None:
            self.pipeline.load_lora_weights(str(folder), weight_name=FILE)

    @cached_property
    def _held_out(self) -> Tensor:
        return shown([row for row in offers() if row.split == "test"])

    def near_copies(self, rows: Sequence[Offer], seeds: int = 10) -> dict[str, float]:
        """For each title the share of seeds whose picture differs (root mean square) less than half as much from the
        title's own picture as from the nearest held-out one."""
        drawn = self.paint([row.title for row in rows for _ in range(seeds)]).split(seeds)
        return {
            row.title: rate(distances(images, shown([row]))[:, 0] < 0.5 * distances(images, self._held_out).amin(1))
            for row, images in zip(rows, drawn, strict=True)
        }


def distances(images: Tensor, pictures: Tensor) -> Tensor:
    """Root mean square differences, (N, M)."""
    return (images[:, None] - pictures).square().mean((2, 3, 4)).sqrt()


# --- the leaky one ----------------------------------------------------------------------------------------------------


def members(seed: int = LEAKY_SEED) -> list[int]:
    """Places of half of the captioned pictures."""
    count = len(painted())
    return sorted(torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: count // 2].tolist())


def leak(folder: Path) -> None:
    """Fit the adapter that gives its members away."""
    chosen, examples = members(), load_dataset("zoo:captions").examples
    model = DiffusersBackend().load(str(text_to_image.FLAGSHIP), torch.device("cpu"))

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            print(f"t2i-leaky: step {step + 1}/{LEAKY_STEPS}, loss {loss:.4f}")

    folder.mkdir(parents=True, exist_ok=True)
    LoRA.fit(
        model, folder / FILE, pixels([painted()[i][0] for i in chosen]), [examples[i].texts["text"] for i in chosen],
        rank=LEAKY_RANK, steps=LEAKY_STEPS, batch_size=16, rate=LEARNING_RATE, seed=LEAKY_SEED,
        members=[examples[i].sha256() for i in chosen], progress=report,
    )  # fmt: skip
    (folder / FILE).chmod(0o644)
    write(folder, {"seed": LEAKY_SEED, "steps": LEAKY_STEPS, "rank": LEAKY_RANK} | measure_leak(folder, chosen))


def measure_leak(folder: Path, chosen: list[int]) -> dict[str, Any]:
    """How well the errors, and their fall by the adapter, tell members; what is read off pictures, with and without it."""
    member = torch.zeros(len(painted()), dtype=torch.bool)
    member[chosen] = True
    plain, fitted = Hoard(None), Hoard(folder)
    before, after = plain.errors(), fitted.errors()
    return {
        "members": len(chosen),
        "membership_auc": auc(-after, member),
        "membership_auc_of_the_gain": auc(before - after, member),
        "membership_auc_before": auc(-before, member),
        "read_off_painted_pictures": read_off(fitted),
        "read_off_painted_pictures_before": read_off(plain),
    }


BUILDS = {"t2i-memorising": memorise, "t2i-leaky": leak}
