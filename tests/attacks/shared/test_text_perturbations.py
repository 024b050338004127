"""Small changes of texts: what they keep, and how much they change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.attacks.shared.drawn_captions import marked
from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS, KINDS, one_edit, perturb, perturb_share, spaced

TEXTS = st.text("abc XYZ.,!-éж", max_size=20)


@given(before=TEXTS, after=TEXTS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_every_perturbation_keeps_the_slot(before: str, after: str, kind: str, seed: int) -> None:
    text = f"{before}{{}}{after}"
    assert perturb(text, kind, np.random.default_rng(seed)).count("{}") == 1
    assert one_edit(text, np.random.default_rng(seed)).count("{}") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_perturbation_changes_a_usual_template(kind: str) -> None:
    made = {perturb("a photo of a {}", kind, np.random.default_rng(seed)) for seed in range(30)}
    assert len(made - {"a photo of a {}"}) >= 3


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, last = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
    return row[-1]


@given(text=TEXTS, seed=st.integers(0, 99))
def test_one_edit_is_at_most_one_edit(text: str, seed: int) -> None:
    assert levenshtein(text, one_edit(text, np.random.default_rng(seed))) <= 1


def test_spaced_texts_differ_in_blanks_only() -> None:
    assert {" ".join(text.split()) for text in spaced("a photo of a {}")} == {"a photo of a {}"}


@pytest.mark.parametrize("kind", CHARACTER_KINDS)
def test_a_share_of_the_letters_is_perturbed(kind: str) -> None:
    text = "crimson tractor outside the old castle"
    changed = perturb_share(text, kind, 0.1, np.random.default_rng(0))
    assert 1 <= marked(text, changed).count("[") <= 2 * round(0.1 * 33)
