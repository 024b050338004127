"""The terminal report and the progress display."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from vlaudit.records import Report, Severity
from vlaudit.reports.terminal import TerminalReporter
from vlaudit.reports.terminal.progress import LineProgress, LiveProgress, scan_progress


def console(*, terminal: bool, width: int = 100) -> Console:
    colors: Literal["standard"] | None = "standard" if terminal else None
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=colors)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_it_says_what_was_found_worst_first_and_counts_last(report: Report, audit_dir: Path) -> None:
    text = TerminalReporter().render(report, audit_dir)
    lines = text.splitlines()
    assert lines[-1] == "9 findings: 3 vulnerable, 1 inconclusive, 3 held, 2 not assessed."
    assert [line for line in lines if line.isupper()] == ["BACKDOOR", "ROBUSTNESS", "BIAS", "PRIVACY"]
    for expected in (
        "✗ vulnerable    prompt trigger inversion (MB1)  severity critical  zoo:prompt-backdoor",
        "accuracy lost at 1/255 41.4 % [32.9, 50.4], n = 128; threshold 10 %; reference 35.2 %",
        "– not assessed  prompt mia (MP1)",
        "needs a learned prompt",
        "a photo of a {}",
        "(exit code 1)",
    ):
        assert expected in text
    assert "\x1b" not in text and max(map(len, lines)) <= 100


def test_the_outcome_follows_the_gate(report: Report) -> None:
    target = console(terminal=False)
    gate = report.audit.model_copy(update={"fail_on": Severity.NONE, "strict": True})
    TerminalReporter().print(report.model_copy(update={"audit": gate}), target)
    assert "A pipeline with --fail-on none --strict stops here" in written(target)


def test_partial_audits_are_marked(report: Report, audit_dir: Path) -> None:
    audit = report.audit.model_copy(update={"complete": False, "errors": ["clip-autoattack: out of memory"]})
    text = TerminalReporter().render(report.model_copy(update={"audit": audit}), audit_dir)
    assert "This report is partial" in text and "did not finish: clip-autoattack: out of memory" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_inert(hostile_report: Report, terminal: bool) -> None:
    target = console(terminal=terminal, width=200)
    TerminalReporter().print(hostile_report, target)
    text = written(target)
    text.encode("utf-8")
    assert "[bold red]mark[/bold red]" in " ".join(text.split())  # markup is shown, not obeyed
    assert not any(c in text for c in "\x00\x07\x08\x9b\r\u202e") and "\x1b]" not in text
    assert ("\x1b" in text) == terminal  # colours are ours, and only where there is a terminal


def test_no_plugin_module_needs_rich_to_be_imported() -> None:
    import subprocess
    import sys

    code = "import sys, vlaudit.reports.terminal.progress, vlaudit.reports.html, vlaudit.reports.json; " \
           "sys.exit(bool({'rich', 'jinja2', 'torch', 'PIL', 'scipy'} & set(sys.modules)))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_to_do_is_shown_too() -> None:
    progress = scan_progress(console(terminal=True))
    progress.start(0)
    progress.moved(1.0, 0)
    progress.stop()


def test_a_log_gets_few_plain_lines(hostile: str) -> None:
    target = console(terminal=False)
    progress = scan_progress(target)
    assert isinstance(progress, LineProgress)
    progress.start(60.0)
    for index in range(1000):
        progress.unit_started(f"zoo:flagship / probe {index} / target{hostile}")
        progress.moved((index + 1) / 1000, 60 - 0.06 * (index + 1))
    progress.note("batch halved " + hostile)
    progress.stop()
    lines = written(target).splitlines()
    assert lines[0] == "scan: started, about 1 min 00 s left" and 10 <= len(lines) <= 14
    assert "100%" in lines[-3] and "\x1b" not in written(target)


def test_a_terminal_gets_a_bar_with_the_time_left(hostile: str) -> None:
    target = console(terminal=True, width=180)
    progress = scan_progress(target)
    assert isinstance(progress, LiveProgress)
    progress.start(40.0)
    progress.unit_started("zoo:flagship / typographic / target " + hostile)
    progress.moved(0.25, 30.0)
    progress.note("a smaller batch")
    progress.stop()
    progress.stop()
    text = written(target)
    assert "25%" in text and "about 30.0 s left" in text and "a smaller batch" in text
    assert "\x1b]" not in text and "\x9b" not in text
