"""Two audits compared: noise is not worse, real drops are caught, and what is not comparable is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks.calibration import load
from vlaudit.history import Change, compare, difference, mark
from vlaudit.records import (
    AuditInfo,
    DataInfo,
    Family,
    Finding,
    Metric,
    ModelInfo,
    PromptInfo,
    Report,
    Risk,
    Severity,
    TargetInfo,
    ToolInfo,
    Verdict,
)
from vlaudit.reporting import gating
from vlaudit.statistics import rate_interval, verdict


def share(hits: int, n: int) -> Metric:
    return Metric(name="changes", value=hits / n, ci=rate_interval(hits, n).ci, n=n, unit="share")


def finding(metric: Metric | None, *, probe: str = "p", target: str = "t", **fields: Any) -> Finding:
    said = fields.pop("verdict", None) or (
        verdict(rate_interval(round(metric.value * metric.n), metric.n), 0.2) if metric else Verdict.NOT_ASSESSED
    )
    return Finding(id=f"{target}/{probe}", probe=probe, code="X1", title=probe, risk=Risk.ROBUSTNESS, target=target,
                   verdict=said, reason="", severity=Severity.NONE, metric=metric)  # fmt: skip


def report(*findings: Finding, targets: tuple[str, ...] = ("t",), data: str = "d", **audit: Any) -> Report:
    infos = [
        TargetInfo(id=name, family=Family.MATCHING, model=ModelInfo(spec=f"hf:{name}"), prompt=PromptInfo(id="plain", method="template"),
                   data=DataInfo(source="x", examples=1, sha256=data))
        for name in targets
    ]  # fmt: skip
    info = AuditInfo(id="a", started="now", complete=True, **audit)
    return Report(tool=ToolInfo(version="1"), audit=info, targets=infos, findings=list(findings))


def change(before: Finding, after: Finding) -> Change:
    (comparison,) = compare(report(before), report(after)).comparisons
    return comparison.change


CALIBRATION = load("history_calibration")


def test_noise_is_called_worse_or_new_in_at_most_two_of_a_hundred_pairs():
    """Rates, paired cases, clusters, AUCs and means, where half of all audits are vulnerable. In full:
    python benchmarks/history_calibration.py"""
    found = {name: CALIBRATION.noise(name, 30) for name in CALIBRATION.KINDS}
    assert len(found) > 40
    assert sum(hits for hits, _ in found.values()) <= 0.015 * sum(n for _, n in found.values())
    assert max(hits for hits, _ in found.values()) <= 3, found


def test_noise_in_any_of_ten_findings_is_called_worse_or_new_in_at_most_two_of_a_hundred_pairs_of_audits():
    hits, pairs = CALIBRATION.mixed_noise(200)
    assert hits <= 0.02 * pairs


@pytest.mark.parametrize(("findings", "least"), [(1, 0.9), (10, 0.75)])
def test_a_rise_of_twenty_points_on_128_pictures_is_caught(findings: int, least: float):
    seen, pairs = CALIBRATION.power("rate 0.1 to 0.3, n = 128", 300, findings)
    assert seen > least * pairs


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_difference_lies_in_its_interval_and_turns_with_the_order(a: int, b: int):
    value, low, high = difference(share(a, 50), share(b, 50))
    assert low <= value <= high
    assert difference(share(b, 50), share(a, 50)) == pytest.approx((-value, -high, -low))


def test_each_kind_of_change():
    held, bad = finding(share(2, 100)), finding(share(60, 100))
    assert change(held, bad) is Change.NEW
    assert change(bad, held) is Change.FIXED
    assert change(bad, finding(share(95, 100))) is Change.WORSE
    assert change(finding(share(95, 100)), bad) is Change.BETTER
    assert change(bad, finding(share(62, 100))) is Change.UNCHANGED
    assert change(bad, finding(None)) is Change.GONE, "what could not be assessed is not fixed"
    assert change(finding(None), held) is Change.FIRST
    undecided = finding(share(20, 100))
    assert change(bad, undecided) is Change.BETTER and change(undecided, bad) is Change.NEW


def test_what_more_cases_established_is_not_new():
    undecided, established = finding(share(25, 100)), finding(share(33, 100))
    assert (undecided.verdict, established.verdict) == (Verdict.INCONCLUSIVE, Verdict.VULNERABLE)
    assert change(undecided, established) is Change.ESTABLISHED
    other = established.model_copy(update={"metric": share(33, 100).model_copy(update={"name": "something else"})})
    assert change(undecided, other) is Change.NEW, "nothing shows that it was there before"
    assert change(finding(share(8, 100)), established) is Change.NEW, "it was held"
    assert change(finding(None), established) is Change.NEW, "it was not assessed"


def test_the_gate_stops_for_what_is_established():
    undecided = finding(share(25, 100))
    established = finding(share(33, 100)).model_copy(update={"severity": Severity.CRITICAL})
    marked = mark(report(established), report(undecided), only_new=True)
    assert [f.change for f in gating(marked)] == ["established"]
    assert not gating(mark(report(established), report(established), only_new=True)), "the baseline had it"


def test_what_the_earlier_audit_did_not_test_and_is_vulnerable_is_new():
    bad, held = finding(share(60, 100)), finding(share(2, 100))
    assert {c.change for c in compare(report(), report(bad)).comparisons} == {Change.NEW}
    assert {c.change for c in compare(report(), report(held)).comparisons} == {Change.FIRST}
    grave = bad.model_copy(update={"severity": Severity.HIGH})
    assert gating(mark(report(grave), report(), only_new=True)), (
        "a probe or target that the baseline lacks is no way out"
    )


def test_the_more_figures_are_compared_the_more_a_difference_must_be_beyond_chance():
    pairs = [(finding(share(40, 100), probe=f"p{i}"), finding(share(60, 100), probe=f"p{i}")) for i in range(20)]

    def changes(count: int) -> set[Change]:
        before, after = (report(*column) for column in zip(*pairs[:count], strict=True))
        return {c.change for c in compare(before, after).comparisons}

    assert changes(1) == {Change.WORSE} and changes(20) == {Change.UNCHANGED}


def test_another_metric_under_the_same_name_of_a_probe_is_not_compared():
    other = share(90, 100).model_copy(update={"name": "something else"})
    (comparison,) = compare(report(finding(share(60, 100))), report(finding(other))).comparisons
    assert comparison.change is Change.UNCHANGED and comparison.difference is None


def test_a_model_in_another_folder_is_its_successor_and_said_so():
    before = report(finding(share(2, 100), target="v1"), targets=("v1",))
    after = report(finding(share(60, 100), target="v2"), targets=("v2",))
    history = compare(before, after)
    assert [c.change for c in history.comparisons] == [Change.NEW]
    assert any("successor of 'v1'" in caveat for caveat in history.caveats)
    two = report(finding(share(2, 100), target="v2"), finding(share(2, 100), target="v3"), targets=("v2", "v3"))
    assert {c.change for c in compare(before, two).comparisons} == {Change.FIRST, Change.GONE}, "two could be it"


def test_with_a_baseline_only_what_is_new_or_worse_stops_a_pipeline():
    old = [finding(share(60, 100), probe=name) for name in ("known", "worse")] + [finding(share(2, 100), probe="new")]
    later = [
        finding(share(61, 100), probe="known"),
        finding(share(95, 100), probe="worse"),
        finding(share(60, 100), probe="new"),
    ]
    grave = [f.model_copy(update={"severity": Severity.HIGH}) for f in later]
    marked = mark(report(*grave), report(*old), only_new=True)
    assert {f.probe: f.change for f in marked.findings} == {"known": "unchanged", "worse": "worse", "new": "new"}
    assert {f.probe for f in gating(marked)} == {"worse", "new"}
    assert {f.probe for f in gating(mark(report(*grave), report(*old), only_new=False))} == {"known", "worse", "new"}


def test_fail_on_new_needs_a_baseline(vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("scan", "zoo:clean", "--fail-on", "new") == 2
    assert "--baseline" in capsys.readouterr().err


def test_a_scan_says_what_changed_since_its_baseline(
    vlaudit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = ("scan", "zoo:tiny-clean", "--probe", "unsafe-file")
    assert vlaudit(*scan, "--out", tmp_path / "a") == 0
    flags = ("--baseline", tmp_path / "a", "--fail-on", "new", "--format", "html,markdown")
    assert vlaudit(*scan, "--out", tmp_path / "b", *flags) == 0
    (found,) = json.loads((tmp_path / "b" / "report.json").read_text())["findings"]
    assert found["change"] == "unchanged"
    assert "<td>unchanged" in (tmp_path / "b" / "report.html").read_text()
    assert vlaudit(*scan, "--seed", "7", "--out", tmp_path / "c", *flags) == 0
    assert "Warning: compared with the baseline: The seed differs: 0 before, 7 now." in capsys.readouterr().err


def test_what_else_differs_is_said():
    before, after = report(seed=0, effort="quick"), report(seed=1, effort="thorough", data="other")
    text = " ".join(compare(before, after).caveats)
    assert "seed differs: 0 before, 1 now" in text and "effort differs" in text and "data of 't' differ" in text
    assert compare(before, before).caveats == []
    old, new = (report(environment={"torch": version, "device": "cpu"}) for version in ("2.13.0", "2.14.0"))
    assert compare(old, new).caveats == ["The version of torch differs: 2.13.0 before, 2.14.0 now."]


def test_what_else_differs_is_said_first(vlaudit: Callable[..., int], tmp_path: Path, capsys: Any) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report(finding(share(2, 100)), seed=seed).model_dump_json())
    assert vlaudit("diff", tmp_path / "a", tmp_path / "b") == 0
    assert capsys.readouterr().out.startswith("The seed differs: 0 before, 1 now.")
    assert vlaudit("diff", tmp_path / "a", tmp_path / "b", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == ["caveats", "comparisons"]


def test_the_command_exits_with_one_where_something_got_worse(
    vlaudit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, said in (("a", finding(share(2, 100))), ("b", finding(share(60, 100)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report(said).model_dump_json())
    assert vlaudit("diff", tmp_path / "a", tmp_path / "b") == 1
    out = capsys.readouterr().out
    assert "NEW" in out and "held → vulnerable" in out and "+58.0" in out
    assert vlaudit("diff", tmp_path / "b", tmp_path / "a", "--json") == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["change"] == "fixed"
