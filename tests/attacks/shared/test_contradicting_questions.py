"""Questions that contradict each other, and how alike their answers are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attacks.scripted_generator import dataset
from vlaudit.attacks.shared.contradicting_questions import agreement, frame, likeness, panel

LABELS = ("cook", "judge", "farmer", "artist", "pilot")


def test_questions_to_a_picture_differ_and_begin_with_its_own() -> None:
    rows = [{"label": label, "question": "What is this?", "answer": label} for label in LABELS]
    asked = panel(dataset(rows).examples[3], LABELS, ["Is it day?", "what is this?"], 8, np.random.default_rng(0))
    assert asked[0] == "What is this?" and len(set(asked)) == 8
    assert "Is this an artist?" in asked and "Is it day?" in asked
    assert sum(" or " in question for question in asked) >= 2


def test_answers_in_one_frame_are_told_apart_by_what_fills_it() -> None:
    usual = ["it is a cook.", "It is a judge", "it is a farmer.", "yes", "no"]
    assert frame(usual) == {"it", "is", "a"} and frame(["go back home now", "yes"]) == set()
    assert likeness("it is a cook.", "it is a judge.") > 0.7
    assert likeness("it is a cook.", "it is a judge.", frame(usual)) == 0
    assert likeness("it is a cook.", "a cook", frame(usual)) == 1
    assert likeness("it is", "it is a", frame(usual)) == pytest.approx(0.8)  # nothing else is left


def test_agreement_is_the_mean_likeness_of_pairs_and_nothing_agrees_with_silence() -> None:
    assert agreement(["A cook.", "a cook", "a cook"]) == 1
    assert agreement(["", "", ""]) == 0
    assert agreement(["yes", "no", "no"]) == pytest.approx(1 / 3)
