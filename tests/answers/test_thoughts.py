"""What stands in a thought is no answer; an answer that was not reached is none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.answers import choice_of, marks_thought, opens_thought, refuses, says, without_thoughts, yes_no
from vlaudit.families.generation import Answer

PAIRS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("analysis", "assistantfinal"),
]


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_forms_of_thoughts(begin: str, end: str) -> None:
    thought = "I see a dog? I cannot say. Yes."
    for answer in ("cat", " a cat\n", "The answer is cat."):
        assert (without_thoughts(f"{begin}{thought}{end}{answer}") or "").strip() == answer.strip()
    whole = f"{begin}{thought}{end}cat"
    assert choice_of(whole, ["cat", "dog"]) == 0 and not says(whole, "dog") and not refuses(whole)
    assert yes_no(f"{begin}No, it is{end}Yes.") is True
    cut = f"{begin}{thought}"
    assert without_thoughts(cut) is None
    assert choice_of(cut, ["cat", "dog"]) is None and yes_no(cut) is None and not says(cut, "dog") and not refuses(cut)
    answer = Answer.read(cut, 16, False, -1.0)
    assert answer == "" and answer.log_prob is None and answer.shown == "(nothing: it thought, and reached no answer)"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("A dog? No.</think>cat", "cat"),
        ("dog [/THINK] cat", "cat"),
        ("cat<think>or a dog?</think>", "cat"),
        ("<think>a</think>cat<think>b", None),
        ("<think>a<think>dog</think>dog</think>cat", "cat"),
        ("dog<think>a</think>dog</think>cat", "cat"),
        ("<think></think>cat", "cat"),
        ("<think>a</think>", ""),
        ("<think>dog</think><answer>cat</answer>", "cat"),
        ("It may be a dog. <answer> cat </answer> or a dog", "cat"),
        ("<|begin_of_box|>cat<|end_of_box|>", "cat"),
        ("<|channel|>final<|message|>cat<|return|>", "cat"),
        ("<|channel|>commentary to=look<|message|>{}<|call|>", None),
        ("I think it is a cat <3 [1]", "I think it is a cat <3 [1]"),
        ("analysis shows a cat", "analysis shows a cat"),
        ("", ""),
    ],
)
def test_what_is_said(written: str, said: str | None) -> None:
    found = without_thoughts(written)
    assert (None if found is None else found.strip()) == said


@given(st.lists(st.sampled_from([*(mark for pair in PAIRS for mark in pair), "cat", " ", "<answer>", "</answer>"]) | st.text(max_size=5)))
def test_any_marks_in_any_order(parts: list[str]) -> None:
    written = "".join(parts)
    said = without_thoughts(written)
    assert said is None or len(said) <= len(written)
    answer = Answer.read(written, 32)
    assert (said or "").strip() == "" or (said is not None and len(answer) <= len(said))


def test_long_texts_are_read_quickly() -> None:
    for part in ("<think>", "</think>", "<think>a</think>", "<answer>", "<|channel|>final", "[/THINK", "◁"):
        then = time.process_time()
        without_thoughts(part * 200_000)
        assert time.process_time() - then < 20, part


def test_templates_that_open_a_thought() -> None:
    assert opens_thought("<|im_start|>assistant\n<think>\n") and opens_thought("[THINK]")
    assert not opens_thought("<think>\n\n</think>\n\n") and not opens_thought("say <think> <|im_end|> assistant\n")
    assert marks_thought("[THINK]") and marks_thought("</think>") and marks_thought("<|channel|>")
    assert not marks_thought("<|im_end|>") and not marks_thought("think")
