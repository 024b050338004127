"""The blind baseline sees pictures, files, labels, captions and answers, and no model; what is learned is asked of other people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlaudit.attacks.shared.blind_baseline import blind_features, blind_scores, out_of_fold, weighted, word_features
from vlaudit.data.example import Example
from vlaudit.records import TARGET, Trial
from vlaudit.statistics import auc

N = 240
MEMBERS = np.arange(N) < N // 2
PEOPLE = [f"p{i}" for i in range(N)]


def _words(**texts: object) -> list[set[str]]:
    """Of N trials; a text is a function of the number."""
    made = [{key: make(i) for key, make in texts.items()} for i in range(N)]  # type: ignore[operator]
    return [word_features(Trial(case=str(i), arm=TARGET, values=values)) for i, values in enumerate(made)]


def _told(eyes: dict[str, np.ndarray], eye: str) -> float:
    return auc(eyes[eye][MEMBERS], eyes[eye][~MEMBERS])


def test_blind_features_see_the_file_but_no_label(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    inline = blind_features(Example("x", pixels, "cat", member=True))
    filed = blind_features(Example("y", path, "dog", member=False))
    assert filed[: len(inline)] == inline
    assert path.stat().st_size in filed
    assert all(np.isfinite(filed))


@pytest.mark.parametrize("labels", [6, 60, 120])
def test_labels_of_one_side_are_seen_however_many_there_are(labels: int) -> None:
    rng = np.random.default_rng(0)
    half = labels // 2
    words = _words(label=lambda i: f"l{rng.integers(half) + half * (i < N // 2)}")
    eyes = blind_scores(rng.normal(size=(N, 5)), words, MEMBERS, PEOPLE)
    assert _told(eyes, "words") > 0.9
    same = _words(label=lambda i: f"l{rng.integers(labels)}")
    assert _told(blind_scores(rng.normal(size=(N, 5)), same, MEMBERS, PEOPLE), "words") < 0.6


@pytest.mark.parametrize("text", ["caption", "answer"])
def test_what_was_asked_and_what_is_scored_are_read(text: str) -> None:
    words = _words(**{text: lambda i: ("the cat" if i < N // 2 else "a cat") if i % 2 else "it"})
    eyes = blind_scores(np.random.default_rng(0).normal(size=(N, 5)), words, MEMBERS, PEOPLE)
    assert _told(eyes, "words") > 0.7


def test_without_words_there_is_one_eye() -> None:
    assert list(blind_scores(np.random.default_rng(0).normal(size=(N, 5)), _words(), MEMBERS, PEOPLE)) == ["pictures"]


@pytest.mark.parametrize("change", [lambda x: x + 1.0, lambda x: 2.5 * x], ids=["brighter", "more varied"])
def test_members_that_look_otherwise_are_seen(change: object) -> None:
    features = np.random.default_rng(0).normal(size=(N, 12))
    features[MEMBERS, 3] = change(features[MEMBERS, 3])  # type: ignore[operator]
    assert _told(blind_scores(features, _words(), MEMBERS, PEOPLE), "pictures") > 0.6


def test_nobody_is_in_what_is_learned_and_in_what_is_asked() -> None:
    """Ten pictures of everybody, whose looks say who they are: learned by heart, they would tell every member."""
    people = [f"p{i // 10}" for i in range(N)]
    looks = np.random.default_rng(0).normal(size=(N // 10, 30)).repeat(10, axis=0)
    member = np.random.default_rng(1).permutation(N // 10) < N // 20

    def nearest(known: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
        return np.array([truth[np.square(known - one).sum(axis=1).argmin()] for one in asked], dtype=float)

    scores = out_of_fold(nearest, looks, member.repeat(10), people)
    assert auc(scores[member.repeat(10)], scores[~member.repeat(10)]) < 0.75


def test_weights_find_the_attack_that_sees_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    noise = {f"x{k}": rng.normal(size=N) for k in range(60)}
    scores = weighted(noise, MEMBERS, PEOPLE)
    assert abs(auc(scores[MEMBERS], scores[~MEMBERS]) - 0.5) < 0.1
    scores = weighted({**noise, "sees": rng.normal(size=N) + 2.0 * MEMBERS}, MEMBERS, PEOPLE)
    assert auc(scores[MEMBERS], scores[~MEMBERS]) > 0.75


def test_few_that_every_attack_sees_stay_on_top() -> None:
    """One member in ten, beyond all others in eight attacks: no weight may be so negative that it brings them down again."""
    rng = np.random.default_rng(0)
    exposed = MEMBERS & (rng.random(N) < 0.1)
    hard = rng.normal(size=N)
    scores = weighted({f"x{k}": hard + rng.normal(size=N) + 12 * exposed for k in range(8)}, MEMBERS, PEOPLE)
    assert scores[exposed].min() > scores[~exposed].max()
