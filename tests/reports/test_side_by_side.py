"""Prompts of one model beside each other, and matrices: what every report makes of them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reports.conftest import CLEAN, COOP, HOSTILE
from vlaudit.details import Details, Matrix
from vlaudit.records import Delta, Report
from vlaudit.reporting import side_by_side
from vlaudit.reports.html import HTMLReporter
from vlaudit.reports.html.plots import HEATS, MAX_CELLS, heat_map
from vlaudit.reports.markdown import MarkdownReporter
from vlaudit.reports.terminal import TerminalReporter


def test_what_two_prompts_were_both_asked_stands_side_by_side(full_report: Report) -> None:
    (found,) = side_by_side(full_report)
    assert [target.id for target in found.targets] == [CLEAN, COOP]
    assert [{id_: finding.probe for id_, finding in row.items()} for row in found.rows] == [{COOP: "clip-autoattack", CLEAN: "clip-autoattack"}]
    assert found.sentence == "Beyond chance, against the reference prompt: coop-shared: more of clip autoattack."
    findings = [
        f.model_copy(update={"delta": Delta(value=-0.2, ci=(-0.3, -0.1)) if f.probe == "clip-autoattack" else f.delta}) for f in full_report.findings
    ]
    (less,) = side_by_side(full_report.model_copy(update={"findings": findings}))
    assert "plain: less of clip autoattack" in less.sentence and "coop-shared: less of" in less.sentence
    alike = [f.model_copy(update={"delta": Delta(value=0.0, ci=(-0.1, 0.1))}) for f in full_report.findings]
    assert "No prompt is shown to add" in side_by_side(full_report.model_copy(update={"findings": alike}))[0].sentence
    elsewhere = [t.model_copy(update={"data": None}) if t.id == COOP else t for t in full_report.targets]
    assert not side_by_side(full_report.model_copy(update={"targets": elsewhere})), "on other data there is nothing to compare"


def test_the_page_has_both_tables_with_links_to_the_findings(full_report: Report, audit_dir: Path) -> None:
    page = HTMLReporter().render(full_report, audit_dir)
    section = page.partition('<section id="prompts">')[2].partition("</section>")[0]
    anchors = re.findall(r'<a href="#(finding-\d+)">', section)
    assert len(anchors) == 2 and all(f'id="{anchor}"' in page for anchor in anchors)
    assert "41.4" in section and "12.0" in section and "against the reference" in section
    heat = page.partition('<table class="heat">')[2].partition("</table>")[0]
    assert re.findall(r'<td class="heat-(\d)">', heat) == ["5", "3", "1", "7", "0", "0"] and "[50.0, 70.0]" in heat
    linked = re.findall(r'<a href="#(finding-\d+)">([^<]+)</a>', heat)
    assert [name for _, name in linked] == ["plain", "coop-shared", "plain", "coop-shared"]
    assert len({anchor for anchor, _ in linked}) == 2 and all(f'id="{anchor}"' in page for anchor, _ in linked)


def test_markdown_and_terminal_have_them_as_tables(full_report: Report, audit_dir: Path) -> None:
    text = MarkdownReporter().render(full_report, audit_dir)
    assert "| coop\\-shared | 10\\.0 % \\[5\\.0, 20\\.0\\] | 90\\.0 % \\[80\\.0, 95\\.0\\] |" in text
    assert "side by side" in text and "more of clip autoattack" in text
    matrix = text.partition("| target |")[2].partition("\n\n")[0]
    assert matrix.count("vulnerable") >= 2, "a finding stands under each target that it is about"
    plain = TerminalReporter().render(full_report, audit_dir)
    assert "PROMPTS SIDE BY SIDE" in plain and re.search(r"coop-shared\s+10\s%\s+90\s%", plain)


def test_names_that_others_chose_are_inert(full_report: Report, audit_dir: Path) -> None:
    series = Matrix(title=HOSTILE, rows=[HOSTILE], columns=[HOSTILE], values=[[0.5]], xlabel=HOSTILE, ylabel=HOSTILE, unit=HOSTILE)
    first = full_report.findings[0].model_copy(update={"details": Details({"matrix": series.model_dump()})})
    targets = [t.model_copy(update={"prompt": t.prompt.model_copy(update={"id": HOSTILE})}) for t in full_report.targets]
    hostile = full_report.model_copy(update={"targets": targets, "findings": [first, *full_report.findings[1:]]})
    page = HTMLReporter().render(hostile, audit_dir)
    assert "<script>alert" not in page and "<img src=x" not in page and "\x1b" not in page
    text = MarkdownReporter().render(hostile, audit_dir)
    assert not re.search(r"(?<!\\)[<\[]script|(?<!\\)\]\(", text) and "\x1b" not in text
    assert "\x1b" not in TerminalReporter().render(hostile, audit_dir)


def test_shades_follow_the_values_and_large_maps_are_cut() -> None:
    n = MAX_CELLS + 3
    large = heat_map(Matrix(rows=[f"r{i}" for i in range(n)], columns=["a"], values=[[float(i)] for i in range(n)]), {"r1": "finding-3"})
    assert len(large.heat_rows) == MAX_CELLS and large.left_out == 3
    assert large.heat_rows[1][0].href == "finding-3" and large.heat_rows[0][0].href == ""
    shares = heat_map(Matrix(rows=["a"], columns=["x", "y", "z"], values=[[0.0, 0.5, 1.0]], unit="share"), {})
    assert [cell.heat for cell in shares.heat_rows[0][1]] == [0, HEATS // 2, HEATS]
    one = heat_map(Matrix(rows=["a"], columns=["x"], values=[[3.0]]), {})
    assert one.heat_rows[0][1][0].heat == 0 and one.heat_rows[0][1][0].ends == ""
