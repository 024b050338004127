from __future__ import annotations

from pathlib import Path

import pytest

from vlaudit.errors import UsageError
from vlaudit.prompts.specs import parse_options, prompt_files


def test_an_argument_is_a_file_or_named_options() -> None:
    known = ("file", "scale")
    assert parse_options("some/folder", "lora", known) == {"file": "some/folder"}
    assert parse_options("file=some/folder, scale=0.5", "lora", known) == {"file": "some/folder", "scale": "0.5"}
    with pytest.raises(UsageError, match=r"cannot take 'sclae'.*Did you mean 'scale'"):
        parse_options("file=x,sclae=0.5", "lora", known)
    assert parse_options("file=a, b", "lora", known) == {"file": "a, b"}, "a comma that no key follows is the value's"


def test_the_files_of_a_prompt_are_found_alone_in_a_folder_and_as_an_option(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "config.json").write_text("{}")
    (adapter / "weights.bin").write_bytes(b"\x80")
    single = tmp_path / "p.safetensors"
    single.write_bytes(b"")
    assert prompt_files([f"coop:{single}"]) == [single]
    assert prompt_files([f"vp:file={adapter},scale=1"]) == [adapter / "config.json", adapter / "weights.bin"]
    assert prompt_files(["a photo of a {}", "a photo: {}", "coop:/no/such/file"]) == []
