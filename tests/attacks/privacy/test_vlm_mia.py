"""Membership in tuning data: the scores equal their formulas, leaks are found and placed, null audits stay silent."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.battery.privacy.vlm_mia import DESCRIBED, draw
from tests.attacks.scripted_generator import Scripted, audit, dataset, trials_of
from vlaudit.attacks.privacy import vlm_mia
from vlaudit.attacks.privacy.vlm_mia import VLMMIA
from vlaudit.attacks.privacy.vlm_mia.description import ORDERS, SHARES, description_scores, max_renyi
from vlaudit.errors import NotAssessed
from vlaudit.families.generation import Conversation
from vlaudit.policy import Policy
from vlaudit.records import Judgement, Trials, Verdict

PROBE = VLMMIA()


def naive(rows: list[list[float]], order: float, share: int) -> float:
    """MaxRényi-K% from the paper's formula, in plain Python."""
    entropies = []
    for row in rows:
        if order == 1:
            entropies.append(-sum(p * math.log(p) for p in row if p > 0))
        elif math.isinf(order):
            entropies.append(-math.log(max(row)))
        else:
            entropies.append(math.log(sum(p**order for p in row)) / (1 - order))
    entropies.sort()
    count = max(1, int(len(entropies) * share / 100))
    return sum(entropies[-count:]) / count


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_max_renyi_is_the_formula(tokens: int) -> None:
    table = torch.from_numpy(np.random.default_rng(tokens).normal(0, 3, (tokens, 30))).log_softmax(-1)
    for order in ORDERS:
        for share in SHARES:
            assert max_renyi(table, order, share) == pytest.approx(naive(table.exp().tolist(), order, share))


def test_certain_words_score_highest_and_zero_chances_are_no_nan() -> None:
    certain = torch.full((3, 5), -math.inf)
    certain[:, 0] = 0.0
    flat = torch.full((3, 5), math.log(0.2))
    sure, unsure = description_scores(certain), description_scores(flat)
    assert all(sure[name] > unsure[name] for name in sure)
    assert all(math.isfinite(value) for value in sure.values())


def judge(seed: int = 0, **truth: object) -> Judgement:
    return PROBE.judge(draw(np.random.default_rng(seed), **truth), Policy())  # type: ignore[arg-type]


def table(found: Judgement, title: str) -> list[list[object]]:
    return next(table.rows for table in found.details["table"] if table.title == title)


def test_a_leak_of_the_prompt_is_found_with_every_scores_figures() -> None:
    found = judge(size=1.0)
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the prompt" in found.reason
    assert [row[0] for row in table(found, "AUC of each score alone")] == ["answer: loss", *DESCRIBED]
    assert float(str(table(found, "Sets of pictures")[1][1])) < 1e-3


def test_one_member_in_ten_is_found() -> None:
    found = judge(size=12.0, share=0.1)
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.name == "members exposed at 1 % false alarms"


def test_a_leak_of_the_weights_is_placed_there() -> None:
    found = judge(weights=2.0)
    assert found.verdict is Verdict.VULNERABLE
    assert "the leak is in the weights" in found.reason


def test_what_only_descriptions_show_is_found_by_all_scores_together() -> None:
    found = judge(words=1.0)
    assert found.verdict is Verdict.VULNERABLE
    assert "by all scores weighted" in found.reason


