"""JUnit XML: a suite for each target, a test case for each finding, as CI servers show them.

A test case fails where the finding is vulnerable at or above the audit's ``--fail-on``. An undecided finding is skipped, with
its reason, and one whose units did not finish is an error: neither counts as passed. Format: the schema of Apache Ant's junitreport.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from vlaudit.records import Finding, Report, Verdict
from vlaudit.reporting import gating, interval, log_line, suppression_text

COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
MAX_MESSAGE = 500  # characters of an attribute; the whole reason is in the element
MAX_TEXT = 20_000


class JUnitReporter:
    """JUnit XML: test cases for CI servers."""

    name = "junit"
    extension = "xml"

    def render(self, report: Report, audit_dir: Path) -> str:
        stopping = {finding.id for finding in gating(report)}
        root = ElementTree.Element("testsuites", name=log_line(f"{report.tool.name} {report.audit.id}"))
        of_target: dict[str, list[Finding]] = {target.id: [] for target in report.targets}
        for finding in report.findings:
            of_target.get(finding.target, []).append(finding)
        for target in report.targets:
            suite = _suite(root, log_line(target.id), of_target[target.id])
            for finding in of_target[target.id]:
                _case(suite, finding, stopping)
            if target.error:
                case = ElementTree.SubElement(suite, "testcase", name="load", classname=log_line(target.id), time="0")
                _outcome(case, "error", "load", target.error)
        if report.audit.errors or not report.audit.complete:
            suite = _suite(root, "audit", [])
            for error in report.audit.errors or ["the audit did not finish"]:
                case = ElementTree.SubElement(suite, "testcase", name="finished", classname="audit", time="0")
                _outcome(case, "error", "unfinished", error)
        for element in (*root, root):
            for key, tag in COUNTED.items():
                element.set(key, str(len(list(element.iter(tag)))))
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, name: str, findings: list[Finding]) -> ElementTree.Element:
    seconds = sum(finding.cost.seconds for finding in findings)
    return ElementTree.SubElement(root, "testsuite", name=name, time=f"{seconds:.3f}")


def _case(suite: ElementTree.Element, finding: Finding, stopping: set[str]) -> None:
    classname = f"{log_line(finding.target)}.{finding.risk.value}"
    case = ElementTree.SubElement(
        suite, "testcase", name=log_line(finding.probe), classname=classname, time=f"{finding.cost.seconds:.3f}"
    )
    if finding.id in stopping:
        _outcome(case, "failure", finding.code, _sentence(finding))
    elif finding.suppressed and finding.verdict is Verdict.VULNERABLE:
        _outcome(case, "skipped", "", suppression_text(finding))
    elif finding.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED):
        _outcome(case, "skipped", "", f"{finding.verdict.value}: {finding.reason}")
    out = ElementTree.SubElement(case, "system-out")
    said = (f"{finding.verdict.value}: {_sentence(finding)}", f"reproduce: {finding.reproduce}")
    out.text = "\n".join(log_line(line, MAX_TEXT) for line in said)


def _sentence(finding: Finding) -> str:
    figures = ""
    if finding.metric:
        figures = f"; {finding.metric.name} {interval(finding.metric, finding.metric.unit)}, n = {finding.metric.n}"
    return f"{finding.reason}{figures}"


def _outcome(case: ElementTree.Element, tag: str, kind: str, message: str) -> None:
    element = ElementTree.SubElement(case, tag, message=log_line(message, MAX_MESSAGE))
    if kind:
        element.set("type", log_line(kind))
        element.text = log_line(message, MAX_TEXT)
