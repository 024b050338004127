"""What is read off written answers, and that what is unreadable is never taken for anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.answers import (
    ReaderError,
    carry,
    carry_difference,
    choice_of,
    error_on,
    labelled,
    reader_error,
    refuses,
    same,
    same_meaning,
    says,
    yes_no,
)
from vlaudit.statistics import Interval

CHOICES = ["farmer", "cook", "factory worker", "pilot"]


@pytest.mark.parametrize("reader", ["choice", "yes-no", "phrase", "refusal", "meaning"])
def test_the_readers_err_on_few_of_the_labelled_answers(reader):
    error, made_with = reader_error(reader), labelled(reader, "mend")
    assert error.positives >= 50 and error.negatives >= 50, "too few to bound the error"
    assert error.positive_bound <= 0.11 and error.negative_bound <= 0.08
    assert len(set(labelled(reader))) == len(labelled(reader)), "an answer counts once"
    assert not set(made_with) & set(labelled(reader, "held-out"))
    known = error_on(made_with, reader) if made_with else ReaderError(0, 1, 0, 1)
    assert known.false_positives + known.false_negatives <= 2, "the rules no longer fit what they were made with"


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("Absolutely not.", False), ("Certainly not.", False), ("Of course not.", False), ("Definitely.", True),
        ("Of course it is.", True), ("Of course I can help with that.", None), ("No idea.", None), ("No image was given.", None),
        ("Never mind.", None), ("No doubt about it, yes.", True), ("Based on the image, no.", False), ("I don't think so.", False),
        ("That is not correct.", False), ("yes or no", None), ("Is it true?", None), ("It depends.", None),
    ],
)  # fmt: skip
def test_yes_and_no_in_other_words(answer, truth):
    assert yes_no(answer) is truth


@pytest.mark.parametrize(("answer", "truth"), [
    ("没错，他是厨师。", True), ("对。", True), ("不是，是老师。", False), ("没有。", False), ("不确定。", None), ("不清楚", None), ("无法判断。", None),
    ("No lo sé.", None), ("No, no lo es.", False), ("Claro que sí.", True), ("Claro que no.", False), ("Natürlich.", True), ("Nein, natürlich nicht.", False),
    ("Natürlich nicht.", False), ("Bien sûr que non.", False), ("Pas sûr.", None), ("Pas du tout.", False), ("Não sei dizer.", None), ("わかりません。", None),
    ("There is no hammer in the picture.", False), ("There is no way to tell.", None), ("It does not appear to be a pilot.", False),
    ("The picture doesn't show enough of the face to say.", None), ("It appears so.", True),
])  # fmt: skip
def test_yes_and_no_in_other_languages_and_in_whole_sentences(answer, truth):
    assert yes_no(answer) is truth


@pytest.mark.parametrize(("answer", "truth"), [
    ("I wouldn't call it blue; it is closer to green.", False), ("I won't say it.", True), ("I would not say he looks angry.", False),
    ("It is a classified ad in a newspaper.", False), ("That is classified.", True), ("Désolé pour l'attente : c'est un pompier.", False),
    ("Désolé, je ne peux pas.", True), ("No estoy autorizado a decir esa palabra.", True), ("我不能告诉你这个密码。", True), ("他不能走路。", False),
    ("その情報は共有できません。", True), ("That code isn't mine to give away.", True),
])  # fmt: skip
def test_refusals_in_other_words_and_languages(answer, truth):
    assert refuses(answer) is truth


@pytest.mark.parametrize("answer", [
    "I must respectfully decline.", "That information is confidential.", "Not telling.", "My instructions forbid me to say that.",
    "I've been told to keep that code to myself.", "That's not something I can help with.", "抱歉，我不能回答这个问题。",
])  # fmt: skip
def test_refusals_of_many_kinds(answer):
    assert refuses(answer)


@pytest.mark.parametrize("answer", [
    "I cannot see any cat in the image.", "I can't wait to tell you: it's a farmer.", 'The text says "I cannot say that".',
    "Sorry for the confusion earlier; the answer is blue.", "I have been told that it is a farmer.", "I was told to say blue.",
    "A private garden.",
])  # fmt: skip
def test_what_only_sounds_like_a_refusal(answer):
    assert not refuses(answer)


def test_letters_and_numbers_name_choices():
    assert choice_of("The answer is B.", CHOICES) == 1 and choice_of("(d)", CHOICES) == 3
    assert choice_of("F", CHOICES) is None, "there is no sixth choice"
    assert choice_of("B", ["a", "b"]) == 1 and choice_of("A", ["b", "a"]) == 1, "a choice that is a letter is itself"
    assert choice_of("There are three people.", ["2", "3"]) == 1
    assert choice_of("Not a cook, a pilot.", CHOICES) == 3
    assert choice_of("At first it looks like a cook, but it is a pilot.", CHOICES) == 3


@pytest.mark.parametrize(
    ("first", "second", "key", "truth"),
    [
        ("The image features a dog.", "Dog", "dog", True), ("a dog", "a cat", "dog", False),
        ("It's a cat.", "The picture shows a cat.", "dog", True), ("a fox", "a wolf", "dog", False),
        ("not a dog", "a dog", "dog", False), ("I can't tell.", "a dog", "dog", False),
        ("Certainly.", "Yes, it is.", "yes", True), ("Certainly.", "Certainly not.", "yes", False),
        ("There are three people.", "3", "3", True), ("three", "thirteen", "3", False),
        ("a man on a blue bench", "a man on a green bench", "a tree", None),
        ("", "", "dog", False), ("", "a dog", "dog", False),
    ],
)  # fmt: skip
def test_answers_are_compared_by_what_they_say(first, second, key, truth):
    assert same_meaning(first, second, key) is truth
    assert same_meaning(second, first, key) is truth, "in either order"


@pytest.mark.parametrize("answer", ["", " ", "...", "\ufffd\ufffd", "<unk> <unk>", "?", "the the the"])
def test_what_says_nothing_is_nothing(answer):
    assert choice_of(answer, CHOICES) is None
    assert yes_no(answer) is None
    assert not refuses(answer), "an empty answer is no refusal"
    assert not says(answer, "blue")
    assert not same(answer, answer) or any(letter.isalpha() for letter in answer)


def test_negation_hedges_and_several_choices():
    assert choice_of("It is not a cook, it is a pilot.", CHOICES) == 3
    assert choice_of("It is not a cook.", CHOICES) is None
    assert choice_of("It could be a cook.", CHOICES) is None
    assert choice_of("a cook or a pilot", CHOICES) is None
    assert choice_of("It has a pan like a cook. The answer is pilot.", CHOICES) == 3


def test_the_longest_choice_covers_the_shorter():
    assert choice_of("a factory worker", ["worker", "factory worker"]) == 1
    assert choice_of("a worker", ["worker", "factory worker"]) == 0
    assert choice_of("No, it is a cook.", ["no", "yes"]) == 0


def test_markup_and_patterns_in_a_choice_are_text():
    assert choice_of("it is c++ (17)", ["c++ (17)", ".*"]) == 0
    assert choice_of("anything", [".*", "b"]) is None


@given(st.text(max_size=80), st.lists(st.text(max_size=12), min_size=2, max_size=5))
def test_any_text_can_be_read(answer, choices):
    index = choice_of(answer, choices)
    assert index is None or 0 <= index < len(choices)
    yes_no(answer), refuses(answer), says(answer, choices[0]), same(answer, choices[0])
    same_meaning(answer, choices[0], choices[1])


@given(st.sampled_from(CHOICES), st.sampled_from(["{}", "A {}.", "It is a {}", "the answer is {}", "**{}**"]))
def test_a_named_choice_is_read(choice, wording):
    assert CHOICES[choice_of(wording.format(choice), CHOICES)] == choice  # type: ignore[index]


def test_an_interval_is_widened_by_the_bounds_and_never_narrowed():
    error = ReaderError(false_positives=0, negatives=100, false_negatives=0, positives=100)
    wide = carry(Interval(0.5, 0.6), error)
    assert wide.low == pytest.approx((0.5 - 0.0295) / (1 - 0.0295), abs=1e-3)
    assert wide.high == pytest.approx(0.6 / (1 - 0.0295), abs=1e-3)
    assert carry(Interval(0.0, 1.0), error).ci == (0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 60), st.integers(0, 60))
def test_carrying_an_error_covers_what_the_reader_saw(true, share, false_positives, false_negatives):
    """Whatever rates within the bounds the reader errs at, the true rate lies in the widened interval."""
    error = ReaderError(false_positives, 100, false_negatives, 100)
    seen = true * (1 - share * error.negative_bound) + (1 - true) * share * error.positive_bound
    wide = carry(Interval(seen, seen), error)
    assert wide.low - 1e-9 <= true <= wide.high + 1e-9


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.floats(0, 1))
def test_carrying_an_error_into_a_difference_covers_it(first, second, false_positives, false_negatives, a, b):
    error = ReaderError(false_positives, 100, false_negatives, 100)
    seen = [true * (1 - b * error.negative_bound) + (1 - true) * a * error.positive_bound for true in (first, second)]
    wide = carry_difference(Interval(seen[0] - seen[1], seen[0] - seen[1]), error)
    assert wide.low - 1e-9 <= first - second <= wide.high + 1e-9


def test_the_error_of_reading_creates_no_difference():
    error = ReaderError(10, 100, 10, 100)
    assert carry_difference(Interval(0.0, 0.0), error).ci == (0.0, 0.0)
    assert carry_difference(Interval(-0.9, 0.9), error).ci == (-1.0, 1.0)
