"""--dtype from the command line to the report, and what of it is part of an audit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.config import Request, TargetSpec

Command = Callable[..., int]


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, mirror_plugin: Path) -> list[str]:
    return ["scan", f"hf:{tiny_clip}", "--data", str(picture_folder), "--plugin", str(mirror_plugin), "--probe", "mirror"]


def test_the_precision_is_asked_for_recorded_and_reproduced(
    scan: list[str], mirror_plugin: Path, tmp_path: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert vlaudit(*scan, "--dtype", "bf16", "--verbose", "--out", out) in (0, 1)
    report = json.loads((out / "report.json").read_text())
    model = report["targets"][0]["model"]
    assert model["dtype"] == "bfloat16" and model["revision"] is None
    assert "differ from those in float32" in model["notes"][0]
    assert "--dtype bf16" in report["findings"][0]["reproduce"]
    assert "gradients point the same way" in (out / "report.html").read_text()
    assert "bfloat16" in capsys.readouterr().out
    assert vlaudit(*scan, "--out", out) == 2  # another audit
    assert "holds a different audit" in capsys.readouterr().err
    assert vlaudit("replay", out, "mirror", "--plugin", mirror_plugin, "--out", tmp_path / "again") == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["targets"][0]["model"]["dtype"] == "bfloat16"


def test_a_config_that_was_found_says_its_precision(
    scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vlaudit.toml").write_text('[scan]\ndtype = "fp16"\n')
    assert vlaudit(*scan, "--out", tmp_path / "out") in (0, 1)
    assert "found here sets the precision fp16" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["targets"][0]["model"]["dtype"] == "float16"


@pytest.mark.parametrize("flag", [["--dtype", "int8"], ["--device", "cuda:any"]])
def test_what_is_not_there_is_a_usage_error(scan: list[str], flag: list[str], vlaudit: Command, tmp_path: Path) -> None:
    assert vlaudit(*scan, *flag, "--out", tmp_path / "out") == 2


def test_audits_of_earlier_versions_keep_their_identity() -> None:
    request = Request(targets=[TargetSpec(model="hf:x")], probes=["mirror"])
    earlier = {key: value for key, value in request.model_dump(mode="json").items() if key not in ("dtype", "budget", "policy", "cover")}
    text = json.dumps(earlier, separators=(",", ":"))
    assert request.digest() == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert request.model_copy(update={"dtype": "fp32"}).digest() != request.digest()


@pytest.mark.parametrize("number", ["999999999999999999999", "300", "\u0663"])
def test_a_gpu_that_no_machine_has_is_no_device(number: str, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("scan", "zoo:tiny-clean", "--device", f"cuda:{number}", "--dry-run") == 2
    assert "is not a device" in capsys.readouterr().err
