"""GR2 on models whose answers hang on the wording, and on ones whose answers do not."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.scripted_generator import Scripted, audit, conforms, context, dataset, trials_of
from vlaudit.attacks.robustness.prompt_invariance import PromptInvariance
from vlaudit.attacks.robustness.prompt_invariance.accuracy_by_wording import spread, worst_wording
from vlaudit.attacks.robustness.prompt_invariance.wordings import (
    AS_WRITTEN,
    misspelled,
    options_swapped,
    paraphrases,
    templates,
    wordings,
)
from vlaudit.data.dataset import Dataset
from vlaudit.errors import NotAssessed
from vlaudit.families.generation import Conversation
from vlaudit.policy import Policy
from vlaudit.probe import Needs
from vlaudit.prompts.in_context import InContext
from vlaudit.prompts.instruction import Instruction
from vlaudit.records import Judgement, Trial, Verdict

LABELS = ("cook", "judge", "pilot", "farmer")
Say = Callable[[Conversation, str], str]  # the truth is given


def questions(count: int = 48) -> Dataset:
    """Names, yes or no, and choices in turn, each about a picture of its own."""
    rows: list[dict[str, object]] = []
    for n in range(count):
        label, other = LABELS[n % 4], LABELS[(n + 1) % 4]
        rows.append(
            [
                {"label": label},
                {"label": label, "question": f"Is this a {label if n % 2 else other}?", "answer": "yes" if n % 2 else "no",
                 "choices": "yes|no"},
                {"label": label, "question": f"Is this a {other} or a {label}?", "answer": label, "choices": f"{other}|{label}"},
            ][n % 3]
        )  # fmt: skip
    return dataset(rows)


def model(data: Dataset, say: Say, needs: tuple[Needs, ...] = ()) -> Scripted:
    """Says what ``say`` makes of a conversation and of the label of its last picture ("" without one)."""
    scripted = Scripted(lambda talk: say(talk, known.get(talk.pictures[-1].numpy().tobytes(), "")), needs=needs)
    known = {scripted.preprocess(e.open()).numpy().tobytes(): str(e.label) for e in data.examples}
    return scripted


def truthful(talk: Conversation, label: str) -> str:
    """Right, however it is asked; without a picture it says cook, or no."""
    asked = str(talk.turns[-1].parts[-1]).lower()
    named = [each for each in LABELS if each in asked]
    if len(named) == 1:
        return "Yes." if named[0] == label else "No."
    return f"a {label or 'cook'}"


def sometimes(share: float) -> Say:
    """As truthful, but with another answer to so many wordings."""

    def say(talk: Conversation, label: str) -> str:
        key = zlib.crc32(
            str(talk.turns[-1].parts[-1]).strip().encode() + label.encode() + talk.pictures[-1].numpy().tobytes()
        )
        return "no" if key % 1000 < 1000 * share else truthful(talk, label)

    return say


def judged(say: Say, folder: Path, data: Dataset | None = None, **settings: object) -> Judgement:
    data = data or questions()
    return audit(PromptInvariance(), model(data, say), data, folder, **settings)  # type: ignore[arg-type]


def test_a_steady_model_holds_and_conforms(tmp_path: Path) -> None:
    data = questions()
    found = conforms(
        PromptInvariance, context(PromptInvariance, Instruction("{}").bind(model(data, truthful)), data, tmp_path)
    )
    assert found.verdict is Verdict.HELD
    assert found.metric is not None and found.metric.value == 0 and found.metric.ci[1] > 0.05
    assert found.details["right under every wording"] == "48 of 48"
    presence = found.details["table"][1].rows
    assert [[row[0], *row[2:4]] for row in presence] == [
        [kind, 1.0, 1.0] for kind in ("random", "popular", "adversarial")
    ]


def test_a_model_that_hangs_on_the_wording_is_vulnerable(tmp_path: Path) -> None:
    found = judged(sometimes(0.4), tmp_path)
    assert found.verdict is Verdict.VULNERABLE
    assert found.metric is not None and 0.3 < found.metric.value < 0.6
    captions = [item.caption for item in found.evidence]
    assert any("| as written" in caption for caption in captions)
    texts = [(tmp_path / item.path).read_text() for item in found.evidence if item.kind == "text"]
    assert all(text.startswith("Asked: ") for text in texts)


def free(count: int = 48) -> Dataset:
    """Questions without choices."""
    return dataset([{"label": LABELS[n % 4], "question": "Who is this?", "answer": LABELS[n % 4]} for n in range(count)])


def worded(wrong: bool) -> Say:
    """Puts the answer in other words for each wording of the question; wrongly, for some wordings, if ``wrong``."""
    ways = ("{}", "It is a {}.", "The person in the image is a {}.", "I believe this is a {}.", "A {}, by the look of it.")

    def say(talk: Conversation, label: str) -> str:
        asked = str(talk.turns[-1].parts[-1]).strip()
        key = zlib.crc32(asked.encode())
        astray = wrong and zlib.crc32(asked.encode() + talk.pictures[-1].numpy().tobytes()) % 3 == 0
        return ways[key % len(ways)].format(LABELS[(LABELS.index(label) + 1) % 4] if astray and label else label or "person")

    return say


def test_free_answers_are_compared_by_what_they_say(tmp_path: Path) -> None:
    found = judged(worded(wrong=False), tmp_path / "a", free())
    assert found.verdict is Verdict.HELD and found.metric is not None and found.metric.value == 0
    found = judged(worded(wrong=True), tmp_path / "b", free())
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and 0.3 < found.metric.value < 0.6


def test_trials_of_an_earlier_version_can_be_judged(tmp_path: Path) -> None:
    data = free()
    trials = trials_of(PromptInvariance(presence=0), model(data, worded(wrong=False)), data, tmp_path)
    for trial in trials:
        trial.values.pop("free"), trial.values.pop("answer")
    assert PromptInvariance().judge(trials, Policy()).verdict is Verdict.HELD


def test_one_wording_that_changes_all_answers_is_not_held(tmp_path: Path) -> None:
    data = free()
    trials = trials_of(PromptInvariance(presence=0), model(data, worded(wrong=False)), data, tmp_path)
    for trial in trials.target:
        trial["read"]["please"], trial["right"]["please"] = "a lamp", False
    found = PromptInvariance().judge(trials, Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "'please' changes: 48 of 48" in found.reason


def test_a_carrier_that_the_model_stumbles_over_is_named(tmp_path: Path) -> None:
    found = judged(lambda talk, label: "yes" if "Please" in talk.text else truthful(talk, label), tmp_path)
    rows = {row[0]: row for row in found.details["table"][0].rows}
    assert rows["please"][2] < 0.4 and rows["heading"][2] == 1.0
    assert str(found.details["worst wording"]).startswith(("please", "request"))


def test_only_the_words_of_the_instruction_differ(tmp_path: Path) -> None:
    data, asked = questions(24), model(questions(24), truthful)
    trials = trials_of(PromptInvariance(presence=0), asked, data, tmp_path, prompt=Instruction("Answer shortly. {}"))
    assert "instruction, other side" in trials.target[0]["read"]
    assert any(str(talk.turns[-1].parts[-1]).endswith("? Answer shortly.") for talk in asked.asked)


def test_demonstrations_are_shown_in_other_orders(tmp_path: Path) -> None:
    data, asked = questions(24), model(questions(24), truthful)
    prompt = InContext(questions(8), 3)
    trials = trials_of(PromptInvariance(presence=0), asked, data, tmp_path, prompt=prompt)
    assert {"demonstrations, order 2", "demonstrations, order 3"} <= set(trials.target[0]["read"])
    firsts = {str(talk.turns[0].parts[-1]) + str(talk.turns[1].parts[0]) for talk in asked.asked}
    assert len(firsts) > 1


@pytest.mark.parametrize(
    ("say", "reason"),
    [
        (lambda talk, label: truthful(talk, ""), "not shown to depend"),
        (lambda talk, label: "", "cannot be read"),
        (lambda talk, label: "cook or judge, yes and no", "cannot be read"),
        (lambda talk, label: "no" if str(talk.turns[-1].parts[-1]).startswith(" ") else truthful(talk, label), "control failed"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_not_assessed(say: Say, reason: str, tmp_path: Path) -> None:
    found = judged(say, tmp_path)
    assert found.verdict is Verdict.NOT_ASSESSED
    assert reason in found.reason


def test_an_unreadable_answer_to_some_wordings_is_no_agreement(tmp_path: Path) -> None:
    found = judged(lambda talk, label: "" if "picture" in talk.text else truthful(talk, label), tmp_path)
    assert found.verdict is Verdict.VULNERABLE
    assert not str(found.controls["unreadable answers"]).startswith("0 ")


def test_few_pictures_are_inconclusive(tmp_path: Path) -> None:
    with pytest.raises(NotAssessed, match="20 different pictures with questions and answers, and there are 12"):
        judged(truthful, tmp_path, questions(12))


def test_the_reference_is_compared_question_by_question(tmp_path: Path) -> None:
    data = questions()
    found = judged(sometimes(0.4), tmp_path, data, reference=model(data, truthful))
    assert found.reference is not None and found.reference.value == 0
    assert found.delta is not None and found.delta.ci[0] > 0.2 and found.delta.p is not None and found.delta.p < 0.01


def test_wordings_keep_the_answers() -> None:
    rng = np.random.default_rng(1)
    for question, names in (
        ("Is this a cook or a factory worker?", ["cook", "factory worker"]),
        ("What is this?", ["cook"]),
    ):
        found = dict(wordings(question, names, rng))
        assert len(set(found.values())) == len(found) and found[AS_WRITTEN] == question
        assert all(name in text.lower() for text in found.values() for name in names if name in question)
    assert (
        options_swapped("Is this a cook or a factory worker?", ["cook", "factory worker"])
        == "Is this a factory worker or a cook?"
    )
    assert options_swapped("Is this more or less what you expect?", ["cook"]) is None
    assert paraphrases("Is this an artist?")[0] == "Is it an artist?"
    assert paraphrases("How many dogs are there?") == []
    assert misspelled("the cook", "drop", ["the cook"], rng) == "the cook"
    assert list(templates("{}", [], rng)) == []


def test_variance_is_where_it_was_put() -> None:
    def trials(right: list[dict[str, bool]]) -> list[Trial]:
        return [Trial(case=f"{n:02}", arm="target", values={"right": each}) for n, each in enumerate(right)]

    by_wording = [{str(k): k < 5 for k in range(10)} for _ in range(30)]
    by_question = [{str(k): n < 15 for k in range(10)} for n in range(30)]
    assert "100% between wordings" in spread(trials(by_wording))["variance of being right"]
    assert "100% between questions" in spread(trials(by_question))["variance of being right"]
    assert spread(trials([{"a": True, "b": True}])) == {} == spread([])
    rows = trials([{"a": True, "b": n % 4 != 0} for n in range(40)])
    assert worst_wording(rows)["worst wording"].startswith("b: 100%")  # picked on the even ones, measured on the odd
