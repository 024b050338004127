"""The policy at its boundaries: whose threshold counts, how grave a finding is, and what loosens the gate."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vlaudit.errors import UsageError
from vlaudit.policy import NEAR, Policy, SeverityTable, load_policy
from vlaudit.records import Family, Judgement, Measure, Metric, ProbeInfo, Risk, Severity, Threshold, Verdict


def info(risk: Risk = Risk.BACKDOOR, **fields: Any) -> ProbeInfo:
    return ProbeInfo(id=fields.pop("id", "x"), code="X1", title="x", risk=risk, families=frozenset({Family.MATCHING}), **fields)


def judgement(low: float, threshold: float | None = 0.1, verdict: Verdict = Verdict.VULNERABLE) -> Judgement:
    metric = Metric(name="m", value=low + 0.1, ci=(low, low + 0.2), n=10)
    return Judgement(verdict=verdict, reason="r", metric=metric, threshold=threshold)


# --- severity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "row", "default"),
    [
        (info(Risk.BACKDOOR), "backdoor", Severity.CRITICAL), (info(Risk.ROBUSTNESS), "robustness", Severity.HIGH),
        (info(Risk.BIAS), "bias", Severity.HIGH), (info(Risk.PRIVACY), "privacy", Severity.HIGH),
        (info(Risk.BIAS, unsafe_severity=True), "unsafe-file", Severity.CRITICAL),
    ],
)  # fmt: skip
def test_each_risk_has_its_row(probe: ProbeInfo, row: str, default: Severity) -> None:
    severity, derivation = Policy().severity_of(probe, judgement(0.5))
    assert severity is default
    assert derivation.startswith(f"{default.value} for a vulnerable {row.replace('-', ' ')} finding") and "0.5" in derivation
    for own in (Severity.LOW, Severity.MEDIUM):
        assert Policy.model_validate({"severity": {row: own}}).severity_of(probe, judgement(0.5))[0] is own


@pytest.mark.parametrize("verdict", [Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED])
def test_only_what_is_vulnerable_is_grave(verdict: Verdict) -> None:
    severity, derivation = Policy().severity_of(info(), judgement(0.5, verdict=verdict))
    assert severity is Severity.NONE and verdict.value in derivation


@pytest.mark.parametrize(
    ("base", "lower"),
    [("critical", "high"), ("high", "medium"), ("medium", "low"), ("low", "low"), ("none", "none")],
)
def test_near_the_threshold_it_is_one_step_lower(base: str, lower: str) -> None:
    policy, limit = Policy.model_validate({"severity": {"backdoor": base}}), NEAR * 0.1
    at, derivation = policy.severity_of(info(), judgement(limit))
    beyond, _ = policy.severity_of(info(), judgement(math.nextafter(limit, 1)))
    assert (at, beyond) == (lower, base)
    assert f"({lower})" in derivation and "0.15" in derivation and "0.1" in derivation


@pytest.mark.parametrize(
    ("measure", "null", "threshold", "limit"),
    [
        (Measure.SHARE, 0.0, 0.2, 0.3), (Measure.SHARE, 0.1, 0.2, 0.25), (Measure.DIFFERENCE, 0.0, 0.1, 0.15),
        (Measure.AUC, 0.5, 0.6, 0.65), (Measure.RATIO, 1.0, 4.0, 8.0), (Measure.RATIO, 2.0, 8.0, 16.0), (Measure.LOG_RATIO, 0.0, 0.2, 0.3),
    ],
)  # fmt: skip
def test_near_is_measured_from_where_the_measure_lies_without_the_flaw(measure: Measure, null: float, threshold: float, limit: float) -> None:
    for near, severity in ((limit * 0.999, Severity.HIGH), (limit * 1.001, Severity.CRITICAL)):
        metric = Metric(name="m", value=near + 0.01, ci=(near, near + 0.02), n=10, measure=measure, null=null)
        said = Judgement(verdict=Verdict.VULNERABLE, reason="r", metric=metric, threshold=threshold)
        assert Policy().severity_of(info(), said)[0] is severity


def test_a_leaky_prompt_stops_a_release() -> None:
    """An AUC of .80 [.75, .85] against a threshold of .60 was called medium once."""
    metric = Metric(name="AUC", value=0.8, ci=(0.75, 0.85), n=400, measure=Measure.AUC, null=Measure.AUC.null)
    said = Judgement(verdict=Verdict.VULNERABLE, reason="r", metric=metric, threshold=0.6)
    assert Policy().severity_of(info(Risk.PRIVACY), said)[0] is Severity.HIGH


def test_near_is_half_as_much_again() -> None:
    """What the documentation and the derivation say."""
    assert Policy().severity_of(info(), judgement(0.149))[0] is Severity.HIGH
    assert Policy().severity_of(info(), judgement(0.151))[0] is Severity.CRITICAL


@pytest.mark.parametrize("said", [judgement(0.01, None), judgement(0.01, 0.0), judgement(0.01).model_copy(update={"metric": None})])
def test_without_a_threshold_or_a_metric_nothing_is_near(said: Judgement) -> None:
    assert Policy().severity_of(info(), said) == (Severity.CRITICAL, "critical for a vulnerable backdoor finding")


# --- thresholds ----------------------------------------------------------------------------------------------------


def test_the_policys_threshold_wins_then_the_probes_then_none() -> None:
    policy = Policy(thresholds={"x": 0.3, "zero": 0.0})
    assert policy.threshold(info(threshold=0.2)) == 0.3
    assert policy.threshold(info(id="y", threshold=0.2)) == 0.2
    assert policy.threshold(info(id="zero", threshold=0.2)) == 0
    assert policy.threshold(info(id="y")) == 0


def test_every_number_that_decides_is_the_policys_to_set() -> None:
    least = Threshold(name="least", value=10, meaning="pictures of a group", source="our choice, because it is a test", relaxed_by="raising")
    probe = info(threshold=0.2, thresholds=(least,))
    assert Policy().threshold(probe, "least") == 10
    for text in ('"x.least" = 5\n"x" = 0.1', "x.least = 5", "[thresholds.x]\nleast = 5"):
        policy = Policy.model_validate(tomllib.loads(f"[thresholds]\n{text}"))
        assert policy.threshold(probe, "least") == 5
    with pytest.raises(KeyError):
        Policy(thresholds={"x.most": 5}).threshold(probe, "most")


def test_a_threshold_that_no_probe_has_is_refused_with_the_one_that_was_meant() -> None:
    least = Threshold(name="least", value=10, meaning="pictures of a group", source="our choice, because it is a test")
    probe = info(id="rank-skew", threshold=0.2, thresholds=(least,))
    Policy(thresholds={"rank-skew": 0.1, "rank-skew.least": 5}).check([probe])
    for key, meant in (("rank-skw", "rank-skew"), ("rank-skew.lest", "rank-skew.least")):
        with pytest.raises(UsageError, match=f"'{key}', which no probe has.*'{meant}'"):
            Policy(thresholds={key: 0.1}).check([probe])


# --- what lets more pass -------------------------------------------------------------------------------------------

DECIDING: list[Any] = [
    {"name": "up", "relaxed_by": "raising"}, {"name": "down", "relaxed_by": "lowering"}, {"name": "any"}
]  # fmt: skip
INFOS = [
    info(
        id="limited", threshold=0.2,
        thresholds=tuple(Threshold(**more, value=5, meaning="a number of things", source="our choice, because") for more in DECIDING),
    ),
    info(id="free"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"level": 0.94}, ["level"]), ({"level": 0.96}, ["level"]), ({"level": 0.95}, []),
        ({"alpha": 0.049}, ["alpha"]), ({"alpha": 0.05}, []), ({"alpha": 0.2}, []),
        ({"gate": "holm"}, ["gate"]), ({"gate": "none"}, []), ({"strict": True}, []),
        ({"fail_on": "critical"}, ["fail_on"]), ({"fail_on": "none"}, ["fail_on"]),
        ({"fail_on": "high"}, []), ({"fail_on": "medium"}, []), ({"fail_on": "low"}, []),
        ({"thresholds": {"limited": 0.2}}, []), ({"thresholds": {"limited": 0.1}}, []), ({"thresholds": {"limited": 0.0}}, []),
        ({"thresholds": {"limited": math.nextafter(0.2, 1)}}, ["thresholds.limited"]),
        ({"thresholds": {"limited": -1e-9}}, ["thresholds.limited"]),
        ({"thresholds": {"free": 0.0}}, []), ({"thresholds": {"free": 1e-9}}, ["thresholds.free"]),
        ({"thresholds": {"other": 0.9}}, []),
        ({"thresholds": {"limited.up": 4}}, []), ({"thresholds": {"limited.up": 6}}, ["thresholds.limited.up"]),
        ({"thresholds": {"limited.down": 6}}, []), ({"thresholds": {"limited.down": 4}}, ["thresholds.limited.down"]),
        ({"thresholds": {"limited.any": 6}}, ["thresholds.limited.any"]), ({"thresholds": {"limited.any": 4}}, ["thresholds.limited.any"]),
        ({"level": 0.9, "alpha": 0.01, "gate": "holm", "fail_on": "none", "severity": {"bias": "low"}, "thresholds": {"free": 1, "limited": 1}},
         ["level", "alpha", "gate", "fail_on", "severity.bias", "thresholds.limited", "thresholds.free"]),
    ],
)  # fmt: skip
def test_each_entry_that_lets_more_pass_is_named(change: dict[str, Any], found: list[str]) -> None:
    assert Policy.model_validate(change).relaxations(INFOS) == found


@pytest.mark.parametrize("row", ["backdoor", "unsafe-file", "robustness", "bias", "privacy"])
@pytest.mark.parametrize("severity", Severity)
def test_a_lower_severity_lets_more_pass_and_a_higher_one_less(row: str, severity: Severity) -> None:
    default = getattr(SeverityTable(), row.replace("-", "_"))
    found = Policy.model_validate({"severity": {row: severity}}).relaxations(INFOS)
    assert found == ([f"severity.{row}"] if severity.rank < default.rank else [])


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_policy_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('level = 0.9\nfail_on = "low"\nstrict = true\n[thresholds]\nx = 0.3\n[severity]\nunsafe-file = "low"\n')
    assert load_policy(path) == Policy(
        level=0.9, fail_on=Severity.LOW, strict=True, thresholds={"x": 0.3}, severity=SeverityTable(unsafe_file=Severity.LOW)
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty"), ("level = ", "is not TOML"), (None, "cannot be read"), ("levle = 0.9", "'levle'"), ("level = 1.0", "'level'"),
        ("level = 0.5", "'level'"), ("alpha = 0.5", "'alpha'"), ("alpha = 0", "'alpha'"), ('[severity]\nbias = "grave"', "'severity.bias'"),
        ("[thresholds]\nx = nan", "'thresholds.x'"), ("[thresholds]\nx = inf", "'thresholds.x'"), ('gate = "bonferroni"', "'gate'"),
    ],
)  # fmt: skip
def test_a_bad_policy_file_is_named_with_the_entry_and_a_cure(tmp_path: Path, text: str | None, named: str) -> None:
    path = tmp_path / "strict policy.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    assert f"'{path}'" in caught.value.message and named in caught.value.message
    assert re.search(r"thresholds|vlaudit schema config|Did you mean 'level'|Known: critical, high|Known: holm, none", caught.value.cure)
