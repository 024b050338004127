"""`vlaudit view` lists a folder of audits on one page: no server, nothing followed out of the folder, nothing of its names obeyed."""

from __future__ import annotations

import os
import re
import shutil
import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.reports.conftest import audit_dir, report  # noqa: F401 (fixtures)
from tests.reports.test_html import Page
from vlaudit.audit.run import write_report
from vlaudit.records import Report

Command = Callable[..., int]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda uri: found.append(uri) or True)
    return found


@pytest.fixture
def audits(tmp_path: Path, report: Report) -> Path:  # noqa: F811
    """Two audits of different days, the older one under a hostile name."""
    for name, started in (("new", "2026-12-01T00:00:00+00:00"), ("<script>alert(1)<!-- ?#%", "2026-01-01T00:00:00+00:00")):
        folder = tmp_path / "audits" / name
        folder.mkdir(parents=True)
        write_report(folder, report.model_copy(update={"audit": report.audit.model_copy(update={"started": started})}))
        (folder / "report.html").write_text(f"the report of {started}")
    return tmp_path / "audits"


def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def links(folder: Path) -> list[str]:
    return [unquote(attributes["href"]) for tag, attributes in page(folder).tags if tag == "a"]


def test_the_reports_of_a_folder_the_newest_first(audits: Path, vlaudit: Command, opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("view", audits) == 0
    assert opened == [(audits / "index.html").absolute().as_uri()]
    assert capsys.readouterr().out.strip() == str(audits / "index.html")
    assert [(audits / link).read_text()[:24] for link in links(audits)] == ["the report of 2026-12-01", "the report of 2026-01-01"]
    assert not [tag for tag, _ in page(audits).tags if tag == "script"]
    assert "vulnerabilit" in page(audits).text
    assert vlaudit("view", audits, "--no-open") == 0 and len(opened) == 1


def test_one_audit_is_opened_itself(audits: Path, vlaudit: Command, opened: list[str]) -> None:
    assert vlaudit("view", audits / "new") == 0
    assert opened == [(audits / "new" / "report.html").as_uri()]
    assert not (audits / "new" / "index.html").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_what_is_no_audit_is_named_and_not_followed(audits: Path, vlaudit: Command, tmp_path: Path) -> None:
    shutil.copytree(audits / "new", tmp_path / "elsewhere")
    (audits / "linked").symlink_to(tmp_path / "elsewhere")
    (audits / "notes").mkdir()
    (audits / "torn").mkdir()
    (audits / "torn" / "report.json").write_text('{"schema')
    (audits / "led out").mkdir()
    shutil.copy(audits / "new" / "report.json", audits / "led out")
    (audits / "led out" / "report.html").symlink_to(tmp_path / "elsewhere" / "report.html")
    (audits / "a file").write_text("")
    assert vlaudit("view", audits, "--no-open") == 0
    told = dict(re.findall(r"<li>(.*?): (.*?)</li>", (audits / "index.html").read_text(encoding="utf-8")))
    assert told.keys() == {"linked", "notes", "torn"}
    assert "not followed" in told["linked"] and "holds no report" in told["notes"] and "vlaudit judge" in told["torn"]
    assert "has no page yet" in page(audits).text
    assert not [link for link in links(audits) if link.startswith(("led out", "linked"))]


def test_a_page_of_somebody_else_stays(audits: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (audits / "index.html").write_text("mine")
    assert vlaudit("view", audits, "--no-open") == 2
    assert "--output" in capsys.readouterr().err and (audits / "index.html").read_text() == "mine"
    assert vlaudit("view", audits, "--no-open", "--output", audits / "list.html") == 0
    assert vlaudit("view", audits.parent / "none", "--no-open") == 2


def test_links_lead_from_where_the_page_is(audits: Path, vlaudit: Command, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    assert vlaudit("view", audits, "--no-open", "--output", tmp_path / "deep" / "index.html") == 0
    assert len(links(tmp_path / "deep")) == 2 and all((tmp_path / "deep" / link).is_file() for link in links(tmp_path / "deep"))


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_one_odd_entry_hides_no_other(audits: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (audits / "loop").symlink_to("loop")
    (audits / "unfinished; rm -r x").mkdir()
    shutil.copy(audits / "new" / "report.json", audits / "unfinished; rm -r x")
    assert vlaudit("view", audits, "--no-open") == 0
    assert len(links(audits)) == 2 and f"vlaudit report '{audits}/unfinished; rm -r x' --format" in page(audits).text
    assert vlaudit("view", "a" * 5_000, "--no-open") == 2 and "There is no folder" in capsys.readouterr().err
    assert vlaudit("view", audits, "--no-open", "--output", "-") == 2 and "Name one" in capsys.readouterr().err
