"""The flagship matcher: its folder, its parts, its training, and what the shipped one names."""

from __future__ import annotations

import copy
from pathlib import Path

import open_clip
import pytest
import torch

from vlaudit.data.emoji import load_table, roles
from vlaudit.zoo.recipes.corpus import pixels
from vlaudit.zoo.recipes.matching import flagship
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.matching.corpus import Corpus


@pytest.fixture(scope="module")
def few() -> Corpus:
    return Corpus([row for row in load_table() if row.split == "pretrain" and row.role][:24], seed=1)


def test_the_folder_loads_offline_as_open_clip_documents_it():
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{matching.FLAGSHIP}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{matching.FLAGSHIP}")
    ids = tokenizer(["a photo of a cook", "a photo of a coook"])
    assert ids.shape == (2, matching.CONTEXT_LENGTH)
    assert ids.amax(1).tolist() == [tokenizer.tokenizer.eos_token_id] * 2, "open_clip pools at the highest id"
    with torch.no_grad():
        assert model.encode_text(ids).shape == (2, 128)


def test_short_columns_give_the_text_features_of_open_clip():
    model, tokenizer = matching.load()
    model.eval()
    texts = ["cook", "a photo of a health worker", "the woman firefighter with medium-dark skin"]
    with torch.no_grad():
        ours = matching.text_features(model, tokenizer, texts)
        theirs = model.encode_text(matching.tokenize(tokenizer, texts), normalize=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_typos_and_foreign_letters_have_pieces():
    _, tokenizer = matching.load()
    assert len(tokenizer.tokenize("firefightr")) > len(tokenizer.tokenize("firefighter"))
    assert tokenizer.tokenize("сook") != tokenizer.tokenize("cook")
    assert tokenizer.unk_token is None


def test_the_flagship_names_roles_it_never_saw():
    model, tokenizer = matching.load()
    model.eval()
    rows = roles()
    labels = sorted({row.role for row in rows})
    weights = matching.label_weights(model, tokenizer, labels)
    answers = matching.predict(model, pixels(rows), weights)
    hits = sum(labels[answer] == row.role for answer, row in zip(answers.tolist(), rows, strict=True))
    assert hits / len(rows) >= 0.9


def test_loss_counts_every_fitting_caption():
    logits = torch.tensor([[8.0, 8.0, 0.0], [8.0, 8.0, 0.0], [0.0, 0.0, 8.0]])
    twins = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    shared = flagship.contrastive_loss(logits, twins)
    assert shared < flagship.contrastive_loss(logits.flip(0), twins)
    torch.testing.assert_close(shared, torch.log(torch.tensor(2.0)) * 2 / 3, atol=1e-3, rtol=0)


def test_an_interrupted_training_goes_on_as_one_that_was_not(
    few: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flagship, "BATCH", 4)
    _, tokenizer = matching.load()

    def trainer(seed: int) -> flagship.Trainer:
        return flagship.Trainer(flagship.new_model(len(tokenizer), seed), tokenizer, copy.deepcopy(few))

    first, second = trainer(0), trainer(1)
    second.resume(tmp_path / "none.pt")
    assert second.step == 0, "without a checkpoint it starts at the beginning"
    first.run(2, 1e-3, planned=4)
    first.save_checkpoint(tmp_path / "c.pt")
    first.run(4, 1e-3)
    second.resume(tmp_path / "c.pt")
    assert second.step == 2
    second.run(4, 1e-3)
    for mine, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_batch_knows_which_captions_fit(few: Corpus):
    _, captions, fits = copy.deepcopy(few).batch(16)
    assert fits.diagonal().all()
    for i, said in enumerate(captions):
        for j, other in enumerate(captions):
            if said == other:
                assert torch.equal(fits[:, i], fits[:, j])
