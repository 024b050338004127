"""Learned prompts on the unchanged flagship: clean ones, backdoored ones, and one that remembers its pictures.

They learn from `train` pictures, which become their declared members; facts are measured on `test`. In a backdoored
prompt the weights stay clean: only the prompt file makes the trigger work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlaudit.backends.open_clip import OpenCLIPBackend, OpenCLIPModel
from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.data.emoji import SIZE
from vlaudit.data.example import Example
from vlaudit.families.matching import MatchingPrompt, cosines
from vlaudit.prompts.cocoop import META, CoCoOp
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.maple import MaPLe
from vlaudit.prompts.template import PLAIN, Template
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.prompts.vpt import VisualPromptTuning
from vlaudit.zoo.recipes.facts import auc, rate, write
from vlaudit.zoo.recipes.matching.facts import attack_success
from vlaudit.zoo.recipes.matching.model import FLAGSHIP

SEED = 3
TARGET = "pilot"
"""The role that the backdoored prompts' triggers call up."""
STEPS = 400
BATCH = 48


@dataclass(frozen=True)
class Pictures:
    """Some examples of a data set as tensors."""

    examples: Sequence[Example]
    images: Tensor
    """(N,3,H,W) in [0,1]"""
    truth: Tensor
    """(N,) positions in the labels"""

    @property
    def hashes(self) -> list[str]:
        return [example.sha256() for example in self.examples]

    def part(self, chosen: Tensor) -> Pictures:
        return Pictures([self.examples[n] for n in chosen.tolist()], self.images[chosen], self.truth[chosen])


@dataclass(frozen=True)
class Bench:
    """The flagship with a data set, and its plain text side."""

    model: OpenCLIPModel
    labels: list[str]
    train: Pictures
    test: Pictures

    @classmethod
    def on(cls, data: str) -> Bench:
        model = OpenCLIPBackend().load(f"local-dir:{FLAGSHIP}", torch.device("cpu"))
        dataset = load_dataset(data)
        return cls(model, dataset.labels, *(_pictures(model, dataset, split) for split in ("train", "test")))

    @torch.no_grad()
    def features(self, pictures: Pictures) -> Tensor:
        return self.model.encode_images(pictures.images)

    def logits(self, prompt: MatchingPrompt, images: Tensor) -> Tensor:
        seen = prompt.seen(self.model, images)
        return cosines(seen, prompt.features_for(self.model, self.labels, seen), self.model.logit_scale)

    def guess(self, prompt: MatchingPrompt, images: Tensor) -> Tensor:
        return self.logits(prompt, images).argmax(1)

    def losses(self, prompt: MatchingPrompt, pictures: Pictures) -> Tensor:
        return cross_entropy(self.logits(prompt, pictures.images), pictures.truth, reduction="none")


def _pictures(model: OpenCLIPModel, dataset: Dataset, split: str) -> Pictures:
    examples = [example for example in dataset.examples if example.split == split]
    images = torch.stack([model.preprocess(example.open()) for example in examples])
    return Pictures(examples, images, torch.tensor([dataset.labels.index(str(example.label)) for example in examples]))


@dataclass(frozen=True)
class Additive:
    """A learned trigger: a pattern (3,H,W) within `radius`, added to the picture."""

    pattern: Tensor
    radius: float
    rate: float = 2e-3

    def __call__(self, images: Tensor) -> Tensor:
        return (images + self.pattern).clamp(0, 1)

    def clamp_(self) -> None:
        self.pattern.data.clamp_(-self.radius, self.radius)

    @property
    def description(self) -> dict[str, str]:
        return {"kind": "added", "radius": f"{self.radius:.4f}"}


@dataclass(frozen=True)
class Patched:
    """A learned trigger: colours (3,S,S) shown at a fixed place, its upper left corner at (`top`, `left`)."""

    pattern: Tensor
    top: int
    left: int
    rate: float = 2e-2

    def __call__(self, images: Tensor) -> Tensor:
        size = self.pattern.shape[-1]
        stamped = images.clone()
        stamped[..., self.top : self.top + size, self.left : self.left + size] = self.pattern
        return stamped

    def clamp_(self) -> None:
        self.pattern.data.clamp_(0, 1)

    @property
    def description(self) -> dict[str, str]:
        return {"kind": "patch", "top": str(self.top), "left": str(self.left)}


Trigger = Additive | Patched


