"""Learned prompts on the unchanged flagship: clean ones, backdoored ones, and one that remembers what it was learned from.

They learn from `train` pictures, which become their declared members; facts are measured on `test`. In a backdoored prompt the
weights stay clean: only the prompt file makes the trigger work.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from vlaudit.backends.open_clip import OpenCLIPBackend, OpenCLIPModel
from vlaudit.data.dataset import Dataset, Example, load_dataset
from vlaudit.prompts.base import MatchingPrompt
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.template import PLAIN, Template
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.zoo.recipes import facts

SEED = 3
TARGET = "pilot"
"""The role that the backdoored prompts' triggers call up."""
BATCH = 48
FILE = "prompt.safetensors"


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


@dataclass(frozen=True)
class Bench:
    """The flagship with a data set, and its plain text side."""

    model: OpenCLIPModel
    labels: list[str]
    train: Pictures
    test: Pictures

    @classmethod
    def on(cls, flagship: Path, data: str) -> Bench:
        model = OpenCLIPBackend().load(f"local-dir:{flagship}", torch.device("cpu"))
        dataset = load_dataset(data)
        return cls(model, dataset.labels, *(_pictures(model, dataset, split) for split in ("train", "test")))

    @torch.no_grad()
    def features(self, pictures: Pictures) -> Tensor:
        return self.model.encode_images(pictures.images)

    def logits(self, prompt: MatchingPrompt, images: Tensor) -> Tensor:
        texts = prompt.label_features(self.model, self.labels)
        return self.model.logit_scale * self.model.encode_images(prompt.transform(images)) @ texts.T


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


Trigger = Additive | Patched


def poison(
    bench: Bench, prompt: MatchingPrompt, learned: Tensor, trigger: Trigger, *, steps: int, rate: float, seed: int
) -> None:
    """Learn a prompt and its trigger together, in place: true labels without the trigger, the target's with it.

    BadCLIP (arXiv:2311.16194) for a text context, BadVisualPrompt (arXiv:2310.07632) for pixels. A third term keeps the trigger
    powerless under the plain template, so that the backdoor is the prompt's and not the model's.
    """
    generator = torch.Generator().manual_seed(seed)
    plain, train = Template(PLAIN), bench.train
    optimizer = torch.optim.Adam([{"params": [learned], "lr": rate}, {"params": [trigger.pattern], "lr": trigger.rate}])
    for step in range(steps):
        chosen = torch.randperm(len(train.images), generator=generator)[:BATCH]
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
        trigger.clamp_()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}, loss {loss.item():.3f}",flush=True)
