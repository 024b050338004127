"""What a scan plans for a target depends on the target's family."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.cli import new_folder

Command = Callable[..., int]


def planned(text: str) -> set[str]:
    return {line.split()[0] for line in text.splitlines() if re.match(r"[a-z0-9-]+ +[\d,]+ +\d ", line)}


def test_only_the_probes_of_its_family_are_planned(
    vlaudit: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert vlaudit("scan", "zoo:t2i-clean", "--dry-run", "--skip", "risk:privacy") == 0
    probes = planned(capsys.readouterr().out)
    assert {"encoder-trigger-scan", "query-free-suffix", "unsafe-file"} <= probes
    assert not probes & {"clip-autoattack", "prompt-trigger-inversion", "rank-skew"}


def test_a_group_of_probes_is_narrowed_to_the_family_and_a_name_is_not(
    vlaudit: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert vlaudit("scan", "zoo:tiny-clean", "--dry-run", "--probe", "risk:privacy", "--probe", "GP3") == 0
    shown = capsys.readouterr().out
    assert "not assessed: prompt-mia" in shown, "of its family, though it lacks members"
    assert "not assessed: context-leak" in shown, "asked for by name"
    assert "vlm-mia" not in shown and "extraction" not in shown, "of the group, for others"
    assert vlaudit("scan", "zoo:tiny-clean", "--dry-run", "--probe", "family:text-to-image", "--skip", "SC1", "--skip", "XR2", "--skip", "XF1") == 0
    assert "not assessed: extraction" in capsys.readouterr().out, "a group with nothing for the target says why"


def test_a_probe_asked_for_by_name_says_why_it_cannot_run(vlaudit: Command, tmp_path: Path) -> None:
    assert vlaudit("scan", "zoo:t2i-clean", "--probe", "MR1", "--out", tmp_path / "out") == 3, "nothing was assessed"
    (finding,) = json.loads((tmp_path / "out" / "report.json").read_text())["findings"]
    assert finding["verdict"] == "not-assessed" and "image-text-matching" in finding["reason"]


def test_captions_and_scorers_are_for_pipelines_that_draw(
    vlaudit: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a cook\na judge\n")
    assert vlaudit("scan", "zoo:tiny-clean", "--prompts", captions) == 2
    assert "text-to-image" in capsys.readouterr().err
    assert vlaudit("scan", "zoo:tiny-clean", "--scorer", "zoo:clean") == 2
    assert "text-to-image" in capsys.readouterr().err
    out = tmp_path / "out"
    assert vlaudit("scan", "zoo:t2i-clean", "--prompts", captions, "--probe", "unsafe-file", "--out", out) == 0
    (target,) = json.loads((out / "report.json").read_text())["targets"]
    assert target["data"]["examples"] > 0


def test_two_runs_within_a_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        new_folder("-again").mkdir(parents=True)  # fails where the folder is there
    assert len(list((tmp_path / "vlaudit-out").glob("*-again*"))) == 3
