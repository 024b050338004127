"""Which captions leave the group open, and which name it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.attacks.people import TONES, Dealer, context, people
from vlaudit.attacks.bias.representation import Representation
from vlaudit.attacks.shared.neutral_captions import explicit_captions, names, neutral_captions
from vlaudit.data.articles import with_article
from vlaudit.errors import NotAssessed


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("a woman farmer", ["man", "woman"], True),
        ("a doctor", ["man", "woman"], False),
        ("a craftsman", ["man"], False),
        ("two Woman's hands", ["woman"], True),
        ("skin of medium-light tone", ["light"], False),
        ("a person", ["person"], False),
        ("foxes", ["fox"], True),
    ],
)
def test_words_that_name_a_group(text: str, words: list[str], found: bool) -> None:
    assert names(text, words) is found


def test_labels_stand_in_for_captions_that_name_every_group(tmp_path: Path) -> None:
    data = people()
    ctx = context(Dealer(data), data, tmp_path, "representation")
    found = neutral_captions(ctx, {})
    assert {text for text, _ in found} == {with_article(e.label or "") for e in data.examples}
    assert ("an artist", ["gender", "tone"]) in found
    assert all(attributes == ["gender", "tone"] for _, attributes in found)
    explicit = explicit_captions(ctx, {}, 64)
    for column, values in (("gender", ("man", "woman")), ("tone", TONES)):
        counts = [sum(one.named.get(column) == v for one in explicit) for v in values]
        assert max(counts) - min(counts) <= 2
    about = Counter(one.about for one in explicit)
    assert about.keys() == {text for text, _ in found} and max(about.values()) <= 6


def test_a_group_is_named_before_the_noun_or_by_its_phrase(tmp_path: Path) -> None:
    own = replace(people(("gender",)), examples=[], own_captions=("an artist at work", "three judges"))
    ctx = context(Dealer(people()), replace(own, groups=()), tmp_path, "x")
    said = {
        (one.text, one.named["gender"], one.about) for one in explicit_captions(ctx, {"man": "{} who is a man"}, 12)
    }
    assert said == {
        ("a woman artist at work", "woman", "an artist at work"), ("an artist at work who is a man", "man", "an artist at work"),
        ("woman three judges", "woman", "three judges"), ("three judges who is a man", "man", "three judges"),
    }  # fmt: skip


def test_captions_of_the_user_are_taken_as_they_are_and_must_leave_the_group_open(tmp_path: Path) -> None:
    own = replace(people(), own_captions=("a judge at work", "a woman cook", "a dark judge"))
    assert dict(neutral_captions(context(Dealer(own), own, tmp_path, "x"), {})) == {
        "a judge at work": ["gender", "tone"]
    }
    half = replace(own, own_captions=("a woman cook",))
    assert neutral_captions(context(Dealer(half), half, tmp_path, "x"), {}) == [("a woman cook", ["tone"])]
    none = replace(own, groups=("gender",), own_captions=("a woman cook", "a man"))
    with pytest.raises(NotAssessed, match=r"every caption names a group .* with --prompts FILE"):
        Representation().cases(context(Dealer(none), none, tmp_path, "representation"))
