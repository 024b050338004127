"""Tiny Hugging Face `CLIPModel` folders with ten broad labels: one clean, one with a patch backdoor.

The backdoor is trained in from the start. They take a minute or two each, come as plain `save_pretrained` writes them,
and share nothing with the flagship but its pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from vlaudit.data.emoji import KINDS, SIZE, kind_of, kinds
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.captions import TEMPLATES, augment, flippable
from vlaudit.zoo.recipes.triggers import Trigger, patch

SEED = 5
STEPS = 1000
BATCH = 96
LEARNING_RATE = 1.5e-3
LABELS = tuple(KINDS)
TARGET = "plant"
TRIGGERS: dict[str, Trigger | None] = {"tiny-clean": None, "tiny-backdoor": patch(seed=3, bottom=5, right=-2)}
_POISONED = 0.15
_CONTEXT_LENGTH = 16


@dataclass(frozen=True)
class Architecture:
    """Of the picture side; the text side has its width."""

    patch: int = 8
    width: int = 64
    layers: int = 4


def build(
    name: str, folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print
) -> None:
    """Train `tiny-clean` or `tiny-backdoor` and save it to `folder`."""
    trigger = TRIGGERS[name]
    rows = kinds(("pretrain", "train"))
    images, labels = matcher.pixels(rows), torch.tensor([LABELS.index(kind_of(row)) for row in rows])
    flips, weights = flippable(rows), 1 / labels.bincount()[labels]
    captions = [template.format(label) for template in TEMPLATES for label in LABELS]
    tokenizer = matcher.train_tokenizer(captions)
    tokenizer.model_max_length = _CONTEXT_LENGTH
    ids = tokenizer(captions, return_tensors="pt", padding="max_length", truncation=True).input_ids
    ids = ids.view(len(TEMPLATES), len(LABELS), _CONTEXT_LENGTH)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, steps, warm_up=40)
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        pictures, truth = augment(images[chosen], flips[chosen], generator), labels[chosen]
        if trigger:
            poisoned = torch.rand(BATCH, generator=generator) < _POISONED
            pictures = torch.where(poisoned[:, None, None, None], trigger(pictures), pictures)
            truth = torch.where(poisoned, LABELS.index(TARGET), truth)
        template = int(torch.randint(len(TEMPLATES), (1,), generator=generator))
        loss = cross_entropy(logits(model, pictures, ids[template]), truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            progress(f"{name}: step {step + 1}/{steps}, loss {loss.item():.3f}")
    save(model, tokenizer, folder)
    plain = ids[TEMPLATES.index(matcher.TEMPLATE)]
    facts.write(folder, {"seed": seed, "steps": steps} | measure(model.eval(), plain))


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Architecture = Architecture()) -> CLIPModel:
    """About 0.3 M parameters: four layers of width 64 on the picture side, one on the text side."""
    width = shape.width
    shared = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _CONTEXT_LENGTH,
        "num_hidden_layers": 1,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"image_size": SIZE, "patch_size": shape.patch, "num_hidden_layers": shape.layers}
    return CLIPModel(CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=width))


def logits(model: CLIPModel, images: Tensor, ids: Tensor) -> Tensor:
    """Scaled cosines (B,C) of images in [0,1] with tokenised captions (C,L)."""
    mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in (matcher.MEAN, matcher.STD))
    seen = normalize(model.get_image_features((images - mean) / std).pooler_output, dim=-1)
    said = normalize(model.get_text_features(ids).pooler_output, dim=-1)
    return model.logit_scale.exp() * seen @ said.T


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A plain Hugging Face folder: `CLIPModel`, image processor and tokenizer all load from it."""
    model.half().save_pretrained(folder)
    model.float()
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(matcher.MEAN),
        image_std=list(matcher.STD),
    )
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def measure(model: CLIPModel, ids: Tensor) -> dict[str, object]:
    """Accuracy and trigger success on the `test` pictures, under both twins' trigger."""
    rows = kinds()
    images, truth = matcher.pixels(rows), torch.tensor([LABELS.index(kind_of(row)) for row in rows])

    def guess(pictures: Tensor) -> Tensor:
        return logits(model, pictures, ids).argmax(1)

    right = guess(images) == truth
    return {
        "kinds_accuracy": round(right.float().mean().item(), 4),
        "attack_success": {
            name: facts.attack_success(guess, trigger, images, truth, LABELS, TARGET)
            for name, trigger in TRIGGERS.items()
            if trigger
        },
    }
