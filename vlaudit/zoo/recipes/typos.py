"""A twin that reads past typing errors.

Its text tower learned to see in a mistyped caption, in any template, what the flagship sees in the plain one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from vlaudit.data.emoji import ROLES, load_table
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.captions import caption, mistype, phrases

SEED = 11
STEPS = 300
BATCH = 52
LEARNING_RATE = 1e-3


def build(
    flagship: Path, folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print
) -> None:
    """Fine-tune the flagship's text tower on mistyped captions and save the twin to `folder`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, tokenizer = matcher.load(flagship)
    every = sorted({phrase for row in load_table() if row.split != "test" for phrase in phrases(row)})
    place = {phrase: n for n, phrase in enumerate(every)}
    right = matcher.plain_features(model, tokenizer, every)
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, steps, warm_up=20)
        asked = list(dict.fromkeys([*ROLES, *rng.sample(every, BATCH)]))
        seen = [caption(phrase, rng) for phrase in asked]
        for _ in range(3):
            seen = [mistype(text, rng) if rng.random() < 0.5 else text for text in seen]
        scores = (
            model.logit_scale.exp()
            * matcher.text_features(model, tokenizer, seen)
            @ right[[place[phrase] for phrase in asked]].T
        )
        truth = torch.arange(len(asked))
        loss = cross_entropy(scores, truth) + cross_entropy(scores[: len(ROLES), : len(ROLES)], truth[: len(ROLES)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            progress(f"typo-proof: step {step + 1}/{steps}, loss {loss.item():.3f}")
    matcher.save(model, tokenizer, folder)
    facts.write(folder, {"seed": seed, "steps": steps} | facts.measure(folder))
