"""What lies in the current folder may belong to what is audited: it tightens the gate and never relaxes it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from vlaudit.policy import Policy
from vlaudit.registry import ProbeRegistry

TARGET = '[[target]]\nmodel = "hf:model"\ndata = "data"\n'
SCAN = '[scan]\nprobe = ["unsafe-file"]\n'
IGNORE = f"""[[ignore]]
probe = "SC1"
target = "*"
reason = "fine"
owner = "mallory"
expires = {date.today() + timedelta(days=30)}
"""


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


@pytest.fixture
def repository(tiny_clip: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model that holds a pickle that runs code."""
    home = tmp_path / "repository"
    shutil.copytree(tiny_clip, home / "model")
    shutil.copytree(picture_folder / "test", home / "data")
    (home / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    (home / "model" / "model.safetensors").unlink()
    (home / "vlaudit.toml").write_text(TARGET + SCAN)
    monkeypatch.chdir(home)
    return home


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def test_a_found_ignore_file_accepts_nothing_and_a_named_one_says_which_it_is(
    repository: Path, vlaudit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / ".vlaudit-ignore.toml").write_text(IGNORE)
    assert vlaudit("scan", "--out", tmp_path / "found", "--fail-on", "high") in (1, 4)
    assert "--ignore-file .vlaudit-ignore.toml" in capsys.readouterr().err
    found = report(tmp_path / "found")
    assert found["findings"][0]["suppressed"] is None and found["findings"][0]["verdict"] == "vulnerable"
    assert ".vlaudit-ignore.toml" in " ".join(found["audit"]["notes"])
    vlaudit("scan", "--out", tmp_path / "named", "--ignore-file", ".vlaudit-ignore.toml")
    assert "as .vlaudit-ignore.toml says" in " ".join(capsys.readouterr().out.split())
    assert report(tmp_path / "named")["findings"][0]["suppressed"]["file"] == ".vlaudit-ignore.toml"


@pytest.mark.parametrize(
    "entry",
    [
        "severity = {unsafe-file = 'low'}", "severity = {bias = 'none'}", "fail_on = 'none'", "fail_on = 'critical'",
        "gate = 'holm'", "level = 0.999999", "level = 0.51", "alpha = 1e-9", "thresholds = {typographic = 1.0}",
        "thresholds = {typographic = -1.0}", "thresholds = {mirror = 0.9}",
    ],
)  # fmt: skip
def test_a_found_policy_that_relaxes_is_refused(
    repository: Path, mirror_plugin: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    (repository / "vlaudit.toml").write_text(f"{TARGET}{SCAN}[policy]\n{entry}\n")
    flags = ("--plugin", mirror_plugin, "--fail-on", "high", "--dry-run")
    assert vlaudit("scan", *flags) == 2
    said = capsys.readouterr().err
    assert entry.split(" ")[0] in said and "--config vlaudit.toml" in said
    vlaudit("scan", *flags, "--config", "vlaudit.toml")
    assert "may belong" not in capsys.readouterr().err


def test_what_tightens_is_no_relaxation() -> None:
    infos = [probe.info for probe in ProbeRegistry.load().classes.values()]
    strict = {
        "severity": dict.fromkeys(("bias", "privacy", "robustness"), "critical"), "fail_on": "low", "strict": True,
        "alpha": 0.1, "thresholds": {"typographic": 0.05},
    }  # fmt: skip
    assert Policy.model_validate(strict).relaxations(infos) == [] == Policy().relaxations(infos)


def test_a_found_config_tightens(repository: Path, vlaudit: Callable[..., int], tmp_path: Path) -> None:
    (repository / "vlaudit.toml").write_text(f"{TARGET}{SCAN}[policy]\nfail_on = 'low'\nstrict = true\n")
    vlaudit("scan", "--out", tmp_path / "out")
    audit = report(tmp_path / "out")["audit"]
    assert audit["fail_on"] == "low" and audit["strict"]


def test_what_a_found_config_leaves_out_is_said_and_reported(
    tiny_clip: Path, repository: Path, mirror_plugin: Path, vlaudit: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copy(tiny_clip / "model.safetensors", repository / "model")
    config = f'{TARGET}[scan]\nskip = ["unsafe-file"]\n[probes.clip-autoattack]\npictures = 1\n'
    (repository / "vlaudit.toml").write_text(config)
    flags = ("--plugin", mirror_plugin, "--probe", "mirror", "--probe", "unsafe-file")
    assert vlaudit("scan", *flags, "--out", tmp_path / "out", "--format", "html,markdown") in (0, 1)
    assert "leaves out 1 of 2 probes: unsafe-file" in " ".join(capsys.readouterr().err.split())
    assert "unsafe-file" in report(tmp_path / "out")["audit"]["notes"][0]
    for name in ("report.html", "report.md"):
        assert "leaves out 1 of 2 probes" in (tmp_path / "out" / name).read_text()
    vlaudit("scan", *flags, "--probe", "clip-autoattack", "--dry-run")
    assert "parameters of clip-autoattack: pictures = 1" in " ".join(capsys.readouterr().err.split())
    vlaudit("scan", *flags, "--config", "vlaudit.toml", "--dry-run")
    assert "leaves out" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "loop"])
def test_what_is_no_file_is_no_config(
    repository: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = repository / "vlaudit.toml"
    path.unlink()
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to nothing": lambda: path.symlink_to("nowhere"),
        "loop": lambda: path.symlink_to("vlaudit.toml"),
    }[kind]()
    assert vlaudit("scan", "--dry-run") == 2, "the bundled default is not audited in its place"
    assert "vlaudit.toml" in capsys.readouterr().err
    assert vlaudit("validate") == 2


def test_init_writes_through_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlaudit: Callable[..., int]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vlaudit.toml").symlink_to("precious")
    assert vlaudit("init") == 2 and vlaudit("init", "--force") == 0
    assert not Path("precious").exists() and not Path("vlaudit.toml").is_symlink()
