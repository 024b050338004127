"""Train the flagship matcher on the `pretrain` pictures: contrastive, captions made from names."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import PreTrainedTokenizerFast

from vlaudit.data.emoji import load_table
from vlaudit.zoo.recipes.corpus import PLAIN
from vlaudit.zoo.recipes.facts import write
from vlaudit.zoo.recipes.matching import facts
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.matching.corpus import Corpus
from vlaudit.zoo.recipes.training import Training

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
    return open_clip.CLIP(**matching.config(vocabulary)["model_cfg"])


def build(folder: Path) -> None:
    """Train and save to `folder`; an interrupted training goes on from its last checkpoint."""
    corpus = Corpus([row for row in load_table() if row.split == "pretrain"], SEED)
    tokenizer = matching.train_tokenizer(
        template.format(phrase) for template in ("{}", PLAIN) for phrase in sorted(corpus.ids)
    )
    checkpoint = folder / "checkpoint.pt"
    trainer = Trainer(new_model(len(tokenizer), SEED), tokenizer, corpus)
    trainer.resume(checkpoint)
    trainer.run(STEPS, LEARNING_RATE, checkpoint)
    matching.save(trainer.model, tokenizer, folder)
    measured = {"seed": SEED, "steps": STEPS, "training_seconds": round(trainer.seconds)}
    write(folder, measured | facts.measure(folder))
    checkpoint.unlink()


class Trainer(Training[open_clip.CLIP]):
    """AdamW on the contrastive loss, pictures and captions of a corpus."""

    called = "matcher"

    def __init__(self, model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        super().__init__(model, corpus, torch.optim.AdamW(groups, LEARNING_RATE))
        self.tokenizer, self.corpus = tokenizer, corpus

    def batch(self) -> tuple[Tensor, list[str], Tensor]:
        """Pictures (B,3,h,w), captions, and which fit which (B,B)."""
        return self.corpus.batch(BATCH)

    def loss(self, shown: tuple[Tensor, list[str], Tensor]) -> Tensor:
        images, captions, fits = shown
        texts = matching.text_features(self.model, self.tokenizer, captions)
        return contrastive_loss(
            self.model.logit_scale.exp() * matching.image_features(self.model, images) @ texts.T, fits
        )

    @torch.no_grad()
    def after_step(self) -> None:
        self.model.logit_scale.clamp_(max=4.0)


BUILDS = {matching.FLAGSHIP.name: build}
