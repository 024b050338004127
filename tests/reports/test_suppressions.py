"""Accepted findings: shown everywhere, stopping nothing, for a year at most."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from vlaudit.errors import UsageError
from vlaudit.plugins import plugin
from vlaudit.records import Report
from vlaudit.reporting import exit_code, gating
from vlaudit.suppressions import read_suppressions, suppress

TODAY = date(2026, 6, 1)
ENTRY = {"probe": "x", "target": "t*", "reason": "why", "owner": "ada", "expires": TODAY + timedelta(days=30)}


def file(folder: Path, *entries: dict[str, object]) -> Path:
    lines = []
    for entry in entries:
        lines.append("[[ignore]]")
        lines += [f"{key} = {value if isinstance(value, date) else json.dumps(value)}" for key, value in entry.items()]
    path = folder / ".vlaudit-ignore.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def accept_all(folder: Path, report: Report, **changes: object) -> tuple[Report, list[str]]:
    entries = [ENTRY | {"probe": f.code, "target": "*"} | changes for f in gating(report)]
    return suppress(report, read_suppressions(file(folder, *entries), TODAY), TODAY)


def test_what_is_accepted_stops_nothing_and_is_still_vulnerable(report: Report, tmp_path: Path) -> None:
    assert exit_code(report) == 1
    accepted, warnings = accept_all(tmp_path, report)
    assert not gating(accepted) and exit_code(accepted) != 1 and warnings == []
    assert [f.verdict for f in accepted.findings] == [f.verdict for f in report.findings]


def test_an_expired_one_counts_again_and_an_unused_one_is_named(report: Report, tmp_path: Path) -> None:
    expired, warnings = accept_all(tmp_path, report, expires=TODAY - timedelta(days=1))
    assert expired == report and all("has expired" in warning for warning in warnings) and warnings
    unused = read_suppressions(file(tmp_path, ENTRY | {"probe": "no-such-probe"}), TODAY)
    assert "matches no finding" in suppress(report, unused, TODAY)[1][0]


@pytest.mark.parametrize("change, said", [
    ({"expires": TODAY + timedelta(days=400)}, "more than a year"), ({"owner": ""}, "owner"), ({"raison": "x"}, "raison"),
    ({"expires": "soon"}, "expires"),
])  # fmt: skip
def test_bad_entries_are_one_sentence(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_suppressions(file(tmp_path, ENTRY | change), TODAY)


@pytest.mark.parametrize(
    "text", ["[ignore]\nprobe = 'x'\n", "ignore = 3\n", "[[ignored]]\n", "not toml", "[[ignore]]\n"]
)
def test_bad_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_suppressions(path, TODAY)


@pytest.mark.parametrize("name", ["terminal", "html", "markdown", "junit"])
def test_every_report_shows_who_accepted_it_and_until_when(
    name: str,
    report: Report,
    audit_dir: Path,
    tmp_path: Path,
) -> None:
    accepted, _ = accept_all(tmp_path, report)
    text = plugin("reporters", name)().render(accepted, audit_dir).replace("\\", "")
    assert "ccepted by ada until 2026-07-01: why" in " ".join(text.split())


def test_code_scanning_does_not_see_what_is_accepted(report: Report, audit_dir: Path, tmp_path: Path) -> None:
    accepted, _ = accept_all(tmp_path, report)
    run = json.loads(plugin("reporters", "sarif")().render(accepted, audit_dir))["runs"][0]
    left = {result["ruleId"] for result in run["results"]}
    assert not left & {f.probe for f in gating(report)}
    assert any("Suppressed" in note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"])


def test_validate_finds_what_has_expired(
    vlaudit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vlaudit("validate") == 2
    known = ENTRY | {"probe": "typographic"}
    file(tmp_path, known | {"expires": date.today() + timedelta(days=3)})
    assert vlaudit("validate") == 0
    file(tmp_path, known | {"expires": date.today() - timedelta(days=3)})
    assert vlaudit("validate") == 2 and "has expired" in capsys.readouterr().out


def test_the_commit_hook_runs_validate_on_the_files_it_checks() -> None:
    (hook,) = yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "vlaudit validate" and hook["language"] == "system"
    assert all(re.search(hook["files"], name) for name in ("vlaudit.toml", ".vlaudit-ignore.toml", "a/vlaudit.toml"))
    assert not re.search(hook["files"], "pyproject.toml")
