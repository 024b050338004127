"""Where reports go: `--output -` puts one alone on standard output, and `judge --out` leaves the audit that it judges as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MIRROR
from vlaudit.audit.run import read_report
from vlaudit.records import Report

Command = Callable[..., int]
Printed = pytest.CaptureFixture[str]


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command) -> Command:
    shown = 'artifacts={"shown": ctx.artifacts.put_text("shown", "what was shown")}'
    (tmp_path / "mirror.py").write_text(MIRROR.replace("yield ctx.trial(case, {", f"yield ctx.trial(case, {shown}, values={{"))
    probes = ("--plugin", tmp_path / "mirror.py", "--probe", "mirror", "--probe", "unsafe-file")
    return lambda *flags: vlaudit("scan", f"hf:{tiny_clip}", *probes, "--data", picture_folder, *flags)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_alone_on_standard_output(scan: Command, vlaudit: Command, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "audit"
    assert scan("--format", "json", "--output", "-", "--out", out) in (0, 1)
    printed = capsys.readouterr()
    said, kept = json.loads(printed.out), json.loads((out / "report.json").read_text())
    assert Report.model_validate(said) and said | {"checksum": None} == kept | {"checksum": None}
    assert "2 findings: " in printed.err and "Every finding: vlaudit report" in printed.err
    assert not (out / "report.html").exists()
    for format_, begins in (("json", "{"), ("markdown", "#"), ("junit", "<?xml"), ("html", "<!doctype html>"), ("terminal", "vlaudit ")):
        assert vlaudit("report", out, "--format", format_, "--output", "-") == 0
        printed = capsys.readouterr()
        assert printed.out.startswith(begins) and printed.out.endswith("\n") and not printed.out.endswith("\n\n") and not printed.err


def test_a_report_in_a_file_of_the_users_own(scan: Command, tmp_path: Path, capsys: Printed) -> None:
    out, own = tmp_path / "audit", tmp_path / "own.xml"
    assert scan("--format", "junit", "--output", own, "--out", out) in (0, 1)
    assert own.read_text().startswith("<?xml") and not list(out.glob("report.[!j]*"))
    assert f"Report: {own}" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["-", "own.json"])
def test_several_formats_have_no_one_place(output: str, scan: Command, vlaudit: Command, tmp_path: Path, capsys: Printed) -> None:
    assert scan("--format", "json,sarif", "--output", output, "--out", tmp_path / "audit") == 2
    printed = capsys.readouterr()
    assert f"--output {output} takes one report, and --format names 2." in printed.err and "name one format" in printed.err
    assert not printed.out and not (tmp_path / "audit").exists()
    (tmp_path / "empty").mkdir()
    assert vlaudit("report", tmp_path / "empty", "--format", "json,sarif", "--output", output) == 2
    assert "takes one report" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--dry-run", "--plan"])
def test_without_a_report_there_is_nothing_to_write(flag: str, scan: Command, tmp_path: Path, capsys: Printed) -> None:
    assert scan("--output", "-", flag, *([tmp_path] if flag == "--plan" else [])) == 2
    assert f"--output is for a report, and {flag} makes none." in capsys.readouterr().err


def test_judged_elsewhere_under_another_policy(scan: Command, vlaudit: Command, tmp_path: Path, capsys: Printed) -> None:
    out, other, policy = tmp_path / "audit", tmp_path / "deeper" / "other", tmp_path / "strict.toml"
    assert scan("--out", out) in (0, 1)
    planted = out / "artifacts" / "ab" / f"ab{'0' * 62}.txt"  # named by no trial
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text("planted")
    before = files(out)
    policy.write_text("[thresholds]\nmirror = 1e-9\n")
    judge = ("judge", out, "--plugin", tmp_path / "mirror.py", "--policy", policy)
    assert vlaudit(*judge, "--out", other) in (0, 1)
    assert f"Report: {other / 'report.html'}" in capsys.readouterr().out
    assert files(out) == before
    assert "Judged under another policy" in read_report(other).audit.notes[0] and not read_report(out).audit.notes
    assert files(other)["trials.jsonl"] == before["trials.jsonl"] and "report.html" in files(other)
    evidence = {one.path for finding in read_report(other).findings for one in finding.evidence}
    assert evidence and {name: files(other)[name] for name in evidence} == {name: before[name] for name in evidence}
    assert {name for name in files(other) if name.startswith("artifacts")} == evidence
    manifest = json.loads((other / "manifest.json").read_text())
    assert (other / manifest["folder"]).resolve() == (out / json.loads((out / "manifest.json").read_text())["folder"]).resolve()
    assert vlaudit("judge", other, "--plugin", tmp_path / "mirror.py") in (0, 1), "the copy is an audit like any"
    assert vlaudit(*judge, "--out", other) == 2 and "is there already" in capsys.readouterr().err
    assert vlaudit(*judge, "--out", out) == 2 and files(out) == before


def test_a_place_for_a_report_is_looked_at_before_the_scan(scan: Command, vlaudit: Command, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "audit"
    assert scan("--format", "json", "--output", tmp_path / "none" / "own.json", "--out", out) == 2
    assert "There is no folder" in capsys.readouterr().err and not out.exists()
    assert scan("--format", "json", "--output", "/dev/stdout", "--out", out) in (0, 1)
    assert json.loads(capsys.readouterr().out)["audit"]["complete"]


@pytest.mark.parametrize("command", ["report A --format=", "judge A --out=", "merge A --out=", "view", "diff A", "compare", "explain", "new probe", "selftest --probe="])
def test_a_variable_that_is_not_set_is_no_value(command: str, vlaudit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "A").mkdir()
    words = command.split()
    assert vlaudit(*words, *([] if words[-1].endswith("=") else [""])) == 2
    assert "is empty" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["A"]


def test_what_the_system_refuses_is_no_bug(vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: Printed) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("vlaudit.cli._check_unicode", refuse)
    for words, code in ((("list", "probes"), 2), (("scan", "zoo:tiny-clean"), 3)):
        assert vlaudit(*words) == code and "'/some/where' cannot be used (Permission denied)" in capsys.readouterr().err


def test_a_copy_is_not_put_into_the_audit_that_is_judged(scan: Command, vlaudit: Command, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "audit"
    assert scan("--out", out) in (0, 1)
    before = files(out)
    assert vlaudit("judge", out, "--plugin", tmp_path / "mirror.py", "--out", out / "below") == 2
    assert "stays as it is" in capsys.readouterr().err and files(out) == before and not (out / "below").exists()
