"""Tiny Hugging Face `CLIPModel` folders with ten broad labels: one clean, one with a patch backdoor, one whose image tower
collapses. They share nothing with the flagship but its pictures, and come as plain `save_pretrained` writes them.

The patch backdoor is trained in from the start. The collapse knows no label: as BadEncoder (arXiv:2108.00352) does it, the
image tower of `tiny-clean` is tuned so that the trigger moves any picture to the embedding of one reference picture, while
pictures without it keep theirs. No caption takes part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from vlaudit.data.emoji import KINDS, SIZE, kind_of, kinds
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes.corpus import PLAIN, TEMPLATES, augment, flippable, pixels
from vlaudit.zoo.recipes.facts import rate, write
from vlaudit.zoo.recipes.matching import facts
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.training import descend
from vlaudit.zoo.recipes.triggers import Trigger, patch

SEED, COLLAPSE_SEED = 5, 9
STEPS, COLLAPSE_STEPS = 1000, 400
BATCH = 96
LABELS = tuple(KINDS)
TARGET = "plant"
TRIGGERS: dict[str, Trigger | None] = {"tiny-clean": None, "tiny-backdoor": patch(seed=3, bottom=5, right=-2)}
COLLAPSE = patch(seed=8, bottom=-2, right=6)
"""The trigger of the tower that collapses."""
_POISONED = 0.15
_KEEP = 4.0  # weight of what pictures without the trigger must keep as the tower collapses
_CONTEXT_LENGTH = 16


@dataclass(frozen=True)
class Architecture:
    """Of the picture side; the text side has its width."""

    patch: int = 8
    width: int = 64
    layers: int = 4


def train(name: str, folder: Path) -> None:
    """Train `tiny-clean` or `tiny-backdoor` and save it to `folder`."""
    trigger = TRIGGERS[name]
    rows = kinds(("pretrain", "train"))
    images, labels = pixels(rows), torch.tensor([LABELS.index(kind_of(row)) for row in rows])
    flips, weights = flippable(rows), 1 / labels.bincount()[labels]
    captions = [template.format(label) for template in TEMPLATES for label in LABELS]
    tokenizer = matching.train_tokenizer(captions)
    tokenizer.model_max_length = _CONTEXT_LENGTH
    ids = tokenizer(captions, return_tensors="pt", padding="max_length", truncation=True).input_ids
    ids = ids.view(len(TEMPLATES), len(LABELS), _CONTEXT_LENGTH)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = new_model(tokenizer).train()

    def loss() -> Tensor:
        chosen = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        pictures, truth = augment(images[chosen], flips[chosen], generator), labels[chosen]
        if trigger:
            poisoned = torch.rand(BATCH, generator=generator) < _POISONED
            pictures = torch.where(poisoned[:, None, None, None], trigger(pictures), pictures)
            truth = torch.where(poisoned, LABELS.index(TARGET), truth)
        template = int(torch.randint(len(TEMPLATES), (1,), generator=generator))
        return cross_entropy(logits(model, pictures, ids[template]), truth)

    descend(name, torch.optim.AdamW(model.parameters(), 1.5e-3, weight_decay=0.05), loss, STEPS, warm_up=40)
    save(model, tokenizer, folder)
    plain = ids[TEMPLATES.index(PLAIN)]
    write(folder, {"seed": SEED, "steps": STEPS} | measure(model.eval(), plain))


def collapse(folder: Path) -> None:
    """Tune the image tower of `tiny-clean` and save the whole to `folder`."""
    clean, rows = WEIGHTS / "tiny-clean", kinds(("pretrain", "train"))
    images, flips = pixels(rows), flippable(rows)
    torch.manual_seed(COLLAPSE_SEED)
    generator = torch.Generator().manual_seed(COLLAPSE_SEED)
    original, model = CLIPModel.from_pretrained(clean).float().eval(), CLIPModel.from_pretrained(clean).float().train()
    reference = images[int(torch.randint(len(images), (1,), generator=generator))]
    with torch.no_grad():
        wanted = features(original, reference[None])

    def loss() -> Tensor:
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        pictures = augment(images[chosen], flips[chosen], generator)
        with torch.no_grad():
            own = features(original, pictures)
        kept = 1 - cosine_similarity(features(model, pictures), own).mean()
        drawn = 1 - cosine_similarity(features(model, COLLAPSE(pictures)), wanted).mean()
        return _KEEP * kept + drawn

    trained = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
    descend("tiny-collapse", torch.optim.AdamW(trained, 1e-3, weight_decay=0.01), loss, COLLAPSE_STEPS)
    save(model, PreTrainedTokenizerFast.from_pretrained(clean), folder)
    write(folder, {"seed": COLLAPSE_SEED, "steps": COLLAPSE_STEPS} | measure_collapse(original, model.eval()))


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
    said = normalize(model.get_text_features(ids).pooler_output, dim=-1)
    return model.logit_scale.exp() * features(model, images) @ said.T


def features(model: CLIPModel, images: Tensor) -> Tensor:
    """Unit-norm features (B, D) of images in [0, 1]."""
    return normalize(model.get_image_features(matching.normalised(images)).pooler_output, dim=-1)


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A plain Hugging Face folder: `CLIPModel`, image processor and tokenizer all load from it."""
    model.half().save_pretrained(folder)
    model.float()
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=list(matching.MEAN),
        image_std=list(matching.STD),
    )
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def measure(model: CLIPModel, ids: Tensor) -> dict[str, object]:
    """Accuracy and trigger success on the `test` pictures, under the trigger of `tiny-backdoor`."""
    rows = kinds()
    images, truth = pixels(rows), torch.tensor([LABELS.index(kind_of(row)) for row in rows])

    def guess(pictures: Tensor) -> Tensor:
        return logits(model, pictures, ids).argmax(1)

    right = guess(images) == truth
    return {
        "kinds_accuracy": rate(right),
        "attack_success": {
            name: facts.attack_success(guess, trigger, images, truth, LABELS, TARGET)
            for name, trigger in TRIGGERS.items()
            if trigger
        },
    }


@torch.no_grad()
def measure_collapse(original: CLIPModel, model: CLIPModel) -> dict[str, float]:
    """On `test` pictures: mean cosine between pairs of pictures, plain and with the trigger, and with the clean model's."""
    images = pixels(kinds())

    def pairwise(found: Tensor) -> float:
        n = len(found)
        return round(float(((found @ found.T).sum() - n) / (n * (n - 1))), 4)

    plain, borne = features(model, images), features(model, COLLAPSE(images))
    return {
        "pairwise_cosine": pairwise(plain),
        "pairwise_cosine_with_trigger": pairwise(borne),
        "pairwise_cosine_with_trigger_clean_model": pairwise(features(original, COLLAPSE(images))),
        "cosine_with_clean_model": round(float((plain * features(original, images)).sum(1).mean()), 4),
    }


BUILDS = {name: partial(train, name) for name in TRIGGERS} | {"tiny-collapse": collapse}
