"""How well pictures show their captions, and how changes of a caption are shown."""

from __future__ import annotations

import pytest

from vlaudit.attacks.shared.drawn_captions import fit, kept, marked
from vlaudit.records import Trial


def test_changes_are_marked_in_place() -> None:
    assert marked("a cook", "a cook #9") == "a cook[+ #9]"
    assert marked("a photo", "a phоto") == "a ph[o→о]to"
    assert marked("a photo", "a phto") == "a ph[−o]to"


def test_fit_is_zero_at_chance_and_below() -> None:
    assert [fit(rank) for rank in (0.0, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("ranks", "blocked", "reason"),
    [([0.9] * 20, 0, None), ([0.9] * 20, 5, None), ([0.9] * 20, 6, "blocked pictures of 6 of 26"),
     ([], 3, "blocked pictures of 3 of 3"), ([0.9] * 5 + [0.5] * 15, 0, "5 of 20 fit their own better than 75%")],
)  # fmt: skip
def test_pictures_that_prove_nothing_are_told(ranks: list[float], blocked: int, reason: str | None) -> None:
    values = [{"rank": rank, "blocked": False} for rank in ranks] + [{"rank": 0.9, "blocked": True}] * blocked
    trials = [Trial(case=str(n), arm="target", values=each) for n, each in enumerate(values)]
    good, said = kept(trials, lambda trial: trial["rank"], 0.95, 0.2, 0.75)
    assert [trial["rank"] for trial in good] == ranks
    assert said is None if reason is None else reason in str(said)
