"""A twin of the flagship that reads past typing errors.

Its text tower learned to see in a mistyped caption, in any template, what the flagship sees in the plain one.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlaudit.data.emoji import ROLES, load_table
from vlaudit.zoo.recipes.corpus import caption, mistype, phrases
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.matching import facts
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.training import descend

SEED = 11
STEPS = 300
BATCH = 52


def build(folder: Path) -> None:
    """Fine-tune the flagship's text tower on mistyped captions and save the twin to `folder`."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    model, tokenizer = matching.load()
    every = sorted({phrase for row in load_table() if row.split != "test" for phrase in phrases(row)})
    place = {phrase: n for n, phrase in enumerate(every)}
    right = matching.plain_features(model, tokenizer, every)
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)

    def loss() -> Tensor:
        asked = list(dict.fromkeys([*ROLES, *rng.sample(every, BATCH)]))
        seen = [caption(phrase, rng) for phrase in asked]
        for _ in range(3):
            seen = [mistype(text, rng) if rng.random() < 0.5 else text for text in seen]
        said = model.logit_scale.exp() * matching.text_features(model, tokenizer, seen)
        scores = said @ right[[place[phrase] for phrase in asked]].T
        truth = torch.arange(len(asked))
        return cross_entropy(scores, truth) + cross_entropy(scores[: len(ROLES), : len(ROLES)], truth[: len(ROLES)])

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, weight_decay=0.01)
    model.train()
    descend("typo-proof", optimizer, loss, STEPS)
    matching.save(model, tokenizer, folder)
    write(folder, {"seed": SEED, "steps": STEPS} | facts.measure(folder))


BUILDS = {"typo-proof": build}
