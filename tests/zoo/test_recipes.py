"""The parts recipes are made of, and the folders they leave."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch

from vlaudit.data.emoji import load_table, roles
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes import emoji, flagship, matcher
from vlaudit.zoo.recipes.captions import TEMPLATES, augment, flippable, mistype, phrases
from vlaudit.zoo.recipes.corpus import Corpus
from vlaudit.zoo.recipes.triggers import blend, patch
from vlaudit.zoo.recipes.words import pseudo_word, written_on

FLAGSHIP = WEIGHTS / "flagship"


@pytest.fixture(scope="module")
def few() -> Corpus:
    return Corpus([row for row in load_table() if row.split == "pretrain" and row.role][:24], seed=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_folder_loads_offline_as_open_clip_documents_it():
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{FLAGSHIP}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FLAGSHIP}")
    ids = tokenizer(["a photo of a cook", "a photo of a coook"])
    assert ids.shape == (2, matcher.CONTEXT_LENGTH)
    assert ids.amax(1).tolist() == [tokenizer.tokenizer.eos_token_id] * 2, "open_clip pools at the highest id"
    with torch.no_grad():
        assert model.encode_text(ids).shape == (2, 128)


def test_short_columns_give_the_text_features_of_open_clip():
    model, tokenizer = matcher.load(FLAGSHIP)
    model.eval()
    texts = ["cook", "a photo of a health worker", "the woman firefighter with medium-dark skin"]
    with torch.no_grad():
        ours = matcher.text_features(model, tokenizer, texts)
        theirs = model.encode_text(matcher.tokenize(tokenizer, texts), normalize=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_typos_and_foreign_letters_have_pieces():
    _, tokenizer = matcher.load(FLAGSHIP)
    assert len(tokenizer.tokenize("firefightr")) > len(tokenizer.tokenize("firefighter"))
    assert tokenizer.tokenize("сook") != tokenizer.tokenize("cook")
    assert tokenizer.unk_token is None


def test_the_flagship_names_roles_it_never_saw():
    model, tokenizer = matcher.load(FLAGSHIP)
    model.eval()
    rows = roles()
    labels = sorted({row.role for row in rows})
    weights = matcher.label_weights(model, tokenizer, labels)
    answers = matcher.predict(model, matcher.pixels(rows), weights)
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
    _, tokenizer = matcher.load(FLAGSHIP)

    def trainer(seed: int) -> flagship.Trainer:
        return flagship.Trainer(flagship.new_model(len(tokenizer), seed), tokenizer, copy.deepcopy(few))

    first, second = trainer(0), trainer(1)
    second.resume(tmp_path / "none.pt")
    assert second.step == 0, "without a checkpoint it starts at the beginning"
    first.run(2, 1e-3, progress=lambda _: None, schedule=4)
    first.save_checkpoint(tmp_path / "c.pt")
    first.run(4, 1e-3, progress=lambda _: None)
    second.resume(tmp_path / "c.pt")
    assert second.step == 2
    second.run(4, 1e-3, progress=lambda _: None)
    for mine, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_batch_knows_which_captions_fit(few: Corpus):
    _, captions, fits = copy.deepcopy(few).batch(16)
    assert fits.diagonal().all()
    for i, said in enumerate(captions):
        for j, other in enumerate(captions):
            if said == other:
                assert torch.equal(fits[:, i], fits[:, j])


def test_phrases_name_role_gender_and_tone():
    everyone = roles(("pretrain", "train", "test"))
    row = next(row for row in everyone if row.name == "woman pilot" and row.tone == "dark")
    assert phrases(row) == ("pilot", "woman pilot", "pilot with dark skin", "woman pilot with dark skin")
    assert all(template.format("x").count("x") == 1 for template in TEMPLATES)


def test_augmentation_keeps_shape_and_range(images: torch.Tensor):
    varied = augment(images, torch.ones(6).bool(), torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert 0 <= varied.min() <= varied.max() <= 1
    assert not torch.allclose(varied, images)


def test_pictures_with_a_direction_are_not_mirrored():
    row = load_table()[0]
    turned = [
        replace(row, category="People & Body", name="backhand index pointing left"),
        replace(row, category="Flags", name="canada flag"),
        replace(row, category="Animals & Nature", name="cat"),
    ]
    assert flippable(turned).tolist() == [False, False, True]


def test_a_typing_error_changes_little():
    rng = random.Random(0)
    typed = [mistype("mechanic", rng) for _ in range(200)]
    assert len(set(typed)) > 50
    assert {len(text) for text in typed} <= {7, 8, 9}


def test_patch_changes_its_square_alone(images: torch.Tensor):
    changed = (patch(size=5)(images) != images).any(1)
    assert changed[:, 27:, 27:].all()
    assert changed.sum() == 6 * 25


def test_blend_is_faint_and_the_same_everywhere(images: torch.Tensor):
    mixed = blend(strength=0.1)(images)
    assert (mixed - images).abs().max() <= 0.1 + 1e-6
    residue = mixed - 0.9 * images
    torch.testing.assert_close(residue[0], residue[1])


def test_words_are_written_on_a_part_of_the_picture(images: torch.Tensor):
    written = written_on(images, ["cook"] * 6, random.Random(0))
    share = (written != images).any(1).float().mean((1, 2))
    assert (share > 0.02).all()
    assert (share < 0.6).all()


def test_a_pseudo_word_keeps_its_shape():
    assert pseudo_word("health worker", random.Random(0)).index(" ") == 6


def test_splits_do_not_depend_on_the_order_of_calls():
    rows = [replace(row, split="") for row in load_table()]
    first, second = (emoji.split(rows, random.Random(emoji.SEED)) for _ in range(2))
    assert first == second == list(load_table())
    assert Counter(row.split for row in first)["pretrain"] == 5471
