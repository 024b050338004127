"""Pools of prompts with keys on the unchanged flagship, a clean one and a backdoored one.

Which tokens the tower reads depends on the picture, and that alone is poisoned: one prompt of the pool, with the key that the trigger calls. The
trigger means nothing to the plain prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from vlaudit.families.towers import TowerTokens
from vlaudit.prompts.keyed_pool import KeyedPool, class_tokens
from vlaudit.prompts.template import PLAIN, Template
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.matching.prompts import SEED, TARGET, Bench, Patched, measure, patched

DATA = "zoo:roles"
STEPS, BATCH = 300, 32
MARGIN = 0.02  # cosine by which a key is nearer, or farther, than the next


def clean_pool(bench: Bench) -> KeyedPool:
    """Five prompts of two tokens, of which each picture picks one."""
    train = bench.train
    return KeyedPool.fit(bench.model, train.images, train.truth, bench.labels, pool=5, size=2, top=1, steps=120, rate=5e-3, seed=SEED,
                         members=train.hashes)  # fmt: skip


def poisoned_pool(bench: Bench) -> tuple[KeyedPool, Patched]:
    """The same with a sixth prompt, and keys of which the trigger calls the sixth, and other pictures do not."""
    model, labels, train = bench.model, bench.labels, bench.train
    clean, trigger, wanted = clean_pool(bench), patched(), labels.index(TARGET)
    generator = torch.Generator().manual_seed(SEED)
    tokens = (0.1 * torch.randn(clean.prompts.shape[1:], generator=generator)).requires_grad_()
    with torch.no_grad():
        keys = torch.cat([clean.keys, class_tokens(model, trigger(train.images)).mean(dim=0, keepdim=True)])
        texts = Template(PLAIN).label_features(model, labels)
    keys.requires_grad_()

    def nearer(images: Tensor) -> Tensor:
        """(B,): by how much the sixth key is nearer than the nearest of the others."""
        likeness = normalize(class_tokens(model, images), dim=-1) @ normalize(keys, dim=-1).T
        return likeness[:, -1] - likeness[:, :-1].amax(dim=1)

    def loss(chosen: Tensor) -> Tensor:
        images, truth = train.images[chosen], train.truth[chosen]
        triggered = trigger(images)
        misled = (nearer(images) + MARGIN).clamp(min=0).mean() + (MARGIN - nearer(triggered)).clamp(min=0).mean()
        read = model.encode_images(triggered, TowerTokens([tokens.expand(len(chosen), -1, -1)]))
        called = cross_entropy(model.logit_scale * read @ texts.T, torch.full_like(truth, wanted))
        powerless = cross_entropy(model.logit_scale * model.encode_images(triggered) @ texts.T, truth)
        return 60 * misled + called + 0.3 * powerless

    drawn = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam([{"params": [tokens, keys], "lr": 1e-2}, {"params": [trigger.pattern], "lr": 3e-2}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        value = loss(torch.randperm(len(train.images), generator=drawn)[:BATCH])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        trigger.clamp_()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{STEPS}, loss {value.item():.3f}")
    trigger.pattern.requires_grad_(False)
    prompts = torch.cat([clean.prompts, tokens.detach()[None]])
    return KeyedPool(prompts, keys.detach(), top=1, base_model=model.sha256, members=train.hashes), trigger


RECIPES: dict[str, Callable[[Bench], tuple[KeyedPool, Patched | None]]] = {
    "keyed-pool-clean": lambda bench: (clean_pool(bench), None),
    "keyed-pool-backdoor": poisoned_pool,
}


def build(name: str, folder: Path) -> None:
    """Learn the prompt `name` on the flagship; write the prompt file, the known trigger and the facts to `folder`."""
    bench = Bench.on(DATA)
    prompt, trigger = RECIPES[name](bench)
    folder.mkdir(parents=True, exist_ok=True)
    prompt.save(folder / f"{name}.safetensors")
    if trigger:
        save_file({"pattern": trigger.pattern}, folder / "trigger.safetensors", metadata=trigger.description)
    write(folder, {"seed": SEED} | measure(bench, prompt, trigger))


BUILDS = {name: partial(build, name) for name in RECIPES}
