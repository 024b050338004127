"""Prompt files that somebody else wrote: their metadata and tensors are checked before anything trusts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlaudit.errors import UsageError
from vlaudit.prompts import specs
from vlaudit.prompts.files import FORMAT, FORMAT_VERSION
from vlaudit.prompts.specs import parse_prompt, prompt_files
from vlaudit.prompts.textual_inversion import TextualInversion
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.records import Family

METADATA = {"vlaudit.format": FORMAT, "version": FORMAT_VERSION, "method": "vp", "family": Family.MATCHING.value}
TENSORS = {"pattern": torch.zeros(3, 8, 8), "mask": torch.ones(8, 8)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def save(tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
        save_file(TENSORS | (tensors or {}), tmp_path / "p.safetensors", metadata=METADATA | metadata)
        return tmp_path / "p.safetensors"

    return save


@pytest.mark.parametrize("members", ["{}", "[1]", '"x"', "nul", "[" * 100_000, "9" * 5_000, '["\\ud800"]', "[null]"])
def test_members_that_are_no_list_of_hashes(write: Callable[..., Path], members: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="members"):
        VisualPrompt.load(write(members=members))
    save_file({"<toy>": torch.ones(1, 8)}, tmp_path / "toy.safetensors", metadata={"members": members})
    with pytest.raises(UsageError, match="members"):
        TextualInversion.load(tmp_path / "toy.safetensors")


@pytest.mark.parametrize(
    "metadata, tensors, match",
    [
        ({"version": "[1]"}, {}, "version"), ({"family": ""}, {}, "family"), ({"template": "{}{}"}, {}, "exactly one"),
        ({}, {"mask": torch.ones(8)}, "dimensions"), ({}, {"mask": torch.ones(0, 8)}, "empty"), ({}, {"mask": torch.ones(4, 4)}, "same height"),
        ({}, {"mask": torch.full((8, 8), torch.nan)}, "not finite"), ({}, {"mask": torch.ones(8, 8) * 1j}, "real numbers"),
        ({}, {"pattern": torch.full((3, 8, 8), 1e300, dtype=torch.float64)}, "not finite"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    write: Callable[..., Path], metadata: dict[str, str], tensors: dict[str, torch.Tensor], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        VisualPrompt.load(write(tensors, **metadata))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 8 + b"{}", (10**12).to_bytes(8, "little") + b"{", (2).to_bytes(8, "little") + b"{}"]
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"not a readable safetensors file|lacks vlaudit\.format"):
        VisualPrompt.load(tmp_path / "p.safetensors")


@pytest.mark.parametrize("method, family", [
    ("ensemble", Family.MATCHING), ("modifiers", Family.TEXT_TO_IMAGE), ("instruction", Family.GENERATION),
    ("chain-of-thought", Family.GENERATION), ("vp", Family.MATCHING), ("textual-inversion", Family.TEXT_TO_IMAGE),
    ("image-to-image", Family.TEXT_TO_IMAGE), ("lora", Family.TEXT_TO_IMAGE), ("in-context", Family.GENERATION),
])  # fmt: skip
def test_a_pipe_is_not_waited_for(tmp_path: Path, method: str, family: Family) -> None:
    os.mkfifo(tmp_path / "p.pt")
    with pytest.raises(UsageError, match=r"p\.pt"):
        parse_prompt(f"{method}:{tmp_path / 'p.pt'}", family)


def test_text_files_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "i.txt").write_bytes(b"\xef\xbb\xbfBe brief.\r\n---\r\nSay: {}\r\n")
    prompt = parse_prompt(f"instruction:{tmp_path / 'i.txt'}", Family.GENERATION)
    assert prompt.text == "Be brief.\n---\nSay: {}"
    (tmp_path / "e.txt").write_bytes(b"\xef\xbb\xbfa {}\r\nthe {}\r\n")
    assert parse_prompt(f"ensemble:{tmp_path / 'e.txt'}", Family.MATCHING).text == "a {} | the {}"


def test_a_number_of_thousands_of_digits_is_no_count(picture_folder: Path) -> None:
    with pytest.raises(UsageError, match="whole number"):
        parse_prompt(f"in-context:pool={picture_folder},k={'9' * 5_000}", Family.GENERATION)


def test_a_folder_of_all_files_is_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "MOST_FILES", 3)
    for name in "abc":
        (tmp_path / name).touch()
    assert len(prompt_files([f"retrieval:{tmp_path}"])) == 3
    (tmp_path / "d").touch()
    with pytest.raises(UsageError, match="more than 3 files"):
        prompt_files([f"retrieval:{tmp_path}"])
