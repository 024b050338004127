"""Compliance: every mapping exists, statuses follow the verdicts, and nothing claims conformity."""

from __future__ import annotations

import re
from pathlib import Path

from vlaudit.records import Report, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.reports.compliance import CAVEAT, Status, crosswalk, frameworks, sections, status
from vlaudit.reports.compliance.reporters import ComplianceMarkdownReporter, ComplianceReporter

KNOWN = {f"{framework.id}:{control}" for framework in frameworks() for control in framework.controls}
REGISTRY = ProbeRegistry.load([])


def test_every_mapping_names_a_control_of_a_dated_edition():
    assert {control for controls in crosswalk().values() for control in controls} <= KNOWN
    for name in REGISTRY.select([], []):
        assert set(REGISTRY.get(name).info.maps) <= KNOWN, name
    assert all(framework.edition and framework.retrieved for framework in frameworks())


def test_every_probe_has_its_controls():
    assert set(crosswalk()) == set(REGISTRY.select([], []))


def test_owasp_identifiers_carry_their_year():
    owasp = [control for control in KNOWN if control.startswith("owasp")]
    assert owasp and all(re.search(r":20\d\d$", control) for control in owasp)


def test_a_vulnerable_finding_is_evidence_against_and_undecided_ones_are_never_evidence_for(report: Report) -> None:
    by = {verdict: next(f for f in report.findings if f.verdict is verdict) for verdict in Verdict}
    assert status([]) is Status.NOT_ASSESSED
    assert status([by[Verdict.NOT_ASSESSED]]) is Status.NOT_ASSESSED
    assert status([by[Verdict.HELD]]) is Status.FOR
    assert status([by[Verdict.HELD], by[Verdict.NOT_ASSESSED]]) is Status.FOR
    assert status([by[Verdict.HELD], by[Verdict.INCONCLUSIVE]]) is Status.UNDECIDED
    assert status([by[Verdict.HELD], by[Verdict.INCONCLUSIVE], by[Verdict.VULNERABLE]]) is Status.AGAINST


def test_findings_stand_under_the_controls_of_their_probes(report: Report) -> None:
    for section in sections(report):
        for row in section.rows:
            own = f"{section.framework.id}:{row.control}"
            for finding in row.findings:
                assert own in (*crosswalk().get(finding.probe, ()), *finding.mappings)
    assert any(section.covered for section in sections(report))


def test_the_page_and_the_markdown_say_what_an_audit_cannot_do(report: Report, audit_dir: Path) -> None:
    page, text = (reporter().render(report, audit_dir) for reporter in (ComplianceReporter, ComplianceMarkdownReporter))
    assert CAVEAT in page and CAVEAT in text
    assert "Content-Security-Policy" in page and "evidence against" in page and "evidence against" in text
    for framework in frameworks():
        assert framework.edition in page and framework.edition in text
    assert not re.search(r"\b(is|are) compliant\b|conforms to", page + text)
