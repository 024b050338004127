"""A shell completes commands, flags and names, in its own protocol, and no model is imported for it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_light import BLOCKED
from vlaudit.plugins import plugins

BLOCK = f"import sys; sys.modules |= dict.fromkeys({BLOCKED!r})"
LAUNCH = [sys.executable, "-c", f"{BLOCK}\nfrom vlaudit.cli import main; main()"]
BREAKS = ":="  # of the characters at which bash breaks a line into words, those that our names hold


def asked(shell: str, words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *words], env=os.environ | {"_VLAUDIT_COMPLETE": shell} | env, capture_output=True, text=True, check=False
    )


def bash_words(line: str) -> list[str]:
    """What ``COMP_WORDS`` would hold at the end of ``line``."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars=BREAKS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    return [*lexer, *[""] * line.endswith(" ")]


def bash(line: str) -> list[str]:
    words = bash_words(line)
    done = asked("bash_complete", [], {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)})
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [item.partition(",")[2] for item in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("vlaudit sc", ["scan", "schema"]),
        ("vlaudit scan --effort s", ["standard"]),
        ("vlaudit scan --probe typ", ["typographic"]),
        ("vlaudit scan --probe=typ", ["typographic"]),
        ("vlaudit scan --probe risk:ba", ["backdoor"]),  # bash has the part before the colon already
        ("vlaudit scan --skip family:image", ["image-text-matching"]),
        ("vlaudit scan zoo:word", ["word-shortcut"]),
        ("vlaudit scan --seed 1 open", ["open_clip:", "openai:"]),
        ("vlaudit scan --set typo", ["typographic."]),
        ("vlaudit scan --format html,sa", ["html,sarif"]),
        ("vlaudit report --format ju", ["junit"]),
        ("vlaudit explain word", ["word-shortcut"]),
        ("vlaudit list pro", ["probes", "prompts"]),
        ("vlaudit zoo build word", ["word-shortcut"]),
    ],
)
def test_bash_is_told_what_may_follow(line: str, expected: list[str]) -> None:
    assert bash(line) == expected


@pytest.mark.parametrize("line", ["vlaudit scam ", "vlaudit scan --max-time ", "vlaudit scan --seed x --budget= ", 'vlaudit scan "" '])
def test_a_mistake_is_no_error_before_the_command_is_given(line: str) -> None:
    bash(line)


def test_what_was_named_before_does_not_come_again() -> None:
    assert set(bash("vlaudit scan --format html,")) == {f"html,{name}" for name in plugins("reporters")} - {"html,html"}


def test_zsh_is_told_whole_names() -> None:
    done = asked("zsh_complete", [], {"COMP_WORDS": "vlaudit scan zoo:word", "COMP_CWORD": "2"})
    assert done.stdout.splitlines() == ["plain", "zoo:word-shortcut", "_"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_function_that_bash_is_given_completes(tmp_path: Path) -> None:
    """As ``eval "$(_VLAUDIT_COMPLETE=bash_source vlaudit)"`` leaves it."""
    source = asked("bash_source", [], {})
    assert source.returncode == 0 and not source.stderr
    command = tmp_path / "vlaudit"
    command.write_text(f"#!/bin/sh\nexec {shlex.join(LAUNCH)}\n")
    command.chmod(0o755)
    script = f"{source.stdout}\nCOMP_WORDS=(vlaudit scan zoo : word) COMP_CWORD=4\n_vlaudit_completion {command}\necho \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "word-shortcut\n", done.stderr
