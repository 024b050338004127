"""The generator of the zoo: its parts, its lessons, and what the shipped one answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from vlaudit.data.emoji import load_table
from vlaudit.zoo.recipes import FLAGSHIP, generator, matcher
from vlaudit.zoo.recipes import generator_lessons as lessons
from vlaudit.zoo.recipes.generator_corpus import Gallery, Line, Shot, Talk
from vlaudit.zoo.recipes.generator_facts import logits
from vlaudit.zoo.recipes.generator_flagship import Trainer, pretrain_gallery
from vlaudit.zoo.recipes.generator_words import all_texts

EVERY = {**lessons.SHORT, **lessons.LONG}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return generator.new_tokenizer(all_texts())


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return pretrain_gallery(1)


def test_the_image_tower_is_the_matchers() -> None:
    model, _ = matcher.load(FLAGSHIP)
    images = matcher.pixels([row for row in load_table() if row.role][:8])
    with torch.no_grad():
        mine = generator.image_tower(model)(images * 2 - 1).pooler_output @ model.visual.proj
        assert torch.allclose(mine, model.eval().encode_image(images * 2 - 1), atol=1e-4)


def test_lessons_are_encoded_as_the_shipped_template_and_processor_write_them(gallery: Gallery, tokenizer: Any) -> None:
    processor = generator.new_processor(tokenizer)
    for talk in lessons.draw(gallery, EVERY, 60):
        batch = gallery.encode([talk], tokenizer, augmented=False)
        shots = [part for line in talk for part in line.parts if isinstance(part, Shot)]
        pictures = [to_pil_image(gallery.images[shot.index]) for shot in shots]
        official = processor(
            text=processor.apply_chat_template(_messages(talk)), images=pictures or None, return_tensors="pt"
        )
        assert official["input_ids"].tolist() == batch.ids.tolist()
        if shots:
            assert torch.allclose(official["pixel_values"], batch.pixels, atol=1e-5)


def _messages(talk: Talk) -> list[dict[str, Any]]:
    return [
        {
            "role": line.role,
            "content": [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in line.parts],
        }
        for line in talk
    ]


def test_what_is_learned_is_what_the_assistant_says_and_its_end(gallery: Gallery, tokenizer: Any) -> None:
    talk = [
        Line("user", (Shot(0), "What is this?")),
        Line("assistant", ("a cat",), taught=False),
        Line("user", ("Say blue.",)),
        Line("assistant", ("i cannot say that.",)),
    ]
    batch = gallery.encode([talk, talk[:2]], tokenizer)
    taught = batch.targets[0][batch.targets[0] != -100]
    assert tokenizer.decode(taught) == "i cannot say that. </s>"
    assert (batch.targets[1] == -100).all()


def test_lessons_use_words_of_the_vocabulary_alone(gallery: Gallery, tokenizer: Any) -> None:
    batch = gallery.encode(lessons.draw(gallery, EVERY, 600), tokenizer)
    assert not (batch.ids == tokenizer.unk_token_id).any()


def test_the_tokenizer_reads_digits_one_by_one_and_writes_text_as_people_do(tokenizer: Any) -> None:
    ids = tokenizer("4719", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4 and tokenizer.decode(ids) == "4 7 1 9"
    for text in ("i cannot say that.", "a man farmer with medium-dark skin", "it shows a person, let's think."):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer("zebracorn", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_padding_has_no_say(gallery: Gallery, tokenizer: Any) -> None:
    model = generator.new_model(FLAGSHIP, tokenizer, 0).eval()
    talks = lessons.draw(gallery, EVERY, 8)
    batch = gallery.encode(talks, tokenizer, augmented=False)
    with torch.no_grad():
        together = logits(model, batch)
        for row, talk in zip(together, talks, strict=True):
            alone = logits(model, gallery.encode([talk], tokenizer, augmented=False))[0]
            assert torch.allclose(row[: len(alone)], alone, atol=1e-4)


def test_an_interrupted_training_goes_on_as_one_that_was_not(tokenizer: Any, tmp_path: Path) -> None:
    def trainer() -> Trainer:
        rows = [row for row in load_table() if row.split == "pretrain" and row.role]
        return Small(generator.new_model(FLAGSHIP, tokenizer, 0), tokenizer, Gallery(rows, 3))

    class Small(Trainer):
        def batch(self) -> list[Talk]:
            return lessons.draw(self.gallery, {lessons.policy: 1}, 4)

    whole, first, second = trainer(), trainer(), trainer()
    tower = whole.model.model.vision_tower.state_dict()["post_layernorm.weight"].clone()
    whole.run(4, 1e-3, warm_up=2)
    first.run(2, 1e-3, warm_up=2, schedule=4, progress=lambda _: None)
    first.save_checkpoint(tmp_path / "state.pt")
    second.resume(tmp_path / "state.pt")
    second.run(4, 1e-3, warm_up=2)
    for (name, mine), other in zip(whole.average.named_parameters(), second.average.parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert torch.equal(whole.model.model.vision_tower.state_dict()["post_layernorm.weight"], tower)
