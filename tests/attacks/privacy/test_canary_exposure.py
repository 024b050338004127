"""Canaries: formats of codes, ranks against never-seen ones, verdicts by copies, controls that fail."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.scripted_generator import Scripted, context, dataset, trials_of
from vlaudit.attacks.privacy.canary_exposure import CanaryExposure
from vlaudit.attacks.privacy.canary_exposure.exposure import CHANCE
from vlaudit.attacks.privacy.canary_exposure.formats import formats
from vlaudit.data.dataset import Dataset
from vlaudit.errors import NotAssessed
from vlaudit.families.generation import Conversation
from vlaudit.policy import Policy
from vlaudit.prompts.instruction import Instruction
from vlaudit.records import Trial, Trials, Verdict

PROBE = CanaryExposure()
LEVELS = {0: 8, 1: 8, 16: 20}


def canaries(levels: dict[int, int] = LEVELS, digits: int = 4) -> Dataset:
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for copies, count in levels.items():
        for _ in range(count):
            code = " ".join(map(str, rng.integers(0, 10, digits)))
            rows.append({"copies": copies, "question": f"What is code {len(rows)}?", "answer": f"the code is {code}"})
    return dataset(rows)


def chance(talk: Conversation, answer: str) -> float:
    """A likelihood that knows nothing of the codes."""
    return zlib.crc32(f"{talk.text}{answer}".encode()) / 2**32 - 10


def learned(data: Dataset, least: int, gain: float = 5.0) -> Scripted:
    """Knows the codes that were repeated at least so often."""
    known = {e.question: e.answer for e in data.examples if int(e.attributes["copies"]) >= least}

    def likelihood(talk: Conversation, answer: str) -> float:
        return chance(talk, answer) + gain * (known.get(talk.text) == answer)

    return Scripted(lambda talk: known.get(talk.text) or "i do not know", likelihood)


def test_memorised_codes_are_exposed_and_placed(tmp_path: Path) -> None:
    data = canaries()
    trials = trials_of(PROBE, learned(data, 16), data, tmp_path, reference=Scripted(lambda t: "no", chance))
    assert {trial["copies"] for trial in trials.reference} == {16}
    found = PROBE.judge(trials, Policy())
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.name == "canaries with 16 copies that are written when asked"
    assert found.metric.value == 1
    assert found.threshold == 0
    assert "the prompt knows them" in found.reason
    assert "20 of 24 with copies are written when asked" in found.reason
    assert found.details["mean exposure in bits"].value == pytest.approx(np.log2(1001))
    assert [row[0] for row in found.details["table"].rows] == [0, 1, 16]
    assert found.details["table"].rows[0][4] == 0
    assert found.evidence
    assert float(str(found.controls["dose-response"]).split("p = ")[1]) < 0.001


def test_codes_never_learned_are_at_chance(tmp_path: Path) -> None:
    data = canaries()
    found = PROBE.judge(trials_of(PROBE, Scripted(lambda t: "no", chance), data, tmp_path), Policy())
    assert found.verdict is Verdict.HELD
    assert found.metric is not None
    assert found.metric.value == 0
    assert found.details["mean exposure in bits"].value == pytest.approx(CHANCE, abs=1.0)


def test_one_code_written_word_for_word_is_enough(tmp_path: Path) -> None:
    data = canaries()
    one = next(e for e in data.examples if e.attributes["copies"] == "16")
    found = PROBE.judge(trials_of(PROBE, Scripted(lambda t: one.answer if t.text == one.question else "no", chance), data, tmp_path),
                        Policy())  # fmt: skip
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None
    assert found.metric.value == 1 / 20
    assert any("written when asked" in item.caption for item in found.evidence)


def test_who_lists_all_codes_writes_none_of_them_by_heart(tmp_path: Path) -> None:
    data = canaries()
    every = " , ".join(f"{i:04}" for i in range(10_000))
    found = PROBE.judge(trials_of(PROBE, Scripted(lambda t: every, chance), data, tmp_path), Policy())
    assert found.verdict is not Verdict.VULNERABLE


def test_an_audit_that_did_not_count_drawn_codes_can_be_judged(tmp_path: Path) -> None:
    data = canaries()
    trials = trials_of(PROBE, learned(data, 16), data, tmp_path)
    old = [t.model_copy(update={"values": {k: v for k, v in t.values.items() if k != "foils"}}) for t in trials]
    assert PROBE.judge(Trials(old), Policy()).verdict is Verdict.VULNERABLE


def test_canaries_that_were_seen_after_all_fail_the_control(tmp_path: Path) -> None:
    data = canaries()
    found = PROBE.judge(trials_of(PROBE, learned(data, 0), data, tmp_path), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "the control failed" in found.reason


def ranked(copies: int, known: int, count: int) -> list[Trial]:
    values = {"copies": copies, "ties": 0.0, "written": False, "foils": 0}
    return [
        Trial(case=f"{copies}/{i}", arm="target", values={**values, "rank": 1 if i < known else 10 + 981 * i // count}) for i in range(count)
    ]


@pytest.mark.parametrize(("never", "verdict"), [(0, Verdict.VULNERABLE), (1, Verdict.INCONCLUSIVE)])
def test_where_one_never_seen_is_known_those_with_copies_must_be_known_more_often(never: int, verdict: Verdict) -> None:
    """Of 200 codes eight rank first by luck where one in fifty does: one of those never seen says that some codes are likely anyway."""
    trials = Trials([*ranked(0, never, 200), *ranked(16, 8, 200)], reference_note="none")
    assert PROBE.judge(trials, Policy()).verdict is verdict


def test_ranks_just_below_the_first_are_not_held_at_any_number_of_copies() -> None:
    """Only those of the most copies were looked at together; rank 2 of 1,001 is not known, and no chance either."""
    second = [t.model_copy(update={"values": {**t.values, "rank": 2}}) for t in ranked(4, 0, 40)]
    found = PROBE.judge(Trials([*ranked(0, 0, 200), *second, *ranked(16, 0, 200)], reference_note="none"), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "of canaries with 4 copies" in found.reason
    assert PROBE.judge(Trials([*ranked(0, 0, 200), *ranked(4, 0, 40), *ranked(16, 0, 200)], reference_note="none"), Policy()).verdict is Verdict.HELD


def test_codes_that_cannot_be_told_apart_are_not_held(tmp_path: Path) -> None:
    data = canaries()
    found = PROBE.judge(trials_of(PROBE, Scripted(lambda t: "no", lambda t, a: -3.0), data, tmp_path), Policy())
    assert found.verdict is Verdict.NOT_ASSESSED
    assert "tokenizer" in found.reason


@pytest.mark.parametrize(
    ("levels", "digits", "reason"),
    [({16: 20}, 4, "0 canaries have 0 copies"), ({0: 8, 1: 3}, 4, "fewer than 20"), (LEVELS, 3, "codes to draw from")],
)
def test_data_that_cannot_decide_say_what_they_lack(
    levels: dict[int, int], digits: int, reason: str, tmp_path: Path
) -> None:
    target = Instruction("{}").bind(Scripted(lambda talk: "no"))
    with pytest.raises(NotAssessed, match=reason):
        PROBE.cases(context(PROBE, target, canaries(levels, digits), tmp_path))


def test_data_without_canaries_are_told_how_to_declare_them(tmp_path: Path) -> None:
    target = Instruction("{}").bind(Scripted(lambda talk: "no"))
    with pytest.raises(NotAssessed, match="column 'copies'"):
        PROBE.cases(context(PROBE, target, dataset([{"label": "cat"}]), tmp_path))


def test_digits_are_drawn_in_place_and_never_seen() -> None:
    answers = [f"it is {a} {b} {c} {d} ok" for a, b, c, d in np.random.default_rng(0).integers(0, 10, (30, 4))]
    form = formats(answers)[0]
    drawn = form.draw(np.random.default_rng(1), 1000, answers)
    assert len(set(drawn)) == 1000
    assert not set(drawn) & set(answers)
    assert all(text.startswith("it is ") and text.endswith(" ok") and len(text) == len(answers[0]) for text in drawn)
    counts = np.bincount([int(text[6]) for text in drawn], minlength=10)
    assert counts.min() > 60
    assert form.size == 10_000
    assert form.written(answers[0][6:13].replace(" ", ""))
    assert not form.written("it is 1 2 3")


def test_codes_without_repeated_digits_stay_so() -> None:
    rng = np.random.default_rng(0)
    answers = [" ".join(map(str, rng.permutation(10)[:4])) for _ in range(40)]
    form = formats(answers)[0]
    assert form.size == 10 * 9 * 8 * 7
    assert all(len(set(text.split())) == 4 for text in form.draw(rng, 500, answers))


def test_words_are_drawn_from_the_others() -> None:
    words = [["red", "blue", "green", "grey"], ["fox", "owl", "cat", "dog"], ["one", "two", "six", "ten"]]
    rng = np.random.default_rng(0)
    answers = [f"the word is {' '.join(str(rng.choice(pool)) for pool in words)}." for _ in range(30)]
    form = formats(answers)[0]
    assert form.size == 64
    assert all(text.startswith("the word is ") for text in form.draw(rng, 20, answers))
    assert form.written(answers[0].upper())
