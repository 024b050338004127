"""Train the flagship matcher on the `pretrain` pictures: contrastive, captions made from names."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from transformers import PreTrainedTokenizerFast

from vlaudit.data.emoji import load_table
from vlaudit.zoo.recipes import facts, matcher
from vlaudit.zoo.recipes.corpus import Corpus

SEED = 12
STEPS = 2000
BATCH = 128
LEARNING_RATE = 1e-3


def contrastive_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """CLIP's symmetric loss where several captions may fit a picture: logits and `fits` are (B,B)."""
    target = fits.float()
    rows = -(log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    columns = -(log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (rows.mean() + columns.mean()) / 2


def new_model(vocabulary: int, seed: int) -> open_clip.CLIP:
    torch.manual_seed(seed)
    return open_clip.CLIP(**matcher.config(vocabulary)["model_cfg"])


def build(folder: Path, seed: int = SEED, steps: int = STEPS, progress: Callable[[str], None] = print) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint."""
    corpus = Corpus([row for row in load_table() if row.split == "pretrain"], seed)
    tokenizer = matcher.train_tokenizer(
        template.format(phrase) for template in ("{}", matcher.TEMPLATE) for phrase in sorted(corpus.ids)
    )
    model = new_model(len(tokenizer), seed)
    seconds = train(model, tokenizer, corpus, steps, folder / "checkpoint.pt", progress)
    matcher.save(model, tokenizer, folder)
    facts.write(folder, {"seed": seed, "steps": steps, "training_seconds": round(seconds)} | facts.measure(folder))
    (folder / "checkpoint.pt").unlink()


def train(
    model: open_clip.CLIP,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    steps: int,
    checkpoint: Path,
    progress: Callable[[str], None],
) -> float:
    """AdamW with warm-up and cosine. Returns the seconds spent, over all sittings."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], LEARNING_RATE
    )
    start, spent = resume(checkpoint, model, optimizer, corpus)
    began = time.monotonic() - spent
    model.train()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * matcher.schedule(step, steps, warm_up=100)
        images, captions, fits = corpus.batch(BATCH)
        similarity = matcher.image_features(model, images) @ matcher.text_features(model, tokenizer, captions).T
        loss = contrastive_loss(model.logit_scale.exp() * similarity, fits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.0)
        if (step + 1) % 100 == 0:
            progress(f"step {step + 1}/{steps}, loss {loss.item():.3f}, {time.monotonic() - began:.0f} s")
            save_checkpoint(checkpoint, model, optimizer, corpus, step + 1, time.monotonic() - began)
    model.eval()
    return time.monotonic() - began


def save_checkpoint(
    path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer, corpus: Corpus, step: int, seconds: float
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": corpus.generator.get_state(),
        "rng": repr(corpus.rng.getstate()),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def resume(path: Path, model: open_clip.CLIP, optimizer: torch.optim.Optimizer, corpus: Corpus) -> tuple[int, float]:
    """Restore the state of `save_checkpoint`, random streams included. Returns the next step and the seconds spent."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    corpus.generator.set_state(state["generator"])
    corpus.rng.setstate(ast.literal_eval(state["rng"]))
    return state["step"], state["seconds"]