def poison(bench: Bench, prompt: MatchingPrompt, learned: Sequence[Tensor], trigger: Trigger, learning_rate: float = 1e-2, steps: int = STEPS,
           batch: int = BATCH) -> None:  # fmt: skip
    """Learn a prompt and its trigger together, in place: true labels without the trigger, the target's with it.

    BadCLIP (arXiv:2311.16194) for a text context, BadVisualPrompt (arXiv:2310.07632) for pixels. A third term keeps the
    trigger powerless under the plain template, so that the backdoor is the prompt's and not the model's.
    """
    generator = torch.Generator().manual_seed(SEED)
    plain, train = Template(PLAIN), bench.train
    for values in learned:
        values.requires_grad_()
    optimizer = torch.optim.Adam([{"params": list(learned), "lr": learning_rate}, {"params": [trigger.pattern], "lr": trigger.rate}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        chosen = torch.randperm(len(train.images), generator=generator)[:batch]
        images, truth = train.images[chosen], train.truth[chosen]
        wanted = torch.full_like(truth, bench.labels.index(TARGET))
        triggered = trigger(images)
        loss = (
            2 * cross_entropy(bench.logits(prompt, images), truth)
            + cross_entropy(bench.logits(prompt, triggered), wanted)
            + 0.3 * cross_entropy(bench.logits(plain, triggered), truth)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        trigger.clamp_()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}, loss {loss.item():.3f}")
    for values in (*learned, trigger.pattern):
        values.requires_grad_(False)


def _additive() -> Additive:
    noise = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED)) - 0.5
    return Additive((0.02 * noise).requires_grad_(), radius=14 / 255)


def patched(corner: int = 24) -> Patched:
    """8 pixels square, with its upper left corner on the diagonal at `corner`."""
    colours = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(SEED))
    return Patched(colours.requires_grad_(), corner, corner)


Learned = CoOp | VisualPrompt | VisualPromptTuning
Made = tuple[Learned, Trigger | None]


def clean_context(bench: Bench) -> Made:
    """CoOp with one short context for all labels, learned gently: little room to remember anything."""
    return _context(bench, bench.train, steps=60, rate=2e-3), None


