"""unsafe-file: a row for each file, and one odd file never hides another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.inspection.corpus import Call, torch_zip
from vlaudit.attacks.supply_chain.unsafe_file import UnsafeFile, look_into, names_of, readable
from vlaudit.errors import ModelError
from vlaudit.files import file_sha256, fingerprint, folder_files
from vlaudit.inspection.folder import inspect_transformers
from vlaudit.policy import Policy
from vlaudit.records import Judgement, Trial, Trials, Verdict

torch.set_num_threads(1)
EVIL = torch_zip({"w": Call("posix.system", "touch nowhere")})


def judged(*rows: dict[str, Any]) -> Judgement:
    trials = [Trial(case=str(number), arm="target", values=row) for number, row in enumerate(rows)]
    return UnsafeFile().judge(Trials(trials), Policy())


def row(file: str, problem: str = "", unknown: str = "") -> dict[str, Any]:
    return {"file": file, "kind": "x", "problem": problem, "unknown": unknown}


def test_held_counts_only_what_was_understood() -> None:
    assert judged(row("a"), row("b")).verdict is Verdict.HELD
    doubtful = judged(row("a"), row("b", unknown="a 7z archive"))
    assert doubtful.verdict is Verdict.NOT_ASSESSED and "b (a 7z archive)" in doubtful.reason
    assert doubtful.metric and doubtful.metric.n == 1
    evil = judged(row("a", unknown="x"), row("b", "runs"), row("c", "runs too", unknown="y"))
    assert evil.verdict is Verdict.VULNERABLE and evil.reason == "'b': runs (and 1 more)"
    assert evil.metric and (evil.metric.value, evil.metric.n) == (2, 2)
    assert evil.details["table"].rows == [["b", "x", "runs"], ["c", "x", "runs too"], ["a", "x", "not looked into: x"]]


def test_trials_of_earlier_versions_are_judged() -> None:
    assert judged({"file": "a", "kind": "unreadable", "problem": ""}).verdict is Verdict.NOT_ASSESSED


def test_all_that_lies_in_a_folder_is_listed(tmp_path: Path) -> None:
    for name in ("a.txt", ".hidden/b.bin", "sub/sub/c.bin", ".git/HEAD", ".git/objects/ab/" + "c" * 38, ".git/objects/evil.bin", ".git/hooks/post-merge"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    names = [path.relative_to(tmp_path).as_posix() for path in folder_files(tmp_path)]
    assert names == [".git/hooks/post-merge", ".git/objects/evil.bin", ".hidden/b.bin", "a.txt", "pipe", "sub/sub/c.bin", "up"]
    assert names_of([*folder_files(tmp_path), Path("/elsewhere/x.pt")])[5:] == ["sub/sub/c.bin", "up", "x.pt"]


def test_too_many_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.files.MOST_FILES", 20)
    for number in range(21):
        (tmp_path / str(number)).touch()
    with pytest.raises(ModelError, match="more than"):
        folder_files(tmp_path)


def test_subfolders_do_not_change_which_file_is_the_model(tmp_path: Path) -> None:
    for number, folder in enumerate((tmp_path, tmp_path / "checkpoint-1")):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text('{"model_type": "clip"}')
        save_file({"a": torch.full((2,), float(number))}, folder / "model.safetensors")
    assert inspect_transformers(tmp_path).weights == [tmp_path / "model.safetensors"]
    assert fingerprint(inspect_transformers(tmp_path).weights) == file_sha256(tmp_path / "model.safetensors")


def test_links_out_of_the_folder_are_named_and_not_followed(tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "models--a--b"
    (cache / "snapshots" / "1").mkdir(parents=True)
    (cache / "blobs").mkdir()
    model.mkdir()
    for path in (tmp_path / "outside.bin", model / "inside.bin", cache / "blobs" / "f00"):
        path.write_bytes(EVIL)
    (model / "out.bin").symlink_to("../outside.bin")
    (model / "in.bin").symlink_to("inside.bin")
    (cache / "snapshots" / "1" / "model.bin").symlink_to("../../blobs/f00")
    known = {os.path.realpath(model / "inside.bin")}
    assert look_into(model / "out.bin", known) == ("link", "", "a link out of the folder, which is not followed")
    assert "posix.system" in look_into(model / "in.bin", known)[1]
    assert "posix.system" in look_into(cache / "snapshots" / "1" / "model.bin", known)[1]


def test_names_of_any_bytes_become_text() -> None:
    assert readable(os.fsdecode(b"a-\xff.bin")) == "a-\\xff.bin"
    assert readable("a\n::error::\x1b[0m") == "a\\n::error::\\x1b[0m" and readable("모델.bin") == "모델.bin"


def test_odd_files_hide_nothing(tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_clip, model)
    np.save(model / "mean.npy", np.zeros(3))
    (model / "a.bin").touch()
    os.mkfifo(model / "pipe.dat")
    (model / "link").symlink_to(tmp_path)
    Path(os.fsdecode(os.fsencode(model) + b"/a-\xff.dat")).write_bytes(EVIL)
    (model / "sub").mkdir()
    (model / "sub" / "EVIL.TXT").write_bytes(EVIL)
    out = tmp_path / "out"
    code = vlaudit("scan", f"hf:{model}", "--data", picture_folder, "--probe", "unsafe-file", "--out", out)
    finding = next(f for f in json.loads((out / "report.json").read_text())["findings"] if f["probe"] == "unsafe-file")
    rows = {name: problem for name, _, problem in finding["details"]["table"]["rows"]}
    assert code == 1 and finding["verdict"] == "vulnerable" and finding["severity"] == "critical"
    assert "posix.system" in rows["a-\\xff.dat"] and "posix.system" in rows["sub/EVIL.TXT"]
    assert rows["a.bin"] == rows["mean.npy"] == rows["model.safetensors"] == "none"
    assert "no regular file" in rows["pipe.dat"] and "link" in rows["link"]
