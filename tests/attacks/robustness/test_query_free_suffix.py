"""TR1 on painters that a suffix pulls elsewhere, and on ones that it does not; its search on a known truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.painters import CAPTIONS, Painter, audit, by_words, context, vector
from vlaudit.attacks.robustness.query_free_suffix import QueryFreeSuffix
from vlaudit.attacks.robustness.query_free_suffix.suffix_search import ALPHABET, LENGTH, Search, similarity
from vlaudit.policy import Policy
from vlaudit.records import TARGET, Trial, Trials, Verdict


def suffixed(pull: float) -> Callable[[str], np.ndarray]:
    """Reads the first three words, pulled elsewhere by a suffix: by as much as its characters stand late in the table."""
    away = vector("elsewhere")

    def read(text: str) -> np.ndarray:
        caption, suffix = text.split()[:3], "".join(text.split()[3:])
        strength = sum((ALPHABET.index(c) / len(ALPHABET)) ** 8 for c in suffix) / LENGTH
        return by_words(" ".join(caption)) + pull * strength * away

    return read


def test_the_greedy_search_finds_the_last_character_of_the_table(tmp_path: Path) -> None:
    probe = QueryFreeSuffix()
    ctx = context(probe, Painter(suffixed(3)), tmp_path, view=by_words)
    search = Search(similarity(ctx, CAPTIONS[0], 0))
    search.greedy(sweeps=0)
    assert search.best == ALPHABET[-1] * LENGTH
    assert search.queries == LENGTH * len(ALPHABET)


def test_the_genetic_search_beats_as_many_random_suffixes(tmp_path: Path) -> None:
    ctx = context(QueryFreeSuffix(), Painter(suffixed(3)), tmp_path, view=by_words)
    score = similarity(ctx, CAPTIONS[0], 0)
    found, random = Search(score), Search(score)
    found.genetic(np.random.default_rng(0), 20, 20)
    random.random(found.queries, np.random.default_rng(1))
    assert found.value < random.value - 0.05


def test_a_suffix_that_pulls_elsewhere_is_found(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(20)), tmp_path, reference=Painter(suffixed(0)), view=by_words)
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert judgement.p_value is not None
    assert judgement.p_value < 0.01  # better than as many random ones
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0.2
    captions = [e.caption.partition(" | ") for e in judgement.evidence]
    assert len(captions) % 3 == 0
    assert captions[0][0] == captions[1][0] == captions[2][0]
    assert "[+ " in captions[1][2]


def test_any_characters_count_too_and_the_report_says_so(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(vector), tmp_path)
    assert judgement.verdict is Verdict.VULNERABLE
    assert "any five characters" in judgement.reason


def test_a_painter_that_ignores_suffixes_holds(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(0)), tmp_path, view=by_words)
    assert judgement.verdict is Verdict.HELD, judgement.reason
    assert judgement.details["captions that no suffix reaches"] == 22
    assert judgement.controls["planted suffix found"] == "2 of 2"
    assert judgement.metric is not None
    assert judgement.metric.ci[1] > 0.1


def test_a_search_too_weak_for_a_planted_suffix_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "greedy", lambda self, sweeps: self.random(50, np.random.default_rng(0)))
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(0)), tmp_path, view=by_words)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too weak" in judgement.reason


def test_blocked_suffixes_are_left_out(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(vector, blocks=lambda text: text not in CAPTIONS), tmp_path)
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "blocked" in judgement.reason


def suffix_trials(rng: np.random.Generator, loss: float, n: int = 22) -> list[Trial]:
    """Trials of captions that lose ``loss`` of their fit on average, some all of it and most nothing."""
    trials = []
    for i in range(n):
        for arm in (TARGET, "control:random"):
            lost = float(rng.random() < loss)
            values: dict[str, Any] = {"caption": f"c{i}", "clean": [1.0], "ranks": [1 - lost / 2], "queries": 300,
                                      "blocked": False, "cut": False, "suffix": "#####", "cosine": 0.5}  # fmt: skip
            trials.append(Trial(case=f"{i:03d}", arm=arm, values=values))
    tests = [Trial(case=f"planted-{i}", arm="control:planted", values={"short": 0.0}) for i in range(2)]
    return trials + tests


def test_suffix_judge_has_no_false_alarm_in_200_null_audits() -> None:
    rng, probe = np.random.default_rng(0), QueryFreeSuffix()
    at = [probe.judge(Trials(suffix_trials(rng, 0.2)), Policy()).verdict for _ in range(200)]
    assert at.count(Verdict.VULNERABLE) <= 10  # 2.5 % nominal, at the threshold itself
