"""Captions to audit, and fresh ones that nobody was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks import painters
from vlaudit.attacks.shared.fresh_captions import audited_captions, fresh_captions
from vlaudit.probe import Context

WORLD = painters.World.of(80)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return painters.context(painters.painter(WORLD), WORLD, "memorization-norm", tmp_path)


def test_fresh_captions_are_new_and_as_long(ctx: Context) -> None:
    captions = audited_captions(ctx, 50)
    fresh = fresh_captions(ctx, captions, 200)
    assert len(set(fresh)) == len(fresh) > 150
    assert not set(fresh) & set(WORLD.captions)
    assert {len(text.split()) for text in fresh} == {6}
    assert fresh == fresh_captions(ctx, captions, 200)


def test_repeated_captions_are_audited_first(ctx: Context) -> None:
    repeated = [replace(e, id=f"again {k}") for e in ctx.data.examples[7:9] for k in range(3)]
    ctx.data = replace(ctx.data, examples=[*ctx.data.examples, *repeated])
    assert set(audited_captions(ctx, 2)) == set(WORLD.captions[7:9])
