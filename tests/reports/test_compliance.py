"""Compliance: every mapping exists and has its reason, statuses follow the verdicts target by target, the file can be printed, signed and
read on a phone, and nothing claims conformity."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.reports.browsing import Visit
from tests.reports.conftest import CLEAN, COOP, finding
from vlaudit.cli import cli
from vlaudit.config import Config, Request
from vlaudit.errors import UsageError
from vlaudit.records import Cover, Finding, Report, Risk, Severity, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import report_json
from vlaudit.reports._policy import departures
from vlaudit.reports.compliance import (
    CAVEAT,
    STATED,
    Status,
    bearing,
    controls_of,
    crosswalk,
    frameworks,
    reasons,
    sections,
    status,
)
from vlaudit.reports.compliance.reporters import ComplianceJSONReporter, ComplianceMarkdownReporter, ComplianceReporter

KNOWN = {f"{framework.id}:{control}" for framework in frameworks() for control in framework.controls}
REGISTRY = ProbeRegistry.load([])
MAX_PAGES, MAX_HEIGHT = 12, 28_000  # of one target with a finding of every probe: A4 pages, and pixels on a phone


def test_every_mapping_names_a_control_of_a_dated_edition_and_says_why():
    assert {control for controls in crosswalk().values() for control in controls} <= KNOWN
    for name in REGISTRY.select([], []):
        assert set(REGISTRY.get(name).info.maps) <= KNOWN, name
    assert all(framework.edition and framework.retrieved for framework in frameworks())
    for probe, controls in reasons().items():
        for control, said in controls.items():
            assert said and all(len(reason.why) > 30 and reason.why.endswith((".", "?")) for reason in said), (probe, control)


def test_what_asks_for_a_test_is_a_control_of_its_framework():
    assert all(framework.testing | framework.indirect <= set(framework.controls) for framework in frameworks())
    assert not any(framework.testing & framework.indirect for framework in frameworks())


def test_every_probe_has_its_controls():
    assert set(crosswalk()) == set(REGISTRY.select([], []))


def test_owasp_identifiers_are_those_of_an_edition():
    for prefix, form in (("owasp-llm", r":LLM\d\d:20\d\d$"), ("owasp-aisvs", r":v1\.0-C\d+\.\d+\.\d+$"), ("owasp-aitg", r":AITG-(APP|MOD|INF|DAT)-\d\d$")):
        found = [control for control in KNOWN if control.startswith(prefix)]
        assert len(found) >= 10 and all(re.search(form, control) for control in found)


# --- statuses ---------------------------------------------------------------------------------------------------------


def test_a_vulnerable_finding_is_evidence_against_and_undecided_ones_are_never_evidence_for(report: Report) -> None:
    by = {verdict: next(f for f in report.findings if f.verdict is verdict) for verdict in Verdict}
    assert status([]) is Status.NONE
    assert status([by[Verdict.NOT_ASSESSED]]) is Status.NOT_ASSESSED
    assert status([by[Verdict.HELD]]) is Status.FOR
    assert status([by[Verdict.HELD], by[Verdict.NOT_ASSESSED]]) is Status.PARTLY
    assert status([by[Verdict.HELD]], indirect=True) is Status.PARTLY and status([by[Verdict.VULNERABLE]], indirect=True) is Status.AGAINST
    assert status([by[Verdict.HELD], by[Verdict.INCONCLUSIVE]]) is Status.UNDECIDED
    assert status([by[Verdict.HELD], by[Verdict.INCONCLUSIVE], by[Verdict.VULNERABLE]]) is Status.AGAINST


def test_a_control_that_asks_for_a_test_is_met_by_one_that_came_to_an_end(report: Report) -> None:
    by = {verdict: next(f for f in report.findings if f.verdict is verdict) for verdict in Verdict}
    assert status([by[Verdict.VULNERABLE]], testing=True) is Status.TESTED
    assert status([by[Verdict.NOT_ASSESSED]], testing=True) is Status.NOT_ASSESSED
    assert status([], testing=True) is Status.NONE


def with_findings(report: Report, *findings: Finding) -> Report:
    return report.model_copy(update={"findings": list(findings)})


def cells(report: Report, name: str) -> dict[str, Any]:
    framework, _, control = name.partition(":")
    section = next(section for section in sections(report) if section.framework.id == framework)
    return next(row.cells for row in section.rows if row.control == control)


def test_each_target_has_a_status_of_its_own(report: Report) -> None:
    found = with_findings(
        report,
        finding("prompt-trigger-inversion", "MB1", Risk.BACKDOOR, Verdict.VULNERABLE, "A patch.", target=COOP, severity=Severity.CRITICAL),
        finding("prompt-trigger-inversion", "MB1", Risk.BACKDOOR, Verdict.HELD, "Nothing.", target=CLEAN),
    )
    said = cells(found, "owasp-llm:LLM04:2025")
    assert said[COOP].status is Status.AGAINST and said[CLEAN].status is Status.FOR
    assert {cell.status for cell in cells(found, "owasp-llm:LLM07:2025").values()} == {Status.NONE}


def test_a_finding_of_two_targets_stands_under_both(report: Report) -> None:
    both = finding("cross-prompt-transfer", "MR2", Risk.ROBUSTNESS, Verdict.HELD, "Nothing carries over.", target=CLEAN, related_targets=[COOP, "gone"])
    assert {cell.status for cell in cells(with_findings(report, both), "atlas:AML.T0043.002").values()} == {Status.FOR}


def test_a_finding_without_retrieval_says_nothing_of_retrieval(report: Report) -> None:
    """Although the probe states that control itself: an older audit may say so."""
    held = finding("context-poison", "GR3", Risk.ROBUSTNESS, Verdict.HELD, "The prompt has no context.", mappings=["owasp-llm:LLM08:2025"])
    report = with_findings(report, held)
    assert {cell.status for cell in cells(report, "owasp-llm:LLM08:2025").values()} == {Status.NONE}
    target = next(target for target in report.targets if target.id == COOP)
    retrieving = target.model_copy(update={"prompt": target.prompt.model_copy(update={"method": "retrieval"})})
    assert "owasp-llm:LLM08:2025" in bearing(held, retrieving) and "owasp-llm:LLM08:2025" not in bearing(held, target)
    assert cells(report, "owasp-llm:LLM01:2025")[COOP].status is Status.FOR


def test_a_probe_that_the_crosswalk_does_not_name_states_its_controls(report: Report) -> None:
    own = finding("mirrored", "X1", Risk.ROBUSTNESS, Verdict.HELD, "Nothing.", mappings=["atlas:AML.T0015", "nobody:1"])
    assert bearing(own, report.targets[0])["atlas:AML.T0015"][0].why == STATED
    assert cells(with_findings(report, own), "atlas:AML.T0015")[COOP].status is Status.FOR
    info = REGISTRY.get("clip-autoattack").info
    assert controls_of(info) == crosswalk()["clip-autoattack"]
    assert controls_of(info.model_copy(update={"id": "mirrored"})) == info.maps


def test_findings_stand_under_the_controls_of_their_probes(full_report: Report) -> None:
    targets = {target.id: target for target in full_report.targets}
    for section in sections(full_report):
        for row in section.rows:
            for id_, cell in row.cells.items():
                for one in cell.findings:
                    assert f"{section.framework.id}:{row.control}" in bearing(one, targets[id_]) and id_ in (one.target, *one.related_targets)
            assert bool(row.reasons) == row.concerned
    assert any(section.covered(COOP) for section in sections(full_report))


# --- the cover --------------------------------------------------------------------------------------------------------


def covered(report: Report, **fields: str) -> Report:
    return report.model_copy(update={"audit": report.audit.model_copy(update={"cover": Cover(**fields)})})


def test_the_cover_names_the_system_and_the_policy_and_leaves_lines_to_sign(report: Report, audit_dir: Path) -> None:
    changed = covered(report, system="Photo search", assessor="A. Person")
    policy = report.audit.policy | {"thresholds": {"clip-autoattack": 0.3, "rank-skew.least-group": 5.0}, "fail_on": "critical"}
    changed = changed.model_copy(update={"audit": changed.audit.model_copy(update={"policy": policy})})
    page, text, told = (reporter().render(changed, audit_dir) for reporter in (ComplianceReporter, ComplianceMarkdownReporter, ComplianceJSONReporter))
    said = json.loads(told)
    entries = {row["entry"]: (row["value"], row["default"]) for row in said["departs_from_the_default_policy"]}
    assert entries["thresholds.clip-autoattack"] == ("0.3", str(REGISTRY.get("clip-autoattack").info.threshold))
    assert set(entries) >= {"thresholds.clip-autoattack", "thresholds.rank-skew.least-group", "fail-on"}
    assert said["cover"]["system"] == "Photo search" and said["cover"]["version"] is None
    for each in (page, text.replace("\\", "")):
        assert "Photo search" in each and "A. Person" in each and "thresholds.clip-autoattack" in each and "3fa9" * 16 in each
    assert page.count('class="blank"') == 3, "version, purpose and organisation"
    assert "least-group" not in ComplianceReporter().render(report, audit_dir)


def test_a_policy_that_nobody_can_read_is_shown_as_it_is(report: Report) -> None:
    odd = report.model_copy(update={"audit": report.audit.model_copy(update={"policy": {"level": "high", "x": {"y": 1}}})})
    assert ("level", "high", "unknown") in departures(odd)


def test_the_cover_comes_from_the_config_and_is_no_part_of_the_audits_identity() -> None:
    config = Config.model_validate({"compliance": {"system": "Photo search"}})
    plain, named = (Request(targets=[], probes=[], cover=cover) for cover in (Cover(), config.compliance))
    assert named.cover.system == "Photo search" and plain.digest() == named.digest()


def test_the_command_line_fills_in_the_cover(report: Report, audit_dir: Path) -> None:
    (audit_dir / "report.json").write_text(report_json(covered(report, version="1"), indent=1), encoding="utf-8")
    call = ["report", str(audit_dir), "--format", "compliance-json", "--cover"]
    done = CliRunner().invoke(cli, [*call, "system=A = B"])
    assert done.exit_code == 0 and json.loads(done.output)["cover"] == {"system": "A = B", "version": "1", "purpose": None, "organisation": None, "assessor": None}
    for wrong, cure in (("sytem=x", "Did you mean 'system'?"), ("system", "Write for example")):
        refused = CliRunner().invoke(cli, [*call, wrong]).exception
        assert isinstance(refused, UsageError) and "--cover" in str(refused) and cure in refused.cure


def test_the_page_and_the_markdown_say_what_an_audit_cannot_do(report: Report, audit_dir: Path) -> None:
    page, text = (reporter().render(report, audit_dir) for reporter in (ComplianceReporter, ComplianceMarkdownReporter))
    assert CAVEAT in page and CAVEAT in text
    assert "Content-Security-Policy" in page and "evidence against" in page and "evidence against" in text
    for framework in frameworks():
        assert framework.edition in page and framework.edition in text
    assert not re.search(r"\b(is|are) compliant\b|conforms to", page + text)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any, audit_dir: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def call(report: Report, **options: Any) -> Visit:
        file = audit_dir / "report.compliance.html"
        file.write_text(ComplianceReporter().render(report, audit_dir), encoding="utf-8")
        visits.append(Visit(browser, file, **options))
        return visits[-1]

    yield call
    for visit in visits:
        visit.context.close()


def one_target(report: Report) -> Report:
    """One target with a finding of every installed probe: more than any real one has."""
    target = report.targets[1]
    verdicts = list(Verdict)
    findings = [
        finding(info.id, info.code, info.risk, verdicts[place % 4], "It is as the figures say, of the pictures that were tried.", title=info.title, target=target.id)
        for place, info in enumerate(found.info for found in REGISTRY.classes.values())
    ]
    return report.model_copy(update={"targets": [target], "findings": findings})


@pytest.mark.browser
def test_one_target_fits_twelve_printed_pages_and_a_phone(opened: Callable[..., Visit], report: Report) -> None:
    from pypdf import PdfReader

    page = opened(one_target(report), viewport={"width": 390, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollHeight") < MAX_HEIGHT
    sheets = PdfReader(io.BytesIO(page.pdf(format="A4", prefer_css_page_size=True))).pages
    assert 3 <= len(sheets) <= MAX_PAGES
    assert all(len(sheet.extract_text()) > 800 for sheet in sheets[:-1]), "no page is white"


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_no_column_is_narrow_and_nothing_scrolls(opened: Callable[..., Visit], full_report: Report, width: int) -> None:
    page = opened(full_report, viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    narrow = "[...document.querySelectorAll('td, th')].filter((e) => e.checkVisibility() && e.textContent.trim() && e.getBoundingClientRect().width < 70)"
    assert page.evaluate(f"{narrow}.filter((e) => !e.closest('thead')).map((e) => e.outerHTML.slice(0, 90))") == []
