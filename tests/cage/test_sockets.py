"""Loading and planning open no socket but to what the target names: every backend, every kind of prompt."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import generators
from vlaudit.families.generation import LearnedPrefix
from vlaudit.plugins import plugins
from vlaudit.prompts.soft import PromptTuning

RECORD = """
import json, os, sys
kept = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def hook(event, arguments):  # in the processes forked from this one too
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[:2] if event == "socket.getaddrinfo" else arguments[-1:] if event == "socket.gethostbyname" else arguments[1]
        if isinstance(place, tuple):
            os.write(kept, (json.dumps([event, *map(str, place[:2])]) + "\\n").encode())
sys.addaudithook(hook)
from vlaudit.cage import network
network.close()
import torch
torch.set_num_threads(1)
from vlaudit.cli import run
for words in json.loads(sys.argv[1]):
    sys.argv = ["vlaudit", *words]
    os.write(kept, (json.dumps(run(words)) + "\\n").encode())
"""
UNTIL_LOADED = ["--probe", "unsafe-file", "--dry-run"]


def asked(place: Path, *commands: list[object]) -> tuple[list[int], list[list[str]]]:
    """The exit codes of commands, and every address that any of them asked for."""
    log = place / "asked.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", RECORD, json.dumps([list(map(str, words)) for words in commands]), log],
        capture_output=True, text=True, check=False, timeout=600, cwd=place,
    )  # fmt: skip
    said = [json.loads(line) for line in log.read_text().splitlines()]
    codes = [entry for entry in said if isinstance(entry, int)]
    assert len(codes) == len(commands) and "Traceback" not in done.stderr, done.stderr
    return codes, [entry for entry in said if isinstance(entry, list)]


def loaded(place: Path, *scans: list[object]) -> tuple[list[int], list[list[str]]]:
    """The same of scans that end when all is loaded and planned."""
    return asked(place, *(["scan", *scan, *UNTIL_LOADED] for scan in scans))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "templates.txt").write_text("a photo of a {}\na picture of the {}\n")
    (tmp_path / "modifiers.txt").write_text("in oil\nat night\n")
    return tmp_path


@pytest.mark.parametrize("family", ["matching", "generation", "text-to-image"])
def test_no_local_target_asks_for_anything(family: str, tiny_clip: Path, picture_folder: Path, texts: Path) -> None:
    pool = f"pool={picture_folder},k=2"
    llava = generators.save("llava", texts / "llava")
    PromptTuning(LearnedPrefix(embeddings=torch.ones(4, 32))).save(texts / "tuning")
    scans: dict[str, list[list[object]]] = {
        "matching": [
            ["zoo:clean"], ["zoo:learned-prompt"], ["zoo:learned-visual-prompt"], ["zoo:clean", "--prompt", f"ensemble:{texts}/templates.txt"],
            [f"hf:{tiny_clip}", "--data", str(picture_folder)],
        ],
        "generation": [
            ["zoo:gen-clean"], ["zoo:prefix-clean"], ["zoo:pool-clean"],
            *(["zoo:gen-clean", "--prompt", spec] for spec in (f"in-context:{pool}", f"retrieval:{pool},embedder=hf:{tiny_clip}", "chain-of-thought:zero-shot", "In a word: {}")),
            *([f"hf:{llava}", "--data", picture_folder, "--prompt", spec] for spec in (f"prompt-tuning:{texts}/tuning", "{}")),
        ],
        "text-to-image": [
            ["zoo:t2i-clean"], ["zoo:token-clean"], ["zoo:t2i-leaky"],
            *(["zoo:t2i-clean", "--prompt", spec] for spec in ("a drawing of {}", f"modifiers:{texts}/modifiers.txt", "prompt-to-prompt:edit=a blue {},source=a red {}",
                                                               f"image-to-image:file={next(picture_folder.rglob('*.png'))},strength=0.5")),
        ],
    }  # fmt: skip
    codes, places = loaded(texts, *scans[family])
    assert codes == [0] * len(scans[family])
    assert places == []


def test_no_scan_and_no_command_on_its_audit_asks_for_anything(tmp_path: Path, picture_folder: Path, tiny_clip: Path) -> None:
    """A whole audit of a target of each family, replayed, judged, compared and shown in every form, and all that needs no target."""
    named = ["unsafe-file", "--out"]
    codes, places = asked(
        tmp_path,
        ["scan", f"hf:{tiny_clip}", "--data", picture_folder, "--prompt", "the {}", "--probe", "typographic", "--probe", *named, "a"],
        ["scan", "zoo:gen-clean", "--probe", "text-insensitivity", "--probe", *named, "b"],
        ["scan", "zoo:token-clean", "--probe", "personal-token-audit", "--probe", *named, "c"],
        *(["replay", audit, "unsafe-file", "--out", f"again-{audit}"] for audit in "abc"),
        *(["judge", audit] for audit in "abc"),
        *(["report", audit, "--format", ",".join(plugins("reporters"))] for audit in "abc"),
        ["report", "a"], ["diff", "a", "b"], ["doctor"], ["schema"], ["init"], ["validate", "vlaudit.toml"],
        *(["list", what] for what in ("probes", "prompts", "backends", "specimens", "reporters")), ["explain", "MR1"], ["explain", "coop"],
    )  # fmt: skip
    assert set(codes) <= {0, 1, 3} and codes[3:6] == [0, 0, 0], codes
    assert places == []


def test_an_endpoint_is_all_that_its_target_reaches(tmp_path: Path, picture_folder: Path) -> None:
    codes, places = loaded(tmp_path, ["openai:http://127.0.0.1:9/v1#m", "--data", str(picture_folder)])
    assert codes == [4]
    assert {(str(host), port) for _, host, port in places} == {("127.0.0.1", "9")}


def test_a_hub_name_is_asked_for_only_where_a_flag_names_it(tmp_path: Path, tiny_clip: Path, picture_folder: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "some/base"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    codes, places = loaded(tmp_path, [f"hf:{adapter}", "--data", str(picture_folder)])
    assert codes[0] in (2, 4) and places == []
