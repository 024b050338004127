"""The probes of text-to-image robustness together on a small pipeline."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from tests.tiny_pipelines import stable_diffusion


def test_all_three_run_on_a_random_pipeline_and_find_its_pictures_empty(
    tmp_path: Path, vlaudit: Callable[..., int]
) -> None:
    stable_diffusion(tmp_path / "pipe")
    (tmp_path / "pipe" / "sampling.json").write_text(json.dumps({"num_inference_steps": 2}))
    captions = [" ".join(words) for words in itertools.product(("a", "the"), ("red", "big"), ("cat", "dog", "bird"))]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    vlaudit("scan", f"diffusers:{tmp_path / 'pipe'}", "--prompts", tmp_path / "captions.txt", "--scorer", "zoo:clean",
            "--probe", "TR1", "--probe", "TR2", "--probe", "TR3", "--out", tmp_path / "out")  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    verdicts = {finding["code"]: finding["verdict"] for finding in report["findings"]}
    assert set(verdicts) == {"TR1", "TR2", "TR3"}
    assert report["audit"]["complete"]
    assert report["audit"]["errors"] == []
    assert not {"vulnerable", "held"} & set(verdicts.values())


def test_what_pictures_show_is_not_asked_of_a_scorer_that_nobody_named(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    stable_diffusion(tmp_path / "pipe")
    (tmp_path / "captions.txt").write_text("a cat\na doctor\na judge\n")
    code = vlaudit("scan", f"diffusers:{tmp_path / 'pipe'}", "--prompts", tmp_path / "captions.txt", "--probe", "TF1", "--probe", "TF4",
                   "--probe", "TB4", "--out", tmp_path / "out")  # fmt: skip
    findings = json.loads((tmp_path / "out" / "report.json").read_text())["findings"]
    assert code == 3 and {finding["verdict"] for finding in findings} == {"not-assessed"}
    assert all("no scorer is named" in finding["reason"] and "--scorer TARGET" in finding["reason"] for finding in findings)
