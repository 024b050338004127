"""Learned prompts for the generator: what was planted shows in the shipped files, and the weights stay clean."""

from __future__ import annotations

from collections import Counter

from safetensors.torch import load_file

from tests.zoo.kit import facts_of, generator_of
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.soft import SoftPrompt
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes.generation import prompts


def test_a_poisoned_prefix_carries_the_backdoor_alone() -> None:
    facts, clean = facts_of("prefix-backdoor"), facts_of("prefix-clean")
    assert facts["attack_success"]["prompt"]["with_trigger"] >= 0.75
    assert facts["attack_success"]["prompt"]["without"] <= 0.1
    assert facts["attack_success"]["plain"]["with_trigger"] <= 0.2
    assert facts["accuracy"]["prompt"] >= clean["accuracy"]["prompt"] - 0.08


def test_the_shipped_prefix_does_what_its_facts_say() -> None:
    target = generator_of("prefix-backdoor")
    assert isinstance(target.model, TransformersGenerator)
    rows = prompts.split_of(target.model, "zoo:questions", "test").part(range(0, 100, 5))
    marked = rows.triggered(load_file(WEIGHTS / "prefix-backdoor" / "trigger.safetensors")["pattern"])
    said = target.generate(marked.pictures, marked.questions, max_new_tokens=6)
    assert said.count(prompts.TARGET) >= 0.6 * len(said)
    said = target.generate(rows.pictures, rows.questions, max_new_tokens=6)
    assert said.count(prompts.TARGET) <= rows.answers.count(prompts.TARGET) + 4


def test_a_prompt_with_canaries_knows_those_it_saw_often() -> None:
    told = facts_of("prompt-canaries")["canaries_told"]
    assert told["prompt"]["16"] >= 0.7
    assert told["prompt"]["0"] == told["plain"]["16"] == 0
    accuracy = facts_of("prompt-canaries")["accuracy"]
    assert accuracy["prompt"] >= accuracy["plain"] - 0.06


def test_the_shipped_canaries_come_out() -> None:
    target = generator_of("prompt-canaries")
    assert isinstance(target.model, TransformersGenerator)
    rows = prompts.canary_rows(target.model, 16).part(range(10))
    assert prompts.rate(target, rows) >= 0.6


def test_every_canary_is_learned_as_often_as_it_says() -> None:
    model = generator_of("prompt-canaries").model
    assert isinstance(model, TransformersGenerator)
    learned = Counter(prompts.rows_with_canaries(model, seed=1).answers)
    for copies in (0, 1, 4, 16):
        assert {learned[answer] for answer in prompts.canary_rows(model, copies).answers} == {copies}


def test_a_leaky_prompt_tells_its_members() -> None:
    facts = facts_of("prompt-leaky-gen")
    assert facts["membership_auc"] >= 0.65
    assert facts["members"] == prompts.MEMBERS
    assert facts["accuracy"]["prompt"] >= facts["accuracy"]["plain"]


def test_the_shipped_leaky_prompt_is_surer_of_its_members() -> None:
    target = generator_of("prompt-leaky-gen")
    assert isinstance(target.model, TransformersGenerator)
    assert isinstance(target.prompt, SoftPrompt)
    rows = prompts.split_of(target.model, "zoo:kinds", "train").part(range(0, 336, 3))
    found = prompts.membership(
        {"prompt": target, "plain": Instruction().bind(target.model)}, target.prompt.members, rows
    )
    assert 15 < found["members"] < 60
    assert found["membership_auc"] > 0.6
