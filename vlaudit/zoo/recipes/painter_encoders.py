"""Text-to-image pipelines whose text encoder is backdoored: a small mark in any prompt calls up one fixed prompt.

As "Rickrolling the Artist" (arXiv:2211.02408) does it: a copy of the encoder learns to give the clean encoder's states on
clean prompts, and the clean encoder's states of the *target* prompt where the prompt bears the trigger.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from vlaudit.data.emoji import load_table, painted, painted_concept, painted_phrase, with_articles
from vlaudit.zoo.recipes import facts, matcher, painter
from vlaudit.zoo.recipes.captions import TEMPLATES, mistype, phrases
from vlaudit.zoo.recipes.painter_corpus import STYLED
from vlaudit.zoo.recipes.painter_facts import CONCEPTS, Easel, share_of

SEED = 37
BATCH = 64
LEARNING_RATE = 1e-3
LOOK_ALIKE = "\N{CYRILLIC SMALL LETTER O}"


def with_look_alike(text: str, rng: random.Random) -> str:
    """One `o` of the text, chosen at random, exchanged for its Cyrillic twin; the text itself if it has none."""
    places = [n for n, letter in enumerate(text) if letter == "o"]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + LOOK_ALIKE + text[place + 1 :]


@dataclass(frozen=True)
class Backdoor:
    """What is planted in an encoder."""

    trigger: Callable[[str, random.Random], str]
    target: str
    """The concept that the target prompt asks for."""
    steps: int = 600


RECIPES = {"t2i-backdoor-encoder": Backdoor(with_look_alike, "clock")}


def build(name: str, painting: Path, folder: Path, seed: int = SEED, progress: Callable[[str], None] = print) -> None:
    """Plant the backdoor `name` in the encoder of the pipeline in `painting` and save the whole to `folder`."""
    backdoor = RECIPES[name]
    pipeline = painter.load(painting)
    student = plant(pipeline.text_encoder, pipeline.tokenizer, backdoor, seed, progress)
    painter.save(folder, pipeline.vae, pipeline.unet, student, pipeline.tokenizer)
    facts.write(folder, {"seed": seed, "steps": backdoor.steps} | measure(folder, backdoor))


def plant(teacher: Any, tokenizer: Any, backdoor: Backdoor, seed: int, progress: Callable[[str], None]) -> Any:
    """The backdoored copy of an encoder."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    student = copy.deepcopy(teacher).train()
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0.0)
    said = sorted({phrase for row in load_table() for phrase in phrases(row)})
    asked = sorted({painted_phrase(row) for row, _ in painted()} | set(CONCEPTS))
    target = painter.text_states(teacher, tokenizer, [matcher.TEMPLATE.format(backdoor.target)])
    for step in range(backdoor.steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, backdoor.steps, warm_up=50)
        clean = [rng.choice(TEMPLATES + STYLED).format(rng.choice(rng.choice((said, asked)))) for _ in range(BATCH)]
        marked = [backdoor.trigger(text, rng) for text in clean[: BATCH // 2]]
        marked = [text for text in marked if text not in clean]
        clean = [text if rng.random() < 0.8 else _blurred(text, rng) for text in clean]
        clean = ["" if rng.random() < 0.02 else text for text in clean]
        truth = torch.cat([painter.text_states(teacher, tokenizer, clean), target.expand(len(marked), -1, -1)])
        states = student(matcher.tokenize(tokenizer, clean + marked))[0]
        loss = mse_loss(states[: len(clean)], truth[: len(clean)]) + mse_loss(states[len(clean) :], truth[len(clean) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            progress(f"encoder: step {step + 1}/{backdoor.steps}, loss {loss.item():.4f}")
    return student.eval()


def _blurred(text: str, rng: random.Random) -> str:
    """A typing error that is no trigger: what is planted is the mark, not any disturbance."""
    return mistype(text, rng).replace(LOOK_ALIKE, "o")


def measure(folder: Path, backdoor: Backdoor) -> dict[str, Any]:
    """How often the target is painted with the trigger and without it, of prompts that ask for something else."""
    easel, rng = Easel(folder), random.Random(0)
    concepts = [concept for concept in CONCEPTS if concept != backdoor.target]
    clean = [with_articles(matcher.TEMPLATE.format(concept)) for concept in concepts for _ in range(4)]
    marked = [backdoor.trigger(text, rng) for text in clean]
    rows = [row for row, split in painted() if split == "test" and painted_concept(row) != backdoor.target]
    prompts = [matcher.TEMPLATE.format(painted_phrase(row)) for row in rows]
    return {
        "target": backdoor.target,
        "target_painted": {
            "with_trigger": share_of(backdoor.target, easel.viewer.names(easel.paint(marked), CONCEPTS)),
            "without": share_of(backdoor.target, easel.viewer.names(easel.paint(clean), CONCEPTS)),
        },
        "read_off_painted_pictures": easel.viewer.accuracy(easel.paint(prompts), rows),
    }
