"""What a finding may tell: every value has a type that reports can show, and comes back as it was stored."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vlaudit.details import Bars, Curve, Details, Facts, Figure, Table, in_words

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
