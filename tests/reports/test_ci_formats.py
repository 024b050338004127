"""JUnit, Markdown and SARIF: independent readers parse them, and limits hold."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from tests.reports.conftest import check_sarif
from vlaudit.records import Place, Report, Severity, Verdict
from vlaudit.reporting import gating
from vlaudit.reports import sarif
from vlaudit.reports.junit import JUnitReporter
from vlaudit.reports.markdown import MAX_SIZE, MarkdownReporter, escape
from vlaudit.reports.sarif import SARIFReporter


def cases(text: str) -> dict[str, list[object]]:
    return {
        f"{case.classname}/{case.name}": list(case.result)
        for suite in JUnitXml.fromstring(text.encode())
        for case in suite
    }


def test_junit_fails_what_the_gate_stops_and_never_passes_what_is_undecided(report: Report, audit_dir: Path) -> None:
    found = cases(JUnitReporter().render(report, audit_dir))
    stopping = {finding.id for finding in gating(report)}
    assert stopping and len(found) == len(report.findings)
    for finding in report.findings:
        (*kinds,) = (type(result) for result in found[f"{finding.target}.{finding.risk.value}/{finding.probe}"])
        undecided = finding.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED)
        assert kinds == ([Failure] if finding.id in stopping else [Skipped] if undecided else [])


def test_junit_shows_what_did_not_load_or_finish_as_errors(report: Report, audit_dir: Path) -> None:
    broken = report.targets[0].model_copy(update={"error": "no weights"})
    audit = report.audit.model_copy(update={"errors": ["typographic: out of memory"]})
    text = JUnitReporter().render(
        report.model_copy(update={"targets": [broken], "findings": [], "audit": audit}), audit_dir
    )
    assert [type(result) for results in cases(text).values() for result in results] == [Error, Error]
    assert JUnitXml.fromstring(text.encode()).errors == 2


def test_junit_gate_follows_fail_on(report: Report, audit_dir: Path) -> None:
    lenient = report.model_copy(update={"audit": report.audit.model_copy(update={"fail_on": Severity.NONE})})
    assert not [
        r
        for results in cases(JUnitReporter().render(lenient, audit_dir)).values()
        for r in results
        if isinstance(r, Failure)
    ]


def test_sarif_is_read_back_with_one_result_for_each_vulnerable_finding(report: Report, audit_dir: Path) -> None:
    text = SARIFReporter().render(report, audit_dir)
    check_sarif(text)
    (raw,) = json.loads(text)["runs"]
    vulnerable = [finding for finding in report.findings if finding.verdict is Verdict.VULNERABLE]
    assert len(raw["results"]) == len(vulnerable) > 1
    rules = raw["tool"]["driver"]["rules"]
    for result in raw["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert all(result["locations"][0]["physicalLocation"]["region"].values()), "all four numbers"
    for rule in rules:
        texts = [rule[key]["text"] for key in ("shortDescription", "fullDescription", "help")]
        assert all(0 < len(text) <= 1024 for text in texts)
        assert len(rule["properties"]["tags"]) <= 20
    assert any("Not passes" in note["message"]["text"] for note in raw["invocations"][0]["toolExecutionNotifications"])


def test_sarif_points_at_the_line_that_declares_the_target(report: Report, audit_dir: Path) -> None:
    place = Place(file="audits/my config.toml", line=17)
    targets = [target.model_copy(update={"declared": place}) for target in report.targets]
    run = json.loads(SARIFReporter().render(report.model_copy(update={"targets": targets}), audit_dir))["runs"][0]
    location = run["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "audits/my%20config.toml"
    assert location["region"] == {"startLine": 17, "startColumn": 1, "endLine": 17, "endColumn": 2}


def test_sarif_fingerprints_outlive_figures_but_not_probes(report: Report, audit_dir: Path) -> None:
    def prints(changed: Report) -> list[str]:
        run = json.loads(SARIFReporter().render(changed, audit_dir))["runs"][0]
        return sorted(result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"])

    before = prints(report)
    assert len(set(before)) == len(before)
    other = [
        f.model_copy(update={"metric": None, "reason": "other", "severity": Severity.LOW}) for f in report.findings
    ]
    later = report.audit.model_copy(update={"seed": 99, "id": "later"})
    assert prints(report.model_copy(update={"findings": other, "audit": later})) == before


def test_sarif_keeps_findings_of_one_model_and_prompt_on_other_data_apart(report: Report, audit_dir: Path) -> None:
    twins = [t.model_copy(update={"id": f"{t.id}-twin"}) for t in report.targets]
    found = [f.model_copy(update={"id": f"{f.id}-twin", "target": f"{f.target}-twin"}) for f in report.findings]
    both = report.model_copy(update={"targets": [*report.targets, *twins], "findings": [*report.findings, *found]})
    run = json.loads(SARIFReporter().render(both, audit_dir))["runs"][0]
    marks = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
    assert len(set(marks)) == len(marks) > 2


def test_sarif_stays_within_the_limits_of_code_scanning(
    report: Report, audit_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub takes 10 MB (gzip) and 20 runs, 25,000 results and rules of a run, of which it keeps 5,000, and 20 tags of a rule."""
    worst = report.findings[0].model_copy(
        update={"reason": "long " * 2_000, "mappings": [f"a:{i // 2}" for i in range(44)]}
    )
    many = [worst.model_copy(update={"id": f"t/{i}", "probe": f"p{i}"}) for i in range(110)]
    assert sarif.MAX_RESULTS == 5_000
    monkeypatch.setattr(sarif, "MAX_RESULTS", 100)
    text = SARIFReporter().render(report.model_copy(update={"findings": many}), audit_dir)
    (run,) = json.loads(text)["runs"]
    assert len(run["results"]) == len(run["tool"]["driver"]["rules"]) == 100
    assert 50 * len(gzip.compress(text.encode())) < 10_000_000
    assert {len(result["locations"]) for result in run["results"]} == {1}
    one = SARIFReporter().render(report.model_copy(update={"findings": many[:1]}), audit_dir)
    check_sarif(one)
    (rule,) = json.loads(one)["runs"][0]["tool"]["driver"]["rules"]
    assert len(rule["properties"]["tags"]) == 20


