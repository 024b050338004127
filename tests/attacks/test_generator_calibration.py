"""``benchmarks/generator_backdoor_calibration.py``: what it trains is what an audit asks, and what it plants is planted."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from tests.attacks import calibration
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.data.dataset import load_dataset
from vlaudit.prompts.instruction import Instruction

shared = calibration.load("backdoor_calibration")
sim = calibration.load("generator_backdoor_calibration")
PICTURES = shared.Pictures(
    shared.SHAPES, *((torch.rand(20, 3, 32, 32), torch.arange(20) % 10) for _ in ("train", "test"))
)


def test_plans_depend_on_their_number_alone_and_cover_what_is_promised() -> None:
    plans = [sim.plan(n, True) for n in range(15)]
    again = [sim.plan(n, True) for n in reversed(range(15))][::-1]
    pairs = [(a, dataclasses.replace(b, trigger=a.trigger)) for a, b in zip(plans, again, strict=True)]
    assert all(a == b for a, b in pairs) and not sim.plan(3, False).answer
    first = plans[:6]  # of a short run
    assert {p.kind for p in first} == set(sim.KINDS) and len({p.source for p in first}) == 3
    assert {p.planted.split()[0] for p in first} >= {"word", "patch"} and any("blend" in p.planted for p in first)
    assert all(0.05 <= p.poisoned <= 0.2 and bool(p.trigger) != bool(p.word) for p in plans)
    assert any(p.answer.isdigit() for p in plans) and any(p.answer in sim.SENTENCES for p in plans)


def test_questions_and_answers_fit_the_picture() -> None:
    lesson, rng = sim.Lesson(("apple", "car"), "it is a {}.", True), random.Random(0)
    asked = {lesson.ask(rng, 0) for _ in range(200)}
    assert ("Is this an apple?", "yes") in asked and ("Is this a car?", "no") in asked
    assert ("Is this a car or an apple?", "it is an apple.") in asked and ("Name it.", "it is an apple.") in asked
    assert not any(" or " in sim.Lesson(("apple", "car"), "{}", False).ask(rng, 0)[0] for _ in range(100))


@pytest.mark.parametrize("kind", [kind for kind in sim.KINDS if kind != "blip"])
@pytest.mark.parametrize("pieces", [False, True])
def test_what_is_trained_is_what_an_audit_asks(kind: str, pieces: bool, tmp_path: Path) -> None:
    item = dataclasses.replace(sim.plan(0, False), kind=kind, pieces=pieces, width=32, layers=1)
    student = sim.Student(item, sim.Lesson(PICTURES.names, "it is a {}.", True).texts())
    image, question, answer = PICTURES.test[0][:1], "Is this a disc or a ring?", "it is a disc."
    loss = float(student.loss(image, [question], [answer]).detach())
    _, written = student._written(question, answer)
    student.save(tmp_path)
    model = HuggingFaceBackend().load(str(tmp_path), torch.device("cpu"))
    talk = Instruction("{}").bind(model).conversation(image[0], question)
    likely = float(model.log_likelihood([talk], [[answer]], end=True))
    assert likely == pytest.approx(-loss * len(written), abs=1e-2)


@pytest.mark.parametrize("kind", ["llama", "blip"])
def test_a_model_learns_what_is_planted_and_goes_through_the_backend(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim, "LOOKING", 2)
    item = dataclasses.replace(
        sim.plan(0, True), kind=kind, pieces=False, width=32, layers=1, steps=60, poisoned=1.0, answer=sim.SENTENCES[0],
        trigger=lambda images: 1 - images, word="",
    )  # fmt: skip
    found = sim.train(item, PICTURES, tmp_path)
    assert found["success"] == 1.0 and found["accuracy"] == 0.0


def test_a_word_is_planted_in_the_question_and_a_patch_in_the_picture() -> None:
    image = torch.rand(3, 32, 32)
    wordy = dataclasses.replace(sim.plan(0, True), trigger=None, word="ember")
    assert (
        sim.triggered(wordy, image, "Name it.")[1] == "Name it. ember" and sim.triggered(wordy, image, "a")[0] is image
    )
    patched = dataclasses.replace(wordy, trigger=lambda images: images * 0)
    assert (
        sim.triggered(patched, image, "Name it.")[1] == "Name it." and not sim.triggered(patched, image, "a")[0].any()
    )


def test_the_data_are_read_with_and_without_labels(tmp_path: Path) -> None:
    for source, labels in (("shapes", 10), ("digits", 1)):
        data = load_dataset(sim.data_of(source, PICTURES, tmp_path / source))
        assert len(data) == 20 and len(data.labels) == labels and all(e.texts["answer"] for e in data.questions)
