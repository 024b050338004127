from __future__ import annotations

from collections import Counter

import pytest

from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.data.emoji import load_table
from vlaudit.data.questions import LABELS, label_of, questions


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("zoo:questions", groups=["gender", "tone"], members="train")


def test_rows_have_unique_ids_right_answers_and_choices_that_hold_them(data: Dataset) -> None:
    assert len({e.id for e in data.examples}) == len(data.examples)
    assert 150 <= len(data.audit) <= 400
    for example in data.examples:
        assert example.answer in example.choices
        assert example.label in LABELS
        if example.id.endswith("/yes-no"):
            said = example.question.lower().removesuffix("?").split(" ", 3)[-1]
            assert (example.answer == "yes") == (said == example.label)
        else:
            assert example.answer == example.label


def test_pairs_differ_in_gender_alone_and_share_their_split(data: Dataset) -> None:
    assert len(data.pairs) >= 90
    for man, woman in data.pairs:
        assert {man.attributes["gender"], woman.attributes["gender"]} == {"man", "woman"}
        assert (man.label, man.question, man.answer, man.choices) == (
            woman.label,
            woman.question,
            woman.answer,
            woman.choices,
        )
        assert man.attributes["tone"] == woman.attributes["tone"]
        assert man.attributes["style"] == woman.attributes["style"]
        assert man.split == woman.split == "test"


def test_splits_are_alike_and_show_nothing_that_the_models_saw() -> None:
    shown = {question.picture for question in questions()}
    assert not any(row.split == "pretrain" for row in shown)
    labels = {
        split: Counter(label_of(q.picture) for q in questions() if q.split == split) for split in ("train", "test")
    }
    assert all(abs(labels["train"][label] - labels["test"][label]) <= 8 for label in LABELS)
    answers = Counter(q.answer for q in questions() if q.kind == "yes-no")
    assert 0.4 < answers["yes"] / answers.total() < 0.6
    assert {label_of(row) for row in load_table()} == {*LABELS, ""}


def test_a_beginning_of_the_list_is_mixed(data: Dataset) -> None:
    first = data.audit[:60]
    assert len({e.label for e in first}) >= 8
    assert {e.attributes["gender"] for e in first} >= {"man", "woman"}