def test_markdown_fits_a_comment_whatever_there_is(many_findings: Report, audit_dir: Path) -> None:
    long = [
        f.model_copy(update={"verdict": Verdict.VULNERABLE, "reason": "very bad " * 400})
        for f in many_findings.findings
    ]
    text = MarkdownReporter().render(many_findings.model_copy(update={"findings": long}), audit_dir)
    assert len(text.encode()) <= MAX_SIZE and "more in the HTML report" in text
    assert text.count("<details>") == text.count("</details>") > 5


def test_markdown_says_verdicts_figures_and_how_to_reproduce(report: Report, audit_dir: Path) -> None:
    text = MarkdownReporter().render(report, audit_dir)
    assert text.startswith("### vlaudit: ") and "exit code 1" in text
    assert text.count("\n| ✗ vulnerable |") == sum(f.verdict is Verdict.VULNERABLE for f in report.findings)
    assert "Reproduce: `vlaudit scan" in text
    partial = report.model_copy(update={"audit": report.audit.model_copy(update={"complete": False})})
    assert "do not read it as a pass" in MarkdownReporter().render(partial, audit_dir)


@pytest.mark.parametrize(
    "text", ["a|b", "<img src=x>", "[x](http://e)", "`code`", "a\nb", "*b*", "# h", "www.e.com", "~x~"]
)
def test_markdown_escapes_all_that_steers(text: str) -> None:
    escaped = escape(text).replace("<!-- -->", "")
    assert "\n" not in escaped and not re.search(r"(?<!\\)[`*_\[\]<>|#~(]", escaped)


def test_markdown_mentions_nobody_and_no_issue() -> None:
    assert escape("@everyone") == "@<!-- -->everyone"
    assert escape("#1") == "\\#<!-- -->1"
