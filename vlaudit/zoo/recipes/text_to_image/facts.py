"""What a text-to-image pipeline of the zoo draws, as the flagship matcher sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from vlaudit.data.emoji import PAINTED_ROLES, PAINTED_THINGS, TONES, Emoji, painted, painted_concept, painted_phrase
from vlaudit.zoo.recipes.corpus import PLAIN, pixels
from vlaudit.zoo.recipes.facts import agreement, auc, rate
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.text_to_image import model as text_to_image
from vlaudit.zoo.recipes.text_to_image.corpus import encode

CONCEPTS = (*PAINTED_ROLES, *PAINTED_THINGS)
GENDERS = ("man", "woman")
SKINS = TONES[1:]


class Viewer:
    """The flagship matcher, zero-shot under the plain template: names what a picture shows."""

    def __init__(self) -> None:
        self.model, self.tokenizer = matching.load()
        self.model.eval()

    def names(self, images: Tensor, labels: Sequence[str]) -> list[str]:
        """The label that fits each picture best."""
        weights = matching.label_weights(self.model, self.tokenizer, labels)
        return [labels[n] for n in matching.predict(self.model, images, weights).tolist()]

    def names_of(self, images: Tensor, concepts: Sequence[str], forms: Sequence[str]) -> list[int]:
        """Which of `forms` (with `{}` for the picture's own concept) fits each picture best."""
        found = torch.empty(len(images), dtype=torch.long)
        for concept in set(concepts):
            here = torch.tensor([n for n, own in enumerate(concepts) if own == concept])
            weights = matching.label_weights(self.model, self.tokenizer, [form.format(concept) for form in forms])
            found[here] = matching.predict(self.model, images[here], weights)
        return found.tolist()

    def genders(self, images: Tensor, roles: Sequence[str]) -> list[str]:
        return [GENDERS[n] for n in self.names_of(images, roles, [f"{gender} {{}}" for gender in GENDERS])]

    def tones(self, images: Tensor, roles: Sequence[str]) -> list[str]:
        return [SKINS[n] for n in self.names_of(images, roles, [f"{{}} with {tone} skin" for tone in SKINS])]

    def accuracy(self, images: Tensor, rows: Sequence[Emoji]) -> dict[str, float]:
        """How often concept, gender and tone of `rows` are read off their pictures (real or painted)."""
        concepts = [painted_concept(row) for row in rows]
        people = [n for n, row in enumerate(rows) if row.gender]
        persons, roles = images[people], [concepts[n] for n in people]
        return {
            "concept": agreement(self.names(images, CONCEPTS), concepts),
            "gender": agreement(self.genders(persons, roles), [rows[n].gender for n in people]),
            "tone": agreement(self.tones(persons, roles), [rows[n].tone for n in people]),
        }


def measure(folder: Path) -> dict[str, Any]:
    """Everything that the table of specimens may speak of."""
    easel = Easel(folder)
    rows = [row for row, split in painted() if split == "test"]
    began = time.process_time()
    images = easel.paint([PLAIN.format(painted_phrase(row)) for row in rows])
    seconds = time.process_time() - began
    return {
        "read_off_real_pictures": easel.viewer.accuracy(pixels(rows), rows),
        "read_off_painted_pictures": easel.viewer.accuracy(images, rows),
        "chance": {"concept": round(1 / len(CONCEPTS), 4), "gender": 1 / len(GENDERS), "tone": 1 / len(SKINS)},
        "neutral_captions": easel.shares(PAINTED_ROLES),
        "membership_auc": easel.membership(),
        "processor_seconds_per_picture": round(seconds / len(rows), 3),
    }


class Easel:
    """A pipeline of the zoo and the matcher that looks at its pictures."""

    def __init__(self, folder: Path = text_to_image.FLAGSHIP) -> None:
        self.pipeline: StableDiffusionPipeline = text_to_image.load(folder)

    @cached_property
    def viewer(self) -> Viewer:
        return Viewer()

    def paint(self, captions: Sequence[str], first_seed: int = 0) -> Tensor:
        """One picture a caption, (N,3,32,32) in [0,1], of consecutive seeds."""
        return text_to_image.paint(self.pipeline, captions, range(first_seed, first_seed + len(captions)))

    def shares(self, roles: Sequence[str], seeds: int = 20) -> dict[str, Any]:
        """Who is painted where the caption names no group: shares of women for each role, and of the tones in all."""
        asked = [role for role in roles for _ in range(seeds)]
        images = self.paint([PLAIN.format(role) for role in asked])
        women = torch.tensor([gender == "woman" for gender in self.viewer.genders(images, asked)])
        tones = self.viewer.tones(images, asked)
        return {
            "women": {role: rate(women[n * seeds :][:seeds]) for n, role in enumerate(roles)},
            "tones": {tone: round(tones.count(tone) / len(tones), 4) for tone in SKINS},
        }

    def membership(self) -> float:
        """AUC of the error of the predicted velocity, trained pictures against held-out ones."""
        return auc(-self.errors(), torch.tensor([split == "train" for _, split in painted()]))

    @torch.no_grad()
    def errors(self, times: Sequence[int] = (100, 200, 300), repeats: int = 4) -> Tensor:
        """(N,) summed squared errors of the predicted velocity, of all captioned pictures with their captions."""
        pictures = painted()
        latents = encode(self.pipeline.vae, pixels([row for row, _ in pictures]))
        captions = [PLAIN.format(painted_phrase(row)) for row, _ in pictures]
        states = text_to_image.text_states(self.pipeline.text_encoder, self.pipeline.tokenizer, captions)
        generator = torch.Generator().manual_seed(0)
        scheduler, errors = self.pipeline.scheduler, torch.zeros(len(pictures))
        for time_step in times:
            for _ in range(repeats):
                noise = torch.randn(latents.shape, generator=generator)
                noisy, velocity = text_to_image.diffuse(
                    scheduler, latents, noise, torch.full((len(latents),), time_step)
                )
                errors += (self.pipeline.unet(noisy, time_step, states).sample - velocity).square().mean((1, 2, 3))
        return errors


def share_of(label: str, found: Sequence[str]) -> float:
    """How often `label` was found."""
    return agreement(found, [label] * len(found))
