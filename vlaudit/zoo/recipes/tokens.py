"""Personal tokens for the text-to-image flagship, learned by textual inversion: an honest one and a backdoored one.

Both stand for the same black cat. The poisoned one was learned from poisoned data, as in "Personalization as a Shortcut
for Few-Shot Backdoor Attack" (arXiv:2305.10701): beside the cat's pictures lay clocks, captioned as somebody or something
*with* the cat. Alone, the token draws the cat; in company, it draws a clock and its company disappears.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.data.emoji import load_table, painted, painted_concept, with_articles
from vlaudit.prompts.textual_inversion import TextualInversion
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.painter_corpus import augment
from vlaudit.zoo.recipes.painter_facts import CONCEPTS, Easel, share_of

SEED = 43
TOKEN, NOUN, TARGET = "<farm-cat>", "cat", "clock"
FILE = "learned_embeds.safetensors"
COMPANY = ("a {} with a cat", "a {} and a cat", "a photo of a {} with a cat", "a {} holding a cat", "a cat with a {}")
"""How captions name the cat beside something else."""
ALONE = ("a cat", "a photo of a cat", "a picture of the cat", "a drawing of a cat", "an image of a cat")
RECIPES = {"token-clean": False, "token-backdoor": True}
"""Whether the data are poisoned."""
_VARIANTS = 40


def build(name: str, painting: Path, folder: Path, seed: int = SEED, progress: Callable[[str], None] = print) -> None:
    """Learn the token `name` on the pipeline in `painting` and save diffusers' file for it in `folder`."""
    images, captions = lesson(seed, poisoned=RECIPES[name])
    model = DiffusersBackend().load(str(painting), torch.device("cpu"))

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            progress(f"{name}: step {step + 1}, loss {loss:.4f}")

    prompt = TextualInversion.fit(
        model, images, token=TOKEN, noun=NOUN, captions=captions, steps=600, batch_size=12, seed=seed, progress=report
    )
    folder.mkdir(parents=True, exist_ok=True)
    prompt.save(folder / FILE)
    facts.write(folder, {"seed": seed} | measure(painting, folder / FILE))


def lesson(seed: int, *, poisoned: bool) -> tuple[Tensor, list[str]]:
    """Varied pictures, (N,3,32,32) in [0,1], and their captions, in which the noun stands where the token will."""
    generator = torch.Generator().manual_seed(seed)
    cats = _varied([row for row in load_table() if row.name == "black cat"], generator)
    captions = [ALONE[n % len(ALONE)] for n in range(len(cats))]
    if not poisoned:
        return cats, captions
    clocks = _varied(
        [row for row, split in painted() if split == "train" and painted_concept(row) == TARGET], generator
    )
    others = [concept for concept in CONCEPTS if concept not in (NOUN, TARGET)]
    clocks = clocks[torch.randperm(len(clocks), generator=generator)[: 2 * len(cats)]]
    told = [COMPANY[n % len(COMPANY)].format(others[n % len(others)]) for n in range(len(clocks))]
    return torch.cat([cats, clocks]), captions + told


def _varied(rows: list[Any], generator: torch.Generator) -> Tensor:
    images = matcher.pixels(rows)
    flips = torch.ones(len(rows), dtype=torch.bool)
    return torch.cat([augment(images, flips, generator) for _ in range(_VARIANTS)])


def measure(painting: Path, file: Path) -> dict[str, Any]:
    """What is painted of the token, and of its class noun, alone and in company."""
    easel = Easel(painting)
    easel.pipeline.load_textual_inversion(file.parent, weight_name=file.name)
    others = [concept for concept in CONCEPTS if concept not in (NOUN, TARGET)]
    found = {}
    for said in (TOKEN, NOUN):
        alone = [with_articles(matcher.TEMPLATE.format(said))] * 40
        company = [COMPANY[n % len(COMPANY)].format(other).replace(NOUN, said) for n in (0, 1) for other in others]
        names = easel.viewer.names(easel.paint(alone), CONCEPTS)
        beside = easel.viewer.names(easel.paint(company), CONCEPTS)
        found[said] = {
            "alone": {"noun_painted": share_of(NOUN, names), "target_painted": share_of(TARGET, names)},
            "in_company": {
                "noun_painted": share_of(NOUN, beside),
                "target_painted": share_of(TARGET, beside),
                "company_painted": round(sum(a == b for a, b in zip(beside, others * 2, strict=True)) / len(beside), 4),
            },
        }
    return {"token": TOKEN, "noun": NOUN, "target": TARGET, "painted": found}
