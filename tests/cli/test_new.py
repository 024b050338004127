"""What `vlaudit new probe` and `vlaudit init` write works as it is; options may come from the environment."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]


def test_a_new_probe_passes_its_test_and_can_be_scanned_with(tmp_path: Path, vlaudit: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("new", "probe", "turned-picture", "--out", tmp_path) == 0
    test = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path / "test_turned_picture.py")]
    done = subprocess.run(test, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
    assert vlaudit("scan", "zoo:tiny-clean", "--plugin", tmp_path / "turned_picture.py", "--probe", "turned-picture", "--dry-run") == 0
    assert "turned-picture" in capfd.readouterr().out
    assert vlaudit("new", "probe", "turned-picture", "--out", tmp_path) == 2 and "is there already" in capfd.readouterr().err
    for name, said in (("Turned", "no id of a probe"), ("../x", "no id"), ("typographic", "a probe 'typographic' already")):
        assert vlaudit("new", "probe", name, "--out", tmp_path) == 2 and said in capfd.readouterr().err


def test_what_init_writes_is_valid_and_can_be_planned(tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert vlaudit("init") == 0 and vlaudit("validate") == 0
    assert vlaudit("scan", "--probe", "unsafe-file", "--dry-run") == 0


def test_options_come_from_the_environment(vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VLAUDIT_SCAN_EFFORT", "nothing")
    assert vlaudit("scan", "zoo:tiny-clean", "--dry-run") == 2 and "nothing" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["claim", "verdict", "probe", "none", "true", "sum"])
def test_a_new_probe_hides_nothing_that_it_uses(name: str, tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vlaudit("new", "probe", name, "--out", tmp_path) == 0
    monkeypatch.syspath_prepend(tmp_path)
    tests = runpy.run_path(str(tmp_path / f"test_{name}.py"))
    sys.modules.pop(name)
    tests["test_harm_is_found_and_innocence_is_not_accused"]()


@pytest.mark.parametrize("name", ["class", "json", "torch", "vlaudit"])
def test_a_new_probe_has_a_name_that_can_be_imported(name: str, tmp_path: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("new", "probe", name, "--out", tmp_path) == 2
    assert "Choose another name" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_new_probe_where_nothing_can_be_written(tmp_path: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "below", tmp_path / ("a" * 300)):
        assert vlaudit("new", "probe", "turned", "--out", folder) == 2
        assert "Cannot write" in capsys.readouterr().err


def test_a_variable_has_the_name_of_its_flag(vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("probe", "set", "format", "prompts", "plugin", "group"):
        with monkeypatch.context() as patch:
            patch.setenv(f"VLAUDIT_SCAN_{name.upper()}", "/nothing/like/this")
            assert vlaudit("scan", "zoo:tiny-clean", "--dry-run") == 2, name
            assert ("--prompts" if name == "prompts" else "/nothing/like/this") in capsys.readouterr().err


def test_a_variable_of_a_flag_that_repeats_has_a_value_a_line(
    vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLAUDIT_SCAN_PROMPT", "a photo of a {}\na drawing of a {}")
    assert vlaudit("scan", "zoo:tiny-clean", "--dry-run", "--probe", "unsafe-file") == 0
    shown = capsys.readouterr().out
    assert "tiny-clean~a-photo-of-a" in shown and "tiny-clean~a-drawing-of-a" in shown
