"""Order, counts, exit codes, wording and the series of ``vlaudit.reporting``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.records import Delta, Estimate, Finding, Report, Risk, Severity, Verdict
from vlaudit.reporting import (
    clean,
    counts_text,
    duration,
    exit_code,
    gating,
    headline,
    interval,
    log_json,
    log_line,
    number,
    p_text,
    plural,
    risk_order,
    worst_first,
    worst_verdict,
)


def only(report: Report, *verdicts: Verdict) -> Report:
    return report.model_copy(update={"findings": [f for f in report.findings if f.verdict in verdicts]})


def flat(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_findings_come_worst_first_and_risks_follow(report: Report) -> None:
    ordered = worst_first(reversed(report.findings))
    assert [f.severity for f in ordered[:3]] == [Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM]
    assert [f.verdict for f in ordered[3:]] == [Verdict.INCONCLUSIVE] + 3 * [Verdict.HELD] + 2 * [Verdict.NOT_ASSESSED]
    assert risk_order(report.findings) == [Risk.BACKDOOR, Risk.ROBUSTNESS, Risk.BIAS, Risk.PRIVACY]


def test_a_group_is_held_only_if_all_of_it_was_assessed(report: Report) -> None:
    assert worst_verdict(only(report, Verdict.HELD, Verdict.NOT_ASSESSED).findings) is Verdict.NOT_ASSESSED
    assert worst_verdict(only(report, Verdict.HELD).findings) is Verdict.HELD
    assert worst_verdict([]) is None


def test_counts_name_every_verdict(report: Report) -> None:
    assert counts_text(report.findings) == "3 vulnerable, 1 inconclusive, 3 held, 2 not assessed"
    assert counts_text(only(report, Verdict.HELD).findings, skip_zeros=True) == "3 held"


@pytest.mark.parametrize(
    ("verdicts", "fail_on", "strict", "code"),
    [
        (list(Verdict), Severity.HIGH, False, 1),
        (list(Verdict), Severity.CRITICAL, False, 1),
        (list(Verdict), Severity.NONE, False, 0),
        (list(Verdict), Severity.NONE, True, 3),
        ([Verdict.HELD, Verdict.INCONCLUSIVE], Severity.HIGH, False, 0),
        ([Verdict.HELD, Verdict.INCONCLUSIVE], Severity.HIGH, True, 3),
        ([Verdict.HELD], Severity.HIGH, True, 0),
        ([Verdict.NOT_ASSESSED], Severity.HIGH, False, 3),
        ([], Severity.HIGH, False, 3),
    ],
)
def test_exit_codes(report: Report, verdicts: list[Verdict], fail_on: Severity, strict: bool, code: int) -> None:
    gate = report.audit.model_copy(update={"fail_on": fail_on, "strict": strict})
    assert exit_code(only(report, *verdicts).model_copy(update={"audit": gate})) == code


def test_exit_codes_of_failures(report: Report) -> None:
    held = only(report, Verdict.HELD)
    broken = report.targets[0].model_copy(update={"error": "the file is corrupt"})
    assert exit_code(held.model_copy(update={"targets": [broken]})) == 4
    for update in ({"complete": False}, {"errors": ["out of memory"]}):
        assert exit_code(held.model_copy(update={"audit": held.audit.model_copy(update=update)})) == 3


def test_medium_findings_pass_at_the_default(report: Report) -> None:
    medium = report.model_copy(update={"findings": [f for f in report.findings if f.severity is Severity.MEDIUM]})
    lower = medium.model_copy(update={"audit": medium.audit.model_copy(update={"fail_on": Severity.MEDIUM})})
    assert gating(medium) == [] and gating(lower) == medium.findings
    outcome, pipeline = headline(medium)
    assert outcome == "1 vulnerability found, the worst of severity medium (bias)."
    assert pipeline == "A pipeline with --fail-on high lets it pass (exit code 0)."


def test_the_last_sentence_names_the_gate_that_was_asked_for(suppressed_report: Report) -> None:
    audit = suppressed_report.audit.model_copy(update={"only_new": True, "baseline": "audits/last", "fail_on": Severity.HIGH})
    outcome, pipeline = headline(suppressed_report.model_copy(update={"audit": audit}))
    accepted = sum(f.suppressed is not None and f.verdict is Verdict.VULNERABLE for f in suppressed_report.findings)
    assert accepted and f"found, {accepted} of them accepted, the worst" in outcome
    assert pipeline.startswith("A pipeline with --fail-on new (severity high or above, not in the baseline audits/last) ")


def test_the_headline_never_calls_an_incomplete_audit_a_pass(report: Report) -> None:
    held = only(report, Verdict.HELD)
    assert headline(held)[0] == "No vulnerability found by the probes that could decide."
    partial = held.model_copy(update={"audit": held.audit.model_copy(update={"complete": False})})
    assert "incomplete" in headline(partial)[0] and "exit code 3" in headline(partial)[1]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.414, "share", "41.4 %"), (0.1, "share", "10 %"), (0.0, "share", "0 %"), (0.00012, "share", "0.012 %"),
        (0.34, "nats", "0.34 nats"), (0.0, "", "0"), (12345.6, "", "12,346"), (-2.0, "", "-2"), (40, "", "40"),
        (1.2e-5, "", "1.2e-05"), (math.inf, "", "inf"), (math.nan, "", "nan"), (999.6, "", "1,000"),
    ],
)  # fmt: skip
def test_numbers(value: float, unit: str, text: str) -> None:
    assert flat(number(value, unit)) == text


def test_intervals_share_their_decimals() -> None:
    assert flat(interval(Estimate(value=0.414, ci=(0.329, 0.504)), "share")) == "41.4 % [32.9, 50.4]"
    assert interval(Estimate(value=0.5, ci=(0.42, 0.58))) == "0.500 [0.420, 0.580]"
    assert interval(Estimate(value=0.0, ci=(0.0, 0.0))) == "0 [0, 0]"
    assert interval(Estimate(value=14.0, ci=(14.0, 14.0))) == "14 [14, 14]"
    difference = interval(Delta(value=0.062, ci=(-0.004, 0.121)), "share", difference=True)
    assert flat(difference) == "+6.2 points [−0.4, +12.1]"


@given(st.floats(), st.floats(), st.floats(), st.sampled_from(["", "share", "nats"]))
def test_any_float_can_be_written(value: float, low: float, high: float, unit: str) -> None:
    assert number(value, unit) and interval(Estimate(value=value, ci=(low, high)), unit)


def test_small_words() -> None:
    assert [p_text(p) for p in (None, 1e-6, 0.0004, 0.04)] == ["", "p < 0.0001", "p = 0.0004", "p = 0.040"]
    assert [duration(s) for s in (0.2, 12.34, 245, 7800)] == ["200 ms", "12.3 s", "4 min 05 s", "2 h 10 min"]
    assert [plural(1, "finding"), plural(2, "vulnerability")] == ["1 finding", "2 vulnerabilities"]


@given(st.text(st.characters(), max_size=200))
def test_clean_text_is_inert_everywhere(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert not any(c in cleaned for c in "\x00\x07\x08\x1b\x7f\x9b\r\u202e\u2066")
    assert clean(cleaned) == cleaned and len(cleaned) == len(text)
    assert log_line(text, 20).isprintable() or not log_line(text, 20).isascii()
    assert len(log_line(text, 20)) <= 20 and "\n" not in log_line(text)


@given(st.lists(st.sampled_from([*":# -+~^ax\n\t\u00a0\u200b\x1b[]", "section_start:", "travis_fold:"])).map("".join))
def test_no_line_commands_a_ci_server_wherever_it_is_wrapped(text: str) -> None:
    for shown in (log_line(text), log_line(text, 9)):
        assert not re.search(r"::|##|---|\+\+\+|~~~|\^\^\^|section_start:\S|travis_fold:\S|[\x1b\u200b\n]", shown)
    assert json.loads(log_json(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}
    assert not re.search(r"::|##|[\x1b\u200b]", log_json(json.dumps({text: [text]}, ensure_ascii=False)))


def test_lines_keep_what_people_write() -> None:
    text = "zoo:clean under “a photo of a {}” --fail-on high: 42 % [38.0, 46.9], 👩🏽‍🚒 C# at http://127.0.0.1:8000/v1#m"
    assert log_line(text) == text


def test_clean_keeps_what_people_write() -> None:
    text = "façade 日本 👩🏽‍🚒 “a photo of a {}”\n\ttab"
    assert clean(text) == text


def test_a_finding_keeps_its_place_when_others_come(report: Report) -> None:
    fewer = [f for f in report.findings if f.probe != "typographic"]
    ids: list[Finding] = [f for f in worst_first(report.findings) if f.probe != "typographic"]
    assert worst_first(fewer) == ids


def test_the_documented_reporter_works(report: Report) -> None:
    """The example of `docs/reading-a-report.md`, as it stands there."""
    text = (Path(__file__).parents[2] / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    lines = scope["CSVReporter"]().render(report, Path()).splitlines()
    assert lines[0] == "zoo:prompt-backdoor/prompt-trigger-inversion,vulnerable,critical" and len(lines) == 9
