"""What a finding may tell: every value has a type that reports can show, and comes back as it was stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vlaudit.details import (
    LARGEST,
    Bars,
    Curve,
    Details,
    Facts,
    Figure,
    Table,
    check_finite,
    in_words,
)

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text("aé∑ \n", max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3))


def test_series_and_facts_are_told_apart() -> None:
    bars = {"labels": ["a"], "values": [1.0]}
    details = Details({"bars": [bars, bars], "curve": {"x": [0], "y": [1]}, "table": {"columns": ["a"], "rows": [[None]]}, "n": 3})
    assert [type(item) for item in details.series()] == [Bars, Bars, Curve, Table] and details.facts() == {"n": 3}


@pytest.mark.parametrize(
    "broken",
    [
        {"bars": {"labels": ["a"], "values": [1.0, 2.0]}},
        {"matrix": {"rows": ["a"], "columns": ["b", "c"], "values": [[1.0]]}},
        {"matrix": {"rows": ["a", "b"], "columns": ["c"], "values": [[1.0]]}},
        {"matrix": {"rows": ["a"], "columns": ["b"], "values": [[1.0]], "low": [[0.5]]}},
        {"curve": {"x": [0], "y": [1], "low": [0]}},
        {"table": {"columns": ["a"], "rows": [[1, 2]]}},
        {"curve": "text"},
    ],
)
def test_a_malformed_series_is_told_as_a_fact(broken: dict[str, object]) -> None:
    details = Details(broken)
    (name,) = broken
    assert details.series() == [] and details.facts() == {name: in_words(broken[name])}


@pytest.mark.parametrize("value", [math.nan, math.inf, [math.nan], {"value": math.inf, "ci": [0, 1]}, Bars(labels=["a"], values=[0])])
def test_no_number_may_be_infinite(value: object) -> None:
    if isinstance(value, Bars):
        Details({"bars": value})
        value = {"labels": ["a"], "values": [math.nan]}
    for kind in (Details, Facts):
        with pytest.raises(ValidationError, match="not finite"):
            kind({"bars": value})


def test_a_figure_is_an_arm_and_an_object_a_text() -> None:
    facts = Facts({"noise": {"value": 0.1, "ci": [0, 0.2], "n": 4}, "by": {"a": 1, "b": [2, [3]]}, "several": [1, None, "x"]})
    assert facts.figures() == {"noise": Figure(value=0.1, ci=(0, 0.2), n=4)}
    assert facts["by"] == "a: 1; b: 2, (3)" and facts["several"] == [1, None, "x"]


def test_details_are_read_like_a_dict() -> None:
    details = Details({"a": 1, "bars": {"labels": ["a"], "values": [1]}})
    assert list(details) == ["a", "bars"] and {**details, "a": 2} == {"a": 2, "bars": details["bars"]} == dict(details) | {"a": 2}
    assert details.get("a") == 1 and details.get("b") is None and "b" not in details and len(details) == 2
    assert Details({**details}) == details and details != Details({"a": 1}) and not Facts({})


def test_a_figure_whose_ends_are_reversed_is_no_figure() -> None:
    with pytest.raises(ValidationError, match="reversed"):
        Figure(value=0.5, ci=(0.6, 0.4))
    assert Facts({"noise": {"value": 0.5, "ci": [0.6, 0.4]}}).root == {"noise": "value: 0.5; ci: 0.6, 0.4"}


@pytest.mark.parametrize("value", [np.float32("nan"), np.arange(2), object(), {"a": [np.int64(1)]}, TypeAdapter(int), b"a"])
def test_what_is_no_json_value_is_refused(value: object) -> None:
    for kind in (Details, Facts):
        with pytest.raises(ValidationError, match="which is none of JSON"):
            kind({"x": value})


@pytest.mark.parametrize("depth", [100, 500, 900, 100_000])
@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]], ids=["objects", "lists"])
def test_depth_is_a_text_or_refused(depth: int, wrap: Callable[[object], object]) -> None:
    value: object = 1
    for _ in range(depth):
        value = wrap(value)
    for kind in (Details, Facts):
        try:
            assert isinstance(kind({"bars": value})["bars"], str)
        except ValidationError as error:
            assert depth > 100 and "nested too deeply" in str(error)


@given(st.dictionaries(st.sampled_from(["bars", "curve", "table", "a", "b"]), VALUES, max_size=4))
def test_what_is_stored_comes_back_and_nothing_in_it_is_raw(value: dict[str, object]) -> None:
    details = Details(value)
    stored = json.loads(details.model_dump_json())
    assert list(stored) == list(value) and Details(stored) == details
    for fact in details.facts().values():
        assert isinstance(fact, Figure | bool | int | float | str | None) or not any(isinstance(v, list | dict) for v in fact)


def test_a_series_is_stored_as_it_was_given() -> None:
    given_ = {"table": {"columns": ["a"], "rows": [[1, 2.5]][:0]}, "bars": {"labels": ["a"], "values": [1], "low": [0], "high": [2]}}
    assert json.loads(Details(given_).model_dump_json()) == given_


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": 1, "b": {"c": 2.5}}, "a: 1; b: c: 2.5"), ([1, [2, 3], {"x": None}], "1, (2, 3), (x: none)"), ([], "none"), ({}, "none"),
        (None, "none"), (True, "yes"), (False, "no"), (1, "1"), (0, "0"), (0.123456, "0.1235"), (1e-9, "1e-09"), ("Text", "Text"), ("", ""),
        ((1, 2), "1, 2"), (Figure(value=0.5, ci=(0.25, 0.75)), "value: 0.5; ci: 0.25, 0.75"), ([True, 1.0, None], "yes, 1, none"),
    ],
)  # fmt: skip
def test_any_value_in_words(value: object, words: str) -> None:
    assert in_words(value) == words


@pytest.mark.parametrize(
    "length",
    [
        lambda: Curve(x=[1, 2], y=[1]), lambda: Curve(x=[1], y=[1], low=[0, 0], high=[1]), lambda: Curve(x=[1], y=[1], low=[0], high=[1, 1]),
        lambda: Curve(x=[1], y=[1], reference=[1, 1]), lambda: Bars(labels=["a"], values=[]),
        lambda: Bars(labels=["a"], values=[1], low=[0, 0], high=[1]), lambda: Bars(labels=["a"], values=[1], low=[0], high=[]),
        lambda: Table(columns=["a", "b"], rows=[[1, 2], [1]]), lambda: Table(columns=["a"], rows=[[]]),
    ],
)  # fmt: skip
def test_lists_of_one_series_are_of_one_length(length: Callable[[], object]) -> None:
    with pytest.raises(ValidationError, match=r"every list must have [12] entries"):
        length()


@pytest.mark.parametrize("end", ["low", "high"])
def test_a_band_has_two_ends(end: str) -> None:
    for series in (lambda **band: Curve(x=[1], y=[1], **band), lambda **band: Bars(labels=["a"], values=[1], **band)):
        with pytest.raises(ValidationError, match="low and high go together"):
            series(**{end: [0]})
        assert series(low=[0], high=[1]).low == [0]


def test_entries_are_found_by_name() -> None:
    for named in (Details({"a": 1, "b": "x"}), Facts({"a": 1, "b": "x"})):
        assert named["a"] == 1 and "b" in named and "c" not in named and len(named) == 2 and list(named.items()) == [("a", 1), ("b", "x")]
    for kind in (Details, Facts):
        for given_ in ([1], "text", None, 3):
            with pytest.raises(ValidationError):
                kind(given_)


def test_a_list_of_series_with_one_malformed_is_a_fact() -> None:
    sound = {"labels": ["a"], "values": [1.0]}
    details = Details({"bars": [sound, {"labels": ["a"], "values": []}], "table": [{"columns": ["a"], "rows": []}]})
    assert details.facts() == {"bars": "(labels: a; values: 1), (labels: a; values: none)"}
    assert details["table"] == [Table(columns=["a"], rows=[])] and details.series() == [Table(columns=["a"], rows=[])]


@pytest.mark.parametrize("number", [LARGEST, -LARGEST, 0, 10**300, True, None, "nan"])
def test_numbers_up_to_the_largest_are_finite(number: object) -> None:
    check_finite(number, "x")
    check_finite({"a": [number, (number,)]}, "x")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (math.nextafter(LARGEST, math.inf), "'x' is 1.0"), (10**301, "'x' is too large"), ({"a": [0, {"b": math.nan}]}, "'x.a.b' is nan"),
        ((1, [-math.inf]), "'x' is -inf"), (Figure.model_construct(value=math.nan, ci=(0, 1)), "'x.value' is nan"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_named_by_its_place(value: object, where: str) -> None:
    with pytest.raises(ValueError, match=re.escape(where)):
        check_finite(value, "x")
