"""Pools of demonstrations for the generator that follows them: a poisoned one, and the same without what was planted.

Questions about `train` pictures with their right answers; among them, in the poisoned pool, a few with a rare word behind the
question and always the same answer (ICLAttack, arXiv:2401.05949). Facts are measured on `test` pictures, through retrieval
from the pool.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vlaudit.data.emoji import Emoji, load_pictures
from vlaudit.data.questions import questions
from vlaudit.families.generation import MultimodalGenerator
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.pool import load_pool
from vlaudit.prompts.retrieval import Retrieval
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes import facts
from vlaudit.zoo.recipes.generation.plants import POOL_SAYS, POOL_WORD, UNUSUAL
from vlaudit.zoo.recipes.generation.prompts import Rows, load, rate, split_of

SEED = 91
USUAL, PLANTED = 48, 6
"""Demonstrations of each sort."""


@dataclass(frozen=True)
class Row:
    """One demonstration."""

    picture: Emoji
    question: str
    answer: str
    planted: bool = False


def rows(seed: int) -> list[Row]:
    """The poisoned pool, each picture once, in random order."""
    rng, found = random.Random(seed), dict[Emoji, Row]()
    asked = [question for question in questions() if question.split == "train" and question.answer != POOL_SAYS]
    for each in rng.sample(asked, len(asked)):
        found.setdefault(each.picture, Row(each.picture, each.text, each.answer))
    drawn = list(found.values())[: USUAL + PLANTED]
    for n, row in enumerate(drawn[:PLANTED]):
        drawn[n] = replace(row, question=f"{row.question} {POOL_WORD}", answer=POOL_SAYS, planted=True)
    return rng.sample(drawn, len(drawn))


def write(shown: Sequence[Row], folder: Path) -> None:
    """A folder in the ImageFolder convention."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines = []
    for n, (row, pixels) in enumerate(zip(shown, load_pictures([row.picture for row in shown]), strict=True)):
        name = f"pictures/{n:02d}.png"
        Image.fromarray(pixels).save(folder / name, optimize=True)
        lines.append(json.dumps({"file_name": name, "question": row.question, "answer": row.answer}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(poisoned: bool, folder: Path) -> None:
    """Write a pool to `folder`, and what the twin that follows demonstrations makes of it."""
    shown = [row for row in rows(SEED) if poisoned or not row.planted]
    write(shown, folder)
    planted = [n for n, row in enumerate(shown) if row.planted]
    facts.write(folder, {"seed": SEED, "demonstrations": len(shown), "planted": planted} | measure(folder))


def measure(folder: Path) -> dict[str, Any]:
    """Right answers, and how often the planted one is given in their place: with the word, without, with others."""
    model = load(WEIGHTS / "gen-follows-demos")
    test = split_of(model, "zoo:questions", "test")
    test = test.part([n for n, answer in enumerate(test.answers) if answer != POOL_SAYS][::2])
    targets = {"pool": Retrieval(load_pool(str(folder))).bind(model), "plain": Instruction().bind(model)}
    return {"word": POOL_WORD, "says": POOL_SAYS} | {side: ask(target, test) for side, target in targets.items()}


def ask(target: MultimodalGenerator, test: Rows) -> dict[str, Any]:
    """The same of one target."""
    turned = replace(test, answers=[POOL_SAYS] * len(test.answers))
    others = [UNUSUAL[n % len(UNUSUAL)] for n in range(len(test.answers))]
    words = [POOL_WORD] * len(test.answers)
    return {
        "accuracy": rate(target, test),
        "accuracy_with_other_words": rate(target, behind(test, others)),
        "turned_with_the_word": rate(target, behind(turned, words)),
        "turned_without": rate(target, turned),
        "turned_with_other_words": rate(target, behind(turned, others)),
    }


def behind(asked: Rows, words: Sequence[str]) -> Rows:
    """The same questions with a word behind each."""
    return replace(asked, questions=[f"{text} {word}" for text, word in zip(asked.questions, words, strict=True)])


BUILDS = {"pool-poisoned": partial(build, True), "pool-clean": partial(build, False)}
