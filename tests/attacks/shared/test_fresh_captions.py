"""Captions to audit, and fresh ones that nobody was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks import painters
from vlaudit.attacks.shared.fresh_captions import HELD_OUT, MIXED_UP, RECOMBINED, audited_captions, fresh_captions
from vlaudit.probe import Context

WORLD = painters.World.of(80)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return painters.context(painters.painter(WORLD), WORLD, "memorization-norm", tmp_path)


def test_fresh_captions_are_new_and_as_long(ctx: Context) -> None:
    captions = audited_captions(ctx, 50)
    fresh = fresh_captions(ctx, captions, 200)
    texts = [text for text, _ in fresh]
    assert len(set(texts)) == len(texts) == 200
    assert not set(texts) & set(WORLD.captions)
    assert {len(text.split()) for text in texts} == {6}
    assert fresh == fresh_captions(ctx, captions, 200)


def test_fresh_captions_are_made_as_captions_are(ctx: Context) -> None:
    """Not of mixed-up words: those pull less than any caption that makes sense."""
    captions = audited_captions(ctx, 80)
    for text, made in fresh_captions(ctx, captions, 300):
        words = text.split()
        assert made == RECOMBINED
        assert (words[0], words[2]) == ("a", "of")
        assert words[1] in painters.SHAPES
        assert set(words[3:]) <= set(painters.WORDS)
        for caption in captions:  # none is a remembered one but for a common word
            assert sum(a != b for a, b in zip(words, caption.split(), strict=True)) >= 1


def test_captions_of_held_out_pictures_are_the_best_fresh_ones(ctx: Context) -> None:
    mine = [e for e in ctx.data.examples if (int(e.id[-3:]) < 40) is e.member]
    ctx.data = replace(ctx.data, examples=mine)
    captions = audited_captions(ctx, 80)
    assert set(captions) == set(WORLD.captions[:40]), "who declares members has others that are no memory"
    fresh = fresh_captions(ctx, captions, 60)
    assert {text for text, made in fresh if made == HELD_OUT} == set(WORLD.captions[40:])
    assert len(fresh) == 60


def test_where_every_sensible_caption_is_known_words_are_mixed_up(ctx: Context) -> None:
    every = [f"a {shape} of {word}" for shape in painters.SHAPES for word in painters.WORDS]
    ctx.data = replace(
        ctx.data, examples=[replace(ctx.data.examples[i], texts={"text": text}) for i, text in enumerate(every)]
    )
    made = [how for _, how in fresh_captions(ctx, every, 150)]
    assert made.count(MIXED_UP) > 50
    assert made.count(RECOMBINED) < 100


def test_repeated_captions_are_audited_first(ctx: Context) -> None:
    repeated = [replace(e, id=f"again {k}") for e in ctx.data.examples[7:9] for k in range(3)]
    ctx.data = replace(ctx.data, examples=[*ctx.data.examples, *repeated])
    assert set(audited_captions(ctx, 2)) == set(WORLD.captions[7:9])