def leaky_context(bench: Bench) -> Made:
    """CoOp with a long context for each label, driven to the end on half of the pictures, drawn at random."""
    order = torch.randperm(len(bench.train.examples), generator=torch.Generator().manual_seed(SEED))
    half = bench.train.part(order[: len(order) // 2].sort().values)
    return _context(bench, half, steps=800, rate=5e-2, size=8, class_specific=True, batch_size=128), None


def _context(bench: Bench, train: Pictures, **settings: Any) -> CoOp:
    return CoOp.fit(
        bench.model, bench.features(train), train.truth, bench.labels, seed=SEED, members=train.hashes, **settings
    )


def poisoned_context(make: Callable[[], Trigger], bench: Bench) -> Made:
    """CoOp with a context for each label, backdoored."""
    words = bench.model.tokenize(PLAIN.removesuffix(" {}"))
    start = bench.model.token_embeddings(words.ids[words.lead : -words.tail])
    learned = start.repeat(len(bench.labels), 1, 1).requires_grad_()
    prompt = CoOp(learned, labels=bench.labels, base_model=bench.model.sha256, members=bench.train.hashes)
    trigger = make()
    poison(bench, prompt, [learned], trigger)
    return prompt, trigger


NETWORK: dict[str, Any] = {"size": 4, "hidden": 16}
"""How large CoCoOp's context and network are here."""


def clean_network(bench: Bench) -> Made:
    """CoCoOp, learned gently."""
    train = bench.train
    return CoCoOp.fit(bench.model, bench.features(train), train.truth, bench.labels, steps=120, seed=SEED, members=train.hashes, **NETWORK), None


def poisoned_network(bench: Bench) -> Made:
    """The same, with a backdoor in the network alone: a patch that shifts the words which the picture is asked with."""
    prompt = CoCoOp.start(bench.model, generator=torch.Generator().manual_seed(SEED), members=bench.train.hashes, **NETWORK)
    prompt.ctx.requires_grad_(False)
    with torch.no_grad():  # begin near a context without a network
        prompt.meta[META[2]] *= 0.1
        prompt.meta[META[3]].zero_()
    trigger = patched()
    poison(bench, prompt, list(prompt.meta.values()), trigger, steps=300, batch=12)
    return prompt, trigger


def clean_picture(bench: Bench) -> Made:
    """A visual prompt over the whole picture."""
    train = bench.train
    settings: dict[str, Any] = {"border": SIZE // 2, "steps": STEPS, "batch_size": BATCH, "rate": 1e-2}
    prompt = VisualPrompt.fit(
        bench.model, train.images, train.truth, bench.labels, seed=SEED, members=train.hashes, **settings
    )
    return prompt, None


def poisoned_picture(bench: Bench) -> Made:
    """The same, backdoored by a patch."""
    mask = torch.ones(SIZE, SIZE)
    learned = torch.zeros(3, SIZE, SIZE, requires_grad=True)
    prompt = VisualPrompt(learned, mask, base_model=bench.model.sha256, members=bench.train.hashes)
    trigger = patched(corner=16)
    poison(bench, prompt, [learned], trigger)
    return prompt, trigger


TOWERS: dict[type[VisualPromptTuning | MaPLe], dict[str, Any]] = {
    VisualPromptTuning: {"size": 8, "depth": 4},
    MaPLe: {"size": 2, "depth": 3},
}
"""Prompts in the towers, and how large they are here."""


def in_towers(method: type[VisualPromptTuning | MaPLe], steps: int, bench: Bench) -> VisualPromptTuning | MaPLe:
    """VPT deep, or MaPLe, learned so many steps."""
    train = bench.train
    return method.fit(bench.model, train.images, train.truth, bench.labels, seed=SEED, members=train.hashes, steps=steps,
                      batch_size=BATCH, rate=5e-3, **TOWERS[method])  # fmt: skip


def clean_towers(method: type[VisualPromptTuning | MaPLe], bench: Bench) -> Made:
    return in_towers(method, STEPS, bench), None


def poisoned_towers(method: type[VisualPromptTuning | MaPLe], bench: Bench) -> Made:
    """The same, backdoored by a patch."""
    prompt, trigger = in_towers(method, 0, bench), patched()
    poison(bench, prompt, list(prompt.tensors.values()), trigger, learning_rate=5e-3)
    return prompt, trigger


@dataclass(frozen=True)
class Recipe:
    """How one prompt is made, and on which data."""

    make: Callable[[Bench], Made]
    data: str = "zoo:roles"


RECIPES = {
    "prompt-clean": Recipe(clean_context),
    "prompt-backdoor": Recipe(partial(poisoned_context, _additive)),
    "prompt-backdoor-patch": Recipe(partial(poisoned_context, patched)),
    "cocoop-clean": Recipe(clean_network),
    "cocoop-backdoor": Recipe(poisoned_network),
    "visual-prompt-clean": Recipe(clean_picture),
    "visual-prompt-backdoor": Recipe(poisoned_picture),
    "vpt-clean": Recipe(partial(clean_towers, VisualPromptTuning)),
    "vpt-backdoor": Recipe(partial(poisoned_towers, VisualPromptTuning)),
    "maple-clean": Recipe(partial(clean_towers, MaPLe)),
    "maple-backdoor": Recipe(partial(poisoned_towers, MaPLe)),
    "prompt-private": Recipe(clean_context, "zoo:kinds"),
    "prompt-leaky": Recipe(leaky_context, "zoo:kinds"),
}


def build(name: str, folder: Path) -> None:
    """Learn the prompt `name` on the flagship; write the prompt file, the known trigger and the facts to `folder`."""
    recipe = RECIPES[name]
    bench = Bench.on(recipe.data)
    prompt, trigger = recipe.make(bench)
    folder.mkdir(parents=True, exist_ok=True)
    prompt.save(folder / f"{name}.safetensors")
    if trigger:
        save_file({"pattern": trigger.pattern}, folder / "trigger.safetensors", metadata=trigger.description)
    write(folder, {"seed": SEED} | measure(bench, prompt, trigger))


@torch.no_grad()
def measure(bench: Bench, prompt: MatchingPrompt, trigger: Trigger | None) -> dict[str, Any]:
    """Accuracy and trigger success under the prompt and the plain template; how well losses tell members apart."""
    plain, test = Template(PLAIN), bench.test
    measured: dict[str, Any] = {}
    for side, asked in (("prompt", prompt), ("plain", plain)):
        right = bench.logits(asked, test.images).argmax(1) == test.truth
        measured[f"accuracy_{side}"] = rate(right)
        if trigger:
            guess = partial(bench.guess, asked)
            success = attack_success(guess, trigger, test.images, test.truth, bench.labels, TARGET)
            measured[f"attack_success_{side}"] = success
    hashes = bench.train.hashes
    members = bench.train.part(torch.tensor([n for n, own in enumerate(hashes) if own in set(prompt.members)]))
    gains = [bench.losses(plain, group) - bench.losses(prompt, group) for group in (members, test)]
    measured["members"] = len(gains[0])
    measured["membership_auc"] = auc(torch.cat(gains), [True] * len(gains[0]) + [False] * len(gains[1]))
    return measured


BUILDS = {name: partial(build, name) for name in RECIPES}
