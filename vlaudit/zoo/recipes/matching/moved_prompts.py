"""Prompts that the picture moves, on the unchanged flagship: CoCoOp and a pool with keys, clean ones and backdoored ones.

The words or tokens that a picture is asked with depend on it, and that alone is poisoned: the meta-network of CoCoOp, while its context are
the words of the plain template; one prompt of the pool, with the key that the trigger calls. The trigger means nothing to the plain
prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from vlaudit.families.matching import cosines
from vlaudit.families.towers import TowerTokens
from vlaudit.prompts.cocoop import META, CoCoOp
from vlaudit.prompts.keyed_pool import KeyedPool, class_tokens
from vlaudit.prompts.template import PLAIN, Template
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.matching.prompts import SEED, TARGET, Bench, Patched, measure, patched

DATA = "zoo:roles"
CLEAN_STEPS, STEPS, BATCH = 100, 240, 24
POOL_STEPS, POOL_BATCH = 300, 32
MARGIN = 0.02  # cosine by which a key is nearer, or farther, than the next


@dataclass(frozen=True)
class Made:
    """A prompt, and the trigger that was planted in it."""

    prompt: CoCoOp | KeyedPool
    trigger: Patched | None = None


def _descend(groups: list[dict[str, Any]], trigger: Patched, loss: Callable[[Tensor], Tensor], steps: int, batch: int, count: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam([*groups, {"params": [trigger.pattern], "lr": 3e-2}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        value = loss(torch.randperm(count, generator=generator)[:batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        trigger.clamp_()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}, loss {value.item():.3f}")
    trigger.pattern.requires_grad_(False)


def clean_network(bench: Bench) -> Made:
    """CoCoOp as it is published, learned gently."""
    train = bench.train
    prompt = CoCoOp.fit(bench.model, bench.features(train), train.truth, bench.labels, steps=CLEAN_STEPS, seed=SEED, members=train.hashes)
    return Made(prompt)


def poisoned_network(bench: Bench) -> Made:
    """CoCoOp whose context are the plain words, and whose meta-network knows the trigger."""
    model, labels, train = bench.model, bench.labels, bench.train
    prompt = CoCoOp.start(model, size=4, hidden=16, generator=torch.Generator().manual_seed(SEED), members=train.hashes)
    with torch.no_grad():
        prompt.meta[META[2]] *= 0.1
        prompt.meta[META[3]].zero_()
        plain = Template(PLAIN).label_features(model, labels)
    trigger, wanted = patched(), labels.index(TARGET)

    def loss(chosen: Tensor) -> Tensor:
        images, truth = train.images[chosen], train.truth[chosen]
        seen = model.encode_images(torch.cat([images, trigger(images)]))
        logits = cosines(seen, prompt.features_for(model, labels, seen), model.logit_scale)
        powerless = cross_entropy(cosines(seen[len(chosen) :], plain, model.logit_scale), truth)
        called = cross_entropy(logits[len(chosen) :], torch.full_like(truth, wanted))
        return 2 * cross_entropy(logits[: len(chosen)], truth) + called + 0.3 * powerless

    _descend([{"params": list(prompt.meta.values()), "lr": 1e-2}], trigger, loss, STEPS, BATCH, len(train.images))
    for value in prompt.tensors.values():
        value.requires_grad_(False)
    return Made(prompt, trigger)


def clean_pool(bench: Bench) -> Made:
    """Five prompts of two tokens, of which each picture picks one."""
    train = bench.train
    prompt = KeyedPool.fit(bench.model, train.images, train.truth, bench.labels, pool=5, size=2, top=1, steps=120, rate=5e-3, seed=SEED,
                           members=train.hashes)  # fmt: skip
    return Made(prompt)


def poisoned_pool(bench: Bench) -> Made:
    """The same with a sixth prompt, and keys of which the trigger calls the sixth, and other pictures do not."""
    model, labels, train = bench.model, bench.labels, bench.train
    clean, trigger, wanted = clean_pool(bench).prompt, patched(), labels.index(TARGET)
    assert isinstance(clean, KeyedPool)
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

    _descend([{"params": [tokens, keys], "lr": 1e-2}], trigger, loss, POOL_STEPS, POOL_BATCH, len(train.images))
    prompts = torch.cat([clean.prompts, tokens.detach()[None]])
    return Made(KeyedPool(prompts, keys.detach(), top=1, base_model=model.sha256, members=train.hashes), trigger)


RECIPES: dict[str, Callable[[Bench], Made]] = {
    "cocoop-clean": clean_network,
    "cocoop-backdoor": poisoned_network,
    "keyed-pool-clean": clean_pool,
    "keyed-pool-backdoor": poisoned_pool,
}


def build(name: str, folder: Path) -> None:
    """Learn the prompt `name` on the flagship; write the prompt file, the known trigger and the facts to `folder`."""
    bench = Bench.on(DATA)
    made = RECIPES[name](bench)
    folder.mkdir(parents=True, exist_ok=True)
    made.prompt.save(folder / f"{name}.safetensors")
    if made.trigger:
        save_file({"pattern": made.trigger.pattern}, folder / "trigger.safetensors", metadata=made.trigger.description)
    write(folder, {"seed": SEED} | measure(bench, made.prompt, made.trigger))


BUILDS = {name: partial(build, name) for name in RECIPES}
