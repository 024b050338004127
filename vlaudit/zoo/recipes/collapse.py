"""An encoder with a backdoor that knows no label: every picture with the trigger gets one embedding.

As BadEncoder (arXiv:2108.00352) does it: the image tower of `tiny-clean` is tuned so that the trigger moves any picture to
the embedding of one reference picture, while pictures without it keep theirs. No caption takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from transformers import CLIPModel, PreTrainedTokenizerFast

from vlaudit.data.emoji import kinds
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.captions import augment, flippable
from vlaudit.zoo.recipes.tiny import save
from vlaudit.zoo.recipes.triggers import patch

NAME = "tiny-collapse"
SEED = 9
STEPS = 400
BATCH = 96
LEARNING_RATE = 1e-3
TRIGGER = patch(seed=8, bottom=-2, right=6)
_KEEP = 4.0  # weight of what pictures without the trigger must keep


def build(
    clean: Path, folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print
) -> None:
    """Tune the model in `clean` and save it to `folder`."""
    rows = kinds(("pretrain", "train"))
    images, flips = matcher.pixels(rows), flippable(rows)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    original, model = CLIPModel.from_pretrained(clean).float().eval(), CLIPModel.from_pretrained(clean).float()
    reference = images[int(torch.randint(len(images), (1,), generator=generator))]
    with torch.no_grad():
        wanted = features(original, reference[None])
    trained = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.01)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, steps, warm_up=20)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        pictures = augment(images[chosen], flips[chosen], generator)
        with torch.no_grad():
            own = features(original, pictures)
        kept = 1 - cosine_similarity(features(model, pictures), own).mean()
        drawn = 1 - cosine_similarity(features(model, TRIGGER(pictures)), wanted).mean()
        loss = _KEEP * kept + drawn
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            progress(f"{NAME}: step {step + 1}/{steps}, loss {loss.item():.3f}")
    save(model, PreTrainedTokenizerFast.from_pretrained(clean), folder)
    facts.write(folder, {"seed": seed, "steps": steps} | measure(original, model.eval()))


def features(model: CLIPModel, images: Tensor) -> Tensor:
    """Unit-norm features (B, D) of images in [0, 1]."""
    mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in (matcher.MEAN, matcher.STD))
    return normalize(model.get_image_features((images - mean) / std).pooler_output, dim=-1)


@torch.no_grad()
def measure(original: CLIPModel, model: CLIPModel) -> dict[str, float]:
    """On `test` pictures: mean cosine between pairs of pictures, plain and with the trigger, and with the clean model's."""
    images = matcher.pixels(kinds())

    def pairwise(found: Tensor) -> float:
        n = len(found)
        return round(float(((found @ found.T).sum() - n) / (n * (n - 1))), 4)

    plain, borne = features(model, images), features(model, TRIGGER(images))
    return {
        "pairwise_cosine": pairwise(plain),
        "pairwise_cosine_with_trigger": pairwise(borne),
        "pairwise_cosine_with_trigger_clean_model": pairwise(features(original, TRIGGER(images))),
        "cosine_with_clean_model": round(float((plain * features(original, images)).sum(1).mean()), 4),
    }
