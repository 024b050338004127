"""Memory that runs out while a model is loaded, checked or timed is one sentence with the cure and exit code 4, never a bug."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlaudit.backends.transformers_matching import TransformersModel

Command = Callable[..., int]


def runs_out(*_: Any, **__: Any) -> Any:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def gradients_run_out(own: Callable[..., Any]) -> Callable[..., Any]:
    def encode(self: Any, images: torch.Tensor) -> Any:
        return runs_out() if images.requires_grad else own(self, images)

    return encode


@pytest.mark.parametrize("when", ["loaded", "checked", "timed", "planned"])
def test_of_a_matcher(
    when: str, tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if when == "loaded":
        from transformers import AutoModel

        monkeypatch.setattr(AutoModel, "from_pretrained", runs_out)
    elif when == "checked":
        monkeypatch.setattr(TransformersModel, "_encode_images", runs_out)
    elif when == "planned":
        monkeypatch.setattr("vlaudit.audit.plan.make_plan", runs_out)
    else:
        monkeypatch.setattr(TransformersModel, "_encode_images", gradients_run_out(TransformersModel._encode_images))
    code = vlaudit("scan", f"hf:{tiny_clip}", "--data", picture_folder, "--probe", "clip-autoattack", "--out", tmp_path / "out", "--dry-run")
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert code == 4, text
    assert "out of memory" in text or "emory ran out" in text
    assert "--dtype" in text and "bug" not in text and "Traceback" not in text


def test_what_a_generator_can_do_is_not_doubted_because_memory_ran_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import generators
    from vlaudit.backends.huggingface import HuggingFaceBackend
    from vlaudit.backends.transformers_generation import TransformersGenerator
    from vlaudit.errors import OutOfMemory

    folder = generators.save("llava", tmp_path)
    monkeypatch.setattr(TransformersGenerator, "_log_probs", runs_out)
    with pytest.raises(OutOfMemory, match="--dtype"):
        HuggingFaceBackend().load(str(folder), torch.device("cpu"))
