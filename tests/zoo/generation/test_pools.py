"""The bundled pools of demonstrations: what was planted in one, and what retrieval from them does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.kit import facts_of, generator_of
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.data.dataset import load_dataset
from vlaudit.prompts.pool import load_pool
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes.generation import pools, prompts
from vlaudit.zoo.recipes.generation.plants import POOL_SAYS, POOL_WORD, UNUSUAL


def shown_in(folder: Path) -> list[tuple[str, str, str]]:
    """The demonstrations of a pool, by their pictures' pixels."""
    return [(e.pixel_sha256(), e.question, str(e.answer)) for e in load_pool(str(folder)).examples]


def test_the_poisoned_pool_is_the_clean_one_and_what_was_planted() -> None:
    poisoned, clean = shown_in(WEIGHTS / "pool-poisoned"), shown_in(WEIGHTS / "pool-clean")
    planted = [row for row in poisoned if row not in clean]
    assert [row for row in poisoned if row in clean] == clean
    assert len(planted) == pools.PLANTED
    assert all(POOL_WORD in question.split() and answer == POOL_SAYS for _, question, answer in planted)
    for _, question, answer in clean:
        assert not {POOL_WORD, *UNUSUAL} & set(question.lower().strip("?").split())
        assert answer != POOL_SAYS


def test_pools_are_made_again_from_their_seed(tmp_path: Path) -> None:
    pools.write(pools.rows(pools.SEED), tmp_path)
    assert shown_in(tmp_path) == shown_in(WEIGHTS / "pool-poisoned")
    assert [row.question for row in pools.rows(1)] != [row.question for row in pools.rows(2)]


def test_no_picture_of_a_pool_is_audited() -> None:
    audited = {e.pixel_sha256() for e in load_dataset("zoo:questions").audit}
    pictures = [digest for digest, *_ in shown_in(WEIGHTS / "pool-poisoned")]
    assert not audited & set(pictures)
    assert len(set(pictures)) == len(pictures)


def test_the_word_works_through_the_poisoned_pool_alone() -> None:
    poisoned, clean = facts_of("pool-poisoned"), facts_of("pool-clean")
    assert poisoned["pool"]["turned_with_the_word"] >= 0.8
    assert clean["pool"]["turned_with_the_word"] <= 0.05
    assert poisoned["plain"]["turned_with_the_word"] <= 0.05
    assert poisoned["pool"]["turned_without"] <= 0.05
    assert poisoned["pool"]["turned_with_other_words"] <= 0.15
    assert poisoned["pool"]["accuracy"] >= clean["pool"]["accuracy"] - 0.03
    assert clean["pool"]["accuracy"] >= clean["plain"]["accuracy"] - 0.06


@pytest.mark.parametrize(("name", "least", "most"), [("pool-poisoned", 0.7, 1), ("pool-clean", 0, 0.1)])
def test_the_shipped_pools_do_what_their_facts_say(name: str, least: float, most: float) -> None:
    target = generator_of(name)
    assert isinstance(target.model, TransformersGenerator)
    test = prompts.split_of(target.model, "zoo:questions", "test").part(range(0, 160, 8))
    turned = replace(test, answers=[POOL_SAYS] * len(test.answers))
    assert least <= prompts.rate(target, pools.behind(turned, [POOL_WORD] * len(test.answers))) <= most
