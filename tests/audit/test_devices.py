"""A worker for each of several devices: which ones, which units go to which, and the findings of one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import pytest
import torch

from tests.audit.reported import findings, same
from tests.audit.test_shards import STAGED, plan_of
from tests.conftest import save_tiny_clip
from vlaudit.audit import plan as planning
from vlaudit.audit.devices import VISIBLE, _alone, _environment
from vlaudit.audit.executor import Site
from vlaudit.audit.plan import OWN, side_by_side
from vlaudit.audit.station import Waiting
from vlaudit.device import pick_device, pick_devices
from vlaudit.errors import UsageError
from vlaudit.records import Needs

Command = Callable[..., int]


def test_devices_are_those_that_are_named_or_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(map(str, pick_devices("cpu,cpu"))) == ["cpu", "cpu"] and str(pick_device("cpu,cpu")) == "cpu"
    for bad in ("cpu,", "cuda:0,cuda:all", "banana", "cpu,auto"):
        with pytest.raises(UsageError, match="is not a device"):
            pick_devices(bad)
    with pytest.raises(UsageError, match="not available here"):
        pick_devices("cuda:0,cuda:9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list(map(str, pick_devices("auto"))) == ["cuda:0", "cuda:1", "cuda:2"]
    assert list(map(str, pick_devices("cuda:2,cuda:0"))) == ["cuda:2", "cuda:0"]
    assert list(map(str, pick_devices("cuda"))) == ["cuda"], "one is one"
    with pytest.raises(UsageError, match="different kinds"):
        pick_devices("cuda:0,cpu")


def test_a_worker_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert _alone("cuda:1") == ("cuda", {VISIBLE: "1"}) and _alone("cuda") == ("cuda", {VISIBLE: "0"}) and _alone("cpu") == ("cpu", {})
    with _environment({VISIBLE: "1"}):
        assert os.environ[VISIBLE] == "1"
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "5,GPU-7")
    assert _alone("cuda:1") == ("cuda", {VISIBLE: "GPU-7"}), "of those that this process was given"
    with _environment({VISIBLE: "5"}):
        pass
    assert os.environ[VISIBLE] == "5,GPU-7"


def test_units_go_to_who_holds_their_model_and_models_to_who_has_none() -> None:
    manifest = plan_of({"a": [[9.0] * 4], "b": [[1.0] * 4]})
    waiting = Waiting(Site(manifest.model_dump_json()))
    for item in manifest.planned:
        for unit in item.units:
            waiting.add(unit)
    assert waiting.take("", [])[0] == "hf:a", "there is more work on it"
    assert waiting.take("", ["hf:a", "hf:a", "hf:a", "hf:a", "hf:a"])[0] == "hf:b", "five hold the other one"
    assert waiting.take("hf:b", [])[0] == "hf:b", "it is loaded there"
    assert [waiting.take("hf:b", [])[0] for _ in range(5)] == ["hf:b", "hf:b", "hf:a", "hf:a", "hf:a"] and not waiting


def test_processes_are_as_many_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))

    def subject(kind: str = "cpu", loaded: bool = True) -> Any:
        target = SimpleNamespace(device=torch.device(kind), capabilities={Needs.FILES}, loaded=loaded)
        return SimpleNamespace(target=target, spec=SimpleNamespace(model="m"), files=[tmp_path / "weights"])

    def count(*subjects: Any, room: int, takes: int = 10**9) -> int:
        monkeypatch.setattr(planning.memory, "room", lambda: room)
        plan: Any = SimpleNamespace(targets=list(subjects), references={}, takes={"m": takes})
        return side_by_side(plan)

    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    monkeypatch.setattr(planning.sys, "platform", "linux")
    assert count(subject(), room=10**12) == 6
    assert count(subject(), room=4 * (OWN + 10**9)) == 4 and count(subject(), room=0) == 1
    assert count(subject(loaded=False), room=4 * (OWN + 10**9)) == 3, "each loads it again"
    assert count(subject(), subject("cuda"), room=10**12) == 1


def test_two_devices_give_the_findings_of_one(
    picture_folder: Path, mirror_plugin: Path, tmp_path: Path, vlaudit: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "staged.py").write_text(STAGED)
    words = ["scan", *(f"hf:{save_tiny_clip(tmp_path / name, seed)}" for seed, name in enumerate(("a", "b"), 1) if not (tmp_path / name).mkdir()),
             "--prompt", "the {}", "--data", picture_folder, "--plugin", mirror_plugin, "--plugin", tmp_path / "staged.py", "--probe", "mirror", "--probe", "staged"]  # fmt: skip
    assert vlaudit(*words, "--device", "cpu,cpu", "--executor", "local", "--out", tmp_path / "none") == 2
    assert "has a worker for each" in capsys.readouterr().err
    assert vlaudit(*words, "--device", "cpu,cpu", "--out", tmp_path / "two") in (0, 1)
    assert vlaudit(*words, "--executor", "local", "--out", tmp_path / "one") in (0, 1)
    assert same(tmp_path / "one", tmp_path / "two")
    shown = [evidence["path"] for finding in findings(tmp_path / "two") for evidence in finding["evidence"]]
    assert shown and all((tmp_path / "two" / path).is_file() for path in shown)
