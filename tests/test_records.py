"""Records: closed, finite, and the same after JSON."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vlaudit.details import LARGEST
from vlaudit.records import Cost, Trial, Trials

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-LARGEST, LARGEST)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work may have the cores
@given(st.dictionaries(st.text(), json_values, max_size=4), st.text(min_size=1))
def test_trial_survives_json(values: dict, case: str) -> None:
    trial = Trial(case=case, arm="control:noise", values=values)
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_trial_refuses_what_is_not_finite(bad: float, nested: bool) -> None:
    with pytest.raises(ValidationError, match="not finite"):
        Trial(case="a", arm="target", values={"x": {"y": [1.0, bad]} if nested else bad})


@pytest.mark.parametrize("arm", ["", "targets", "control", "null"])
def test_trial_refuses_unknown_arms(arm: str) -> None:
    with pytest.raises(ValidationError):
        Trial(case="a", arm=arm)


def test_trials_pair_by_case_and_ignore_order() -> None:
    made = [Trial(case=c, arm=a) for a in ("reference", "target") for c in ("b", "a", "c")][:-1]  # target c is missing
    assert [(x.case, y.case) for x, y in Trials(made).paired()] == [("a", "a"), ("b", "b")]
    assert Trials(made).target == Trials(reversed(made)).target


def test_costs_add() -> None:
    assert Cost(queries=1, seconds=0.5) + Cost(gradient_steps=2, seconds=1) == Cost(
        queries=1, gradient_steps=2, seconds=1.5
    )
