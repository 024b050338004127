"""Checkpoints are read without building what is no tensor, and every damage ends in one sentence."""

from __future__ import annotations

import argparse
import random
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inspection.corpus import Call, legacy_tar, torch_zip, yacs_settings
from vlaudit.errors import ModelError, UnsafeFileError, UsageError
from vlaudit.inspection.checkpoints import Array, StandIn, load_torch_checkpoint, refuse_code

torch.set_num_threads(1)


def optimizer() -> torch.optim.Optimizer:
    weight = torch.nn.Parameter(torch.ones(2))
    made = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(2)
    made.step()
    return made


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        optimizer(),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), 3),
        argparse.Namespace(a=1),
        yacs_settings(),
        np.zeros(3),
        np.float64(1),
        defaultdict(dict, a=1),
        deque([1], 3),
        Path("a"),
    ],
    ids=lambda other: type(other).__name__,
)
def test_what_is_no_tensor_becomes_a_stand_in(tmp_path: Path, other: Any, as_zip: bool) -> None:
    path = tmp_path / "model.pth.tar-50"
    state = OrderedDict(ctx=torch.arange(6.0).reshape(2, 3))
    path.write_bytes(torch_zip({"state_dict": state, "epoch": 50, "other": other}, _use_new_zipfile_serialization=as_zip))
    read = load_torch_checkpoint(path)
    torch.testing.assert_close(read["state_dict"]["ctx"], state["ctx"])
    assert read["epoch"] == 50 and type(read["other"]) in (StandIn, Array, OrderedDict, list)


@pytest.mark.parametrize("array", [np.arange(6, dtype="<f4").reshape(2, 3), np.arange(6, dtype=">f8").reshape(3, 2).T])
def test_numbers_of_a_numpy_array_are_kept(tmp_path: Path, array: Any) -> None:
    (tmp_path / "prompt.pth").write_bytes(torch_zip({"tokens": array}))
    read = load_torch_checkpoint(tmp_path / "prompt.pth")["tokens"].tensor()
    assert read.dtype == torch.float32 and np.array_equal(read.numpy(), array)


@pytest.mark.parametrize("array", [np.arange(3), np.array([None]), np.array(["a"])])
def test_arrays_of_other_things_have_no_numbers(tmp_path: Path, array: Any) -> None:
    (tmp_path / "prompt.pth").write_bytes(torch_zip({"tokens": array}))
    assert load_torch_checkpoint(tmp_path / "prompt.pth")["tokens"].tensor() is None


@pytest.mark.parametrize("call", [Call("posix.system", "touch nowhere"), torch.nn.Linear(2, 2), Call("torch.from_file", "x", True, 1)], ids=["call", "module", "torch"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_all_else_is_refused(tmp_path: Path, call: Any, as_zip: bool) -> None:
    path = tmp_path / "weights"
    path.write_bytes(torch_zip({"state_dict": {"a": torch.ones(1)}, "x": call}, _use_new_zipfile_serialization=as_zip))
    with pytest.raises(UnsafeFileError, match="would run code"):
        load_torch_checkpoint(path)
    with pytest.raises(UnsafeFileError, match="would run code"):
        refuse_code([path])


def test_an_empty_file_is_said_before_loading(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="empty"):
        refuse_code([tmp_path / "pytorch_model.bin"])


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    draw, path = random.Random(1), tmp_path / "weights.bin"
    seeds = [torch_zip({"a": torch.ones(3), "o": optimizer()}), torch_zip({"a": torch.ones(3)}, _use_new_zipfile_serialization=False),
             legacy_tar({"a": 1}), b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02}.", b"text\n", b"{}", b"\x80\x02X\xff\xff\xff\x7f"]  # fmt: skip
    ends = {"read": 0, "said": 0}
    for number in range(300):
        content = bytearray(seeds[number] if number < len(seeds) else draw.choice(seeds))
        for _ in range(draw.randint(1, 3) if content and number >= len(seeds) else 0):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content if draw.random() < 0.7 or number < len(seeds) else content[: draw.randrange(len(content) + 1)])
        try:
            load_torch_checkpoint(path)
            ends["read"] += 1
        except (UsageError, UnsafeFileError) as error:
            assert "\n" not in str(error) and ("readable checkpoint (" in str(error) or "not opened" in str(error))
            ends["said"] += 1
    assert min(ends.values()) > 5, ends
