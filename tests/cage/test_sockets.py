"""Loading and planning open no socket but to what the target names: every backend, every kind of prompt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECORD = """
import json, os, sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"):
        place = arguments[1] if event != "socket.getaddrinfo" else arguments[:2]
        if isinstance(place, tuple):
            asked.append([event, str(place[0]), place[1]])
sys.addaudithook(hook)
from vlaudit.cage import network
network.close()
import torch
torch.set_num_threads(1)
from vlaudit.cli import run
codes = [run(["scan", *words, "--dry-run"]) for words in json.loads(sys.argv[1])]
print("SAID", json.dumps([codes, asked]))
"""
UNTIL_LOADED = ["--probe", "unsafe-file"]


def asked(*scans: list[str]) -> tuple[list[int], list[list[object]]]:
    """The exit codes of scans, and every address that any of them asked for."""
    done = subprocess.run(
        [sys.executable, "-c", RECORD, json.dumps([[*map(str, scan), *UNTIL_LOADED] for scan in scans])],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "SAID" in done.stdout, done.stderr
    codes, places = json.loads(done.stdout.rsplit("SAID", 1)[1])
    return codes, places


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "templates.txt").write_text("a photo of a {}\na picture of the {}\n")
    (tmp_path / "modifiers.txt").write_text("in oil\nat night\n")
    return tmp_path


@pytest.mark.parametrize("family", ["matching", "generation", "text-to-image"])
def test_no_local_target_asks_for_anything(family: str, tiny_clip: Path, picture_folder: Path, texts: Path) -> None:
    pool = f"pool={picture_folder},k=2"
    scans: dict[str, list[list[str]]] = {
        "matching": [
            ["zoo:clean"], ["zoo:learned-prompt"], ["zoo:learned-visual-prompt"], ["zoo:clean", "--prompt", f"ensemble:{texts}/templates.txt"],
            [f"hf:{tiny_clip}", "--data", str(picture_folder)],
        ],
        "generation": [
            ["zoo:gen-clean"], ["zoo:prefix-clean"], ["zoo:pool-clean"],
            *(["zoo:gen-clean", "--prompt", spec] for spec in (f"in-context:{pool}", f"retrieval:{pool},embedder=hf:{tiny_clip}", "chain-of-thought:zero-shot")),
        ],
        "text-to-image": [
            ["zoo:t2i-clean"], ["zoo:token-clean"], ["zoo:t2i-leaky"],
            *(["zoo:t2i-clean", "--prompt", spec] for spec in ("a drawing of {}", f"modifiers:{texts}/modifiers.txt", "prompt-to-prompt:edit=a blue {},source=a red {}",
                                                               f"image-to-image:file={next(picture_folder.rglob('*.png'))},strength=0.5")),
        ],
    }  # fmt: skip
    codes, places = asked(*scans[family])
    assert codes == [0] * len(scans[family])
    assert places == []


def test_an_endpoint_is_all_that_its_target_reaches(picture_folder: Path) -> None:
    codes, places = asked(["openai:http://127.0.0.1:9/v1#m", "--data", str(picture_folder)])
    assert codes == [4]
    assert {(str(host), port) for _, host, port in places} == {("127.0.0.1", 9)}


def test_a_hub_name_is_asked_for_only_where_a_flag_names_it(tmp_path: Path, tiny_clip: Path, picture_folder: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "some/base"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    codes, places = asked([f"hf:{adapter}", "--data", str(picture_folder)])
    assert codes[0] in (2, 4) and places == []
