"""AVID: the database's own models read every line, only vulnerable findings are reports, and categories exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from avidtools.datamodels.enums import LifecycleEnum, SepEnum
from avidtools.datamodels.report import Report as AVIDReport
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.reports.conftest import poisoned
from vlaudit.records import Finding, Report, Risk, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import worst_first
from vlaudit.reports.avid import MAX_REPORTS, AVIDReporter, categories, taxonomy
from vlaudit.reports.compliance import avid_categories

TAGS = {"<p>", "</p>", "<code>", "</code>"}  # all that a description may become


def reports(report: Report) -> list[AVIDReport]:
    text = AVIDReporter().render(report, Path("nowhere"))
    text.encode()
    return [AVIDReport.model_validate_json(line) for line in text.split("\n") if line]


def vulnerable(report: Report) -> list[Finding]:
    return [f for f in worst_first(report.findings) if f.verdict is Verdict.VULNERABLE]


def test_each_vulnerable_finding_is_a_detection_with_its_figures(report: Report) -> None:
    found = reports(report)
    assert len(found) == len(vulnerable(report)) == 3
    for said, finding in zip(found, vulnerable(report), strict=True):
        assert finding.metric and said.problemtype.type == "Detection"
        (metric,) = said.metrics
        assert metric.name == finding.metric.name and metric.detection_method.type == "Static Threshold"
        assert metric.results["value"] == finding.metric.value
        assert metric.results["interval"] == list(finding.metric.ci)
        assert metric.results["threshold"] == finding.threshold
        assert said.reported_date.isoformat() == "2026-11-23"
        assert [artifact.name for artifact in said.affects.artifacts] == ["flagship", "flagship under coop-shared"]


@pytest.mark.parametrize("verdict", [Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED])
def test_what_is_no_occurrence_of_a_failure_makes_no_report(report: Report, verdict: Verdict) -> None:
    changed = [f.model_copy(update={"verdict": verdict}) for f in report.findings]
    assert AVIDReporter().render(report.model_copy(update={"findings": changed}), Path("nowhere")) == ""


def test_the_description_tells_what_else_was_not_decided(report: Report) -> None:
    for said in reports(report):
        assert "3 vulnerable, 1 inconclusive, 1 held" in said.description.value
    unfinished = report.model_copy(update={"audit": report.audit.model_copy(update={"complete": False})})
    assert all("did not finish" in said.description.value for said in reports(unfinished))


def test_an_accepted_finding_says_so_without_naming_anybody(suppressed_report: Report) -> None:
    text = AVIDReporter().render(suppressed_report, Path("nowhere"))
    for said, finding in zip(reports(suppressed_report), vulnerable(suppressed_report), strict=True):
        assert ("Suppressed" in said.description.value) == (finding.risk is Risk.BIAS)
    assert "ada@" not in text


def test_without_a_threshold_it_is_the_test_that_decides(report: Report) -> None:
    changed = [f.model_copy(update={"threshold": None}) for f in report.findings]
    methods = {
        said.metrics[0].detection_method.type for said in reports(report.model_copy(update={"findings": changed}))
    }
    assert methods == {"Significance Test"}


def test_the_taxonomy_is_the_databases() -> None:
    assert {f"{name}: {title}" for name, title in taxonomy()["effect"].items()} == {entry.value for entry in SepEnum}
    assert {f"{name}: {title}" for name, title in taxonomy()["lifecycle"].items()} == {e.value for e in LifecycleEnum}


def test_every_probe_has_categories_that_exist(report: Report) -> None:
    known = set(taxonomy()["effect"])
    assert all(set(names) <= known for names in avid_categories().values())
    for name in ProbeRegistry.load([]).select([], []):
        assert avid_categories().get(name), name
    foreign = report.findings[0].model_copy(update={"probe": "somebody's", "mappings": ["avid:E0301", "avid:X99"]})
    assert categories(foreign) == ["E0301"]
    assert {categories(foreign.model_copy(update={"mappings": [], "risk": risk}))[0] for risk in Risk} <= known


def test_risk_domains_follow_the_categories(report: Report) -> None:
    by = {f.risk: said.impact.avid for f, said in zip(vulnerable(report), reports(report), strict=True)}
    assert by[Risk.BACKDOOR].risk_domain == ["Security"] and by[Risk.BIAS].risk_domain == ["Ethics"]
    assert by[Risk.ROBUSTNESS].risk_domain == ["Security", "Performance"]


def test_only_addresses_become_references(hostile_report: Report) -> None:
    for said in reports(hostile_report):
        assert all(reference.url.startswith("https://") for reference in said.references)
        assert not any("<" in reference.url or "\x1b" in reference.url for reference in said.references)


def test_hostile_text_stays_text(hostile_report: Report) -> None:
    text = AVIDReporter().render(hostile_report, Path("nowhere"))
    assert not any(character in text for character in "\x1b\x00\x9b\u202e\ud800")
    for said in reports(hostile_report):
        assert_plain(said.description.value)


def assert_plain(markdown: str) -> None:
    """The Markdown renders to paragraphs of text and code alone."""
    html = MarkdownIt("commonmark").render(markdown)
    tags = {part.split(">", 1)[0] + ">" for part in html.replace("<!-- -->", "").split("<")[1:]}
    assert {f"<{tag}" for tag in tags} <= TAGS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=40))
def test_any_text_gives_readable_reports(report: Report, text: str) -> None:
    found = reports(poisoned(report, text))
    assert len(found) == 3
    for said in found:
        assert_plain(said.description.value)


def test_figures_that_json_lacks_are_texts(report: Report) -> None:
    metric = report.findings[0].metric
    assert metric
    endless = report.findings[0].model_copy(update={"metric": metric.model_copy(update={"ci": (0.5, float("inf"))})})
    line = AVIDReporter().render(report.model_copy(update={"findings": [endless]}), Path("nowhere"))
    assert json.loads(line, parse_constant=pytest.fail)["metrics"][0]["results"]["interval"] == [0.5, "inf"]


def test_a_very_large_audit_stays_readable(report: Report) -> None:
    long = vulnerable(report)[0].model_copy(update={"reason": "very bad " * 5_000, "limits": "x" * 9_000})
    many = [long.model_copy(update={"id": str(index)}) for index in range(MAX_REPORTS + 5)]
    text = AVIDReporter().render(report.model_copy(update={"findings": many}), Path("nowhere"))
    assert text.count("\n") == MAX_REPORTS and len(text) < 20_000_000
