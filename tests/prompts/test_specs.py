from __future__ import annotations

from pathlib import Path

import pytest

from vlaudit.errors import UsageError, VlauditError
from vlaudit.prompts.specs import parse_options, parse_prompt, prompt_files
from vlaudit.records import Family


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


@pytest.mark.parametrize(
    ("method", "family", "content"),
    [
        ("ensemble", Family.MATCHING, "root:secret\n"), ("ensemble", Family.MATCHING, "root:secret\nadmin:secret\n"),
        ("modifiers", Family.TEXT_TO_IMAGE, "secret={} {}\n"), ("instruction", Family.GENERATION, "secret\n"),
        ("chain-of-thought", Family.GENERATION, "secret\nsecret\n"), ("coop", Family.MATCHING, "secret"),
        ("vp", Family.MATCHING, "secret"), ("textual-inversion", Family.TEXT_TO_IMAGE, "secret"),
        ("prompt-tuning", Family.GENERATION, "secret"), ("lora", Family.TEXT_TO_IMAGE, "secret"),
        ("in-context", Family.GENERATION, "secret"), ("image-to-image", Family.TEXT_TO_IMAGE, "secret"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_without_its_text(tmp_path: Path, method: str, family: Family, content: str) -> None:
    """A config or an audit folder from elsewhere may name any file of the reader's."""
    (tmp_path / "file").write_text(content)
    with pytest.raises(VlauditError) as caught:
        parse_prompt(f"{method}:{tmp_path}/file", family)
    assert "secret" not in f"{caught.value.message} {caught.value.cure}"
