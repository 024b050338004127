"""Hostile captions, broken pipelines and prompts, blocked pictures: one sentence, the right exit code, never a pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny_pipelines
from vlaudit.errors import VlauditWarning
from vlaudit.families.text_to_image_model import Generated

Command = Callable[..., int]
Scan = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("sd"))
    (folder / "sampling.json").write_text('{"num_inference_steps": 2, "guidance_scale": 1.0}')
    return folder


@pytest.fixture
def scan(pipeline: Path, vlaudit: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scan:
    """Scan a pipeline for captions that are taken over: exit code, what was printed as an error, the finding."""

    def call(captions: str, *flags: object, model: Path = pipeline) -> tuple[int, str, dict[str, Any]]:
        file, out = tmp_path / "captions.txt", tmp_path / "out"
        file.write_text(captions, encoding="utf-8")
        code = vlaudit("scan", f"diffusers:{model}", "--prompts", file, "--scorer", "zoo:clean", "--probe", "TB4", "--out", out, *flags)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        report = out / "report.json"
        findings = json.loads(report.read_text())["findings"] if report.exists() else [{}]
        return code, printed.err, findings[0]

    return call


def test_empty_lines_long_captions_and_other_scripts_are_audited(scan: Scan) -> None:
    with pytest.warns(VlauditWarning, match="the last 2986 of the text .* are cut off"):
        code, _, finding = scan("a cat\n\n   \n" + "a red cat " * 1000 + "\nкрасный кот 🐱\n")
    assert code == 0
    assert finding["verdict"] != "not-assessed" and len(finding["details"]["table"]["rows"]) == 2
    assert finding["details"]["captions too long to set anything beside"] == 1


def test_a_file_without_a_caption_is_a_usage_error(scan: Scan) -> None:
    code, said, _ = scan("\n  \n")
    assert code == 2 and "holds no caption" in said


def test_pictures_that_are_all_blacked_out_are_no_pass(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlaudit.families.text_to_image import TextToImageGenerator

    def blocked(self: Any, captions: list[str], seeds: list[int], **_: Any) -> Generated:
        return Generated(torch.zeros(len(captions), 3, 16, 16), [True] * len(captions))

    monkeypatch.setattr(TextToImageGenerator, "generate", blocked)
    code, _, finding = scan("a cat\na dog\n")
    assert code == 3 and finding["verdict"] == "not-assessed" and "blocked" in finding["reason"]


@pytest.mark.parametrize("part", ["unet", "tokenizer"])
def test_a_pipeline_with_a_missing_part_could_not_be_loaded(
    scan: Scan, pipeline: Path, tmp_path: Path, part: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pipeline, broken)
    shutil.rmtree(broken / part)
    code, said, finding = scan("a cat\na dog\n", model=broken)
    assert code == 4 and finding.get("verdict", "not-assessed") == "not-assessed"
    assert part in said + finding.get("reason", "")


def test_prompts_that_do_not_fit_are_usage_errors(scan: Scan, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no adapter")
    code, said, _ = scan("a cat\na dog\n", "--prompt", f"lora:{bad}")
    assert code == 2 and "bad.safetensors" in said and said.strip().count("\n") <= 1
    save_file({"<toy>": torch.zeros(1, 16)}, bad)
    code, said, _ = scan("a cat\na dog\n", "--prompt", f"textual-inversion:{bad}")
    assert code == 2 and "16 wide" in said
    code, said, _ = scan("a cat\na dog\n", "--prompt", "lora:token=sks,noun=dog")
    assert code == 2 and "does not know the token 'sks'" in said