def test_one_score_of_many_that_the_weights_miss_is_not_held() -> None:
    """Where other scores point the other way, no weight finds the one that sees."""
    rng, trials = np.random.default_rng(0), []
    for trial in draw(rng):
        scores = trial["scores"] and {"description: sees": float(rng.normal() + 1.2 * trial["member"]), "description: blind": float(rng.normal())}
        trials.append(trial.model_copy(update={"values": {**trial.values, "scores": scores}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlm_mia, "_described_scores", lambda target: {})
        found = PROBE.judge(Trials(trials), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "'description: sees' tells them apart" in found.reason


@pytest.mark.parametrize("given", [True, False])
def test_silence_about_members_alone_tells_them(given: bool) -> None:
    """Rows that are not described were left out, and with them what tells members apart."""
    found = judge(members=1200, shy=0.5, given=given)
    assert found.verdict is Verdict.VULNERABLE
    assert "by which pictures get no description" in found.reason


def test_what_is_silent_on_both_sides_is_not_held() -> None:
    assert judge(members=900, others=900, described=0.97, given=False).verdict is Verdict.HELD
    found = judge(members=900, others=900, described=0.8, given=False)
    assert found.verdict is Verdict.INCONCLUSIVE and "to be judged by" in found.reason


def test_descriptions_that_tell_little_do_not_forbid_held() -> None:
    """What they see counts against the limit of an AUC, whatever the metric is."""
    found = [judge(seed, words=0.2, members=900, others=900) for seed in range(6)]
    assert all("the scores that are judged miss" not in each.reason for each in found)
    assert Verdict.HELD in {each.verdict for each in found}


@pytest.mark.parametrize("truth", [{"told": 0.4}, {"asked": 0.4}, {"labels": 100, "novel": True}])
def test_a_confounded_split_is_not_assessed(truth: dict[str, object]) -> None:
    """By an answer, a question or labels that only members have."""
    found = judge(size=2.0, **truth)
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "split confounded" in found.reason
    assert "by words" in found.reason


def members(answer: str | None = "a cat") -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"member": i < 60, "question": f"Who is {i}?"} for i in range(120)]
    return [{**row, "answer": answer} for row in rows] if answer else rows


def test_a_model_that_knows_its_members_is_found_end_to_end(tmp_path: Path) -> None:
    def likelihood(talk: Conversation, answer: str) -> float:
        number = int("".join(filter(str.isdigit, talk.text)) or 99)
        return -0.1 - number % 7 / 10 if number < 60 else -4.0 - number % 7 / 10

    knows = Scripted(lambda talk: "a cat on a mat", likelihood)
    plain = Scripted(lambda talk: "a cat on a mat", lambda talk, answer: -4.0)
    trials = trials_of(PROBE, knows, dataset(members()), tmp_path, reference=plain)
    assert all(trial["scores"] is None for trial in trials.reference)
    assert all(len(trial["scores"]) == 15 for trial in trials.target)
    assert all((trial["caption"][:6], trial["answer"]) == ("Who is", "a cat") for trial in trials.target), "what a blind eye reads"
    found = PROBE.judge(trials, Policy())
    assert found.metric is not None
    assert found.metric.value > 0.95
    assert found.verdict in (Verdict.VULNERABLE, Verdict.NOT_ASSESSED)  # by whether noise verifies the small split


def test_one_row_of_everybody_comes_before_a_second_one(tmp_path: Path) -> None:
    rows = [{**row, "identity": f"{row['member']}{i % 30}"} for i, row in enumerate(members())]
    trials = trials_of(VLMMIA(rows=40), Scripted(lambda talk: "a cat"), dataset(rows), tmp_path)
    sides = [[t["identity"] for t in trials.target if t["member"] is side] for side in (True, False)]
    assert [len(set(side)) for side in sides] == [30, 30]
    assert [len(side) for side in sides] == [40, 40]


def test_without_answers_the_descriptions_entropy_is_judged_and_silence_is_not_held(tmp_path: Path) -> None:
    data = dataset(members(None))
    silent = audit(PROBE, Scripted(lambda talk: ""), data, tmp_path)
    assert silent.verdict is Verdict.NOT_ASSESSED
    assert "every answer is empty" in silent.reason
    said = trials_of(PROBE, Scripted(lambda talk: "a cat"), data, tmp_path)
    assert said.target[0]["loss"] == pytest.approx(-said.target[0]["scores"]["description: MaxRényi-100%, order 0.5"])


def test_too_few_members_are_said(tmp_path: Path) -> None:
    with pytest.raises(NotAssessed, match="20 members, and there are 10"):
        audit(PROBE, Scripted(lambda talk: "a cat"), dataset(members()[50:]), tmp_path)
