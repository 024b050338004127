"""The composite action's shell, run here with a stand-in for vlaudit: words reach it whole, and its exit code comes out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ACTION = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
STEPS = {step.get("name"): step for step in ACTION["runs"]["steps"]}
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$RECORD"
mkdir -p audit && echo "summary" > audit/report.md
exit "$CODE_TO_GIVE"
"""


def run(folder: Path, code: int = 0, **env: str) -> tuple[list[str], dict[str, str], str]:
    """The words that vlaudit gets, the step's outputs, and the summary."""
    stand_in = folder / "bin" / "vlaudit"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    given: dict[str, Any] = {
        "TARGETS": "",
        "CONFIG": "vlaudit.toml",
        "IGNORE_FILE": ".vlaudit-ignore.toml",
        "FAIL_ON": "high",
        "BASELINE": "",
        "ARGS": "",
        "OUT": "audit",
    } | env
    given |= {
        "RECORD": str(folder / "words"),
        "CODE_TO_GIVE": str(code),
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
    }
    given |= {name: str(folder / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS["Scan"]["run"]]
    subprocess.run(command, cwd=folder, env=given, check=True)
    outputs = dict(line.split("=", 1) for line in (folder / "GITHUB_OUTPUT").read_text().splitlines())
    return (folder / "words").read_text().splitlines(), outputs, (folder / "GITHUB_STEP_SUMMARY").read_text()


def test_words_arrive_whole_and_as_data(tmp_path: Path) -> None:
    words, _, _ = run(
        tmp_path, TARGETS="zoo:clean hf:models/x", ARGS='--prompt "a photo of a {}" --prompt "$(touch owned)"'
    )
    assert words[:3] == ["scan", "zoo:clean", "hf:models/x"]
    assert words[-4:] == ["--prompt", "a photo of a {}", "--prompt", "$(touch owned)"]
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_the_exit_code_is_kept_until_everything_is_uploaded(tmp_path: Path, code: int) -> None:
    _, outputs, summary = run(tmp_path, code)
    assert outputs == {"exit-code": str(code), "report": "audit/report.html"} and summary == "summary\n"
    last = subprocess.run(
        ["bash", "-c", STEPS["Stop at what was found"]["run"]], env={"CODE": outputs["exit-code"]}, check=False
    )
    assert last.returncode == code


def test_a_scan_that_never_ran_is_no_pass() -> None:
    assert (
        subprocess.run(["bash", "-c", STEPS["Stop at what was found"]["run"]], env={"CODE": ""}, check=False).returncode
        == 3
    )
    assert all(
        "always()" in STEPS[name]["if"] for name in ("Keep the audit", "Code scanning", "Stop at what was found")
    )


def test_the_config_and_the_baseline_are_used_where_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "vlaudit.toml").write_text("")
    words, _, _ = run(tmp_path, BASELINE="old", FAIL_ON="new")
    assert words[1:3] == ["--config", "vlaudit.toml"]
    assert words[words.index("--baseline") + 1] == "old" and words[words.index("--fail-on") + 1] == "new"


def test_what_relaxes_the_gate_is_named_where_it_is_there(tmp_path: Path) -> None:
    for name in ("vlaudit.toml", ".vlaudit-ignore.toml"):
        (tmp_path / name).write_text("")
    words, _, _ = run(tmp_path, TARGETS="zoo:clean")
    assert words[:6] == ["scan", "zoo:clean", "--config", "vlaudit.toml", "--ignore-file", ".vlaudit-ignore.toml"]


def test_a_repository_that_is_itself_audited_names_nothing(tmp_path: Path) -> None:
    for name in ("vlaudit.toml", ".vlaudit-ignore.toml"):
        (tmp_path / name).write_text("")
    words, _, _ = run(tmp_path, CONFIG="", IGNORE_FILE="")
    assert not {"--config", "--ignore-file"} & set(words)


def test_a_misspelt_file_is_left_to_vlaudit_to_complain_of(tmp_path: Path) -> None:
    words, _, _ = run(tmp_path, CONFIG="ci/vlaudi.toml", IGNORE_FILE="ci/ignore.tom")
    assert words[1:5] == ["--config", "ci/vlaudi.toml", "--ignore-file", "ci/ignore.tom"]


def test_no_input_is_pasted_into_a_shell() -> None:
    assert all("${{" not in step.get("run", "") for step in ACTION["runs"]["steps"])
