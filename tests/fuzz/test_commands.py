"""Hostile files given to whole commands, run in this process: a documented exit code, one sentence, and an end.

What an input is like is drawn by its number alone; ``VLAUDIT_FUZZ=10000 pytest tests/fuzz`` tries more of them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given

from tests.conftest import MIRROR
from tests.fuzz.harness import SEEDS, command, hostile, little_memory, reading, share
from tests.fuzz.mutator import mutate, put
from tests.fuzz.test_readers import CONFIG, IGNORE
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.visual import VisualPrompt


@share(0.04)
@given(SEEDS)
def test_validate(seed: int) -> None:
    with hostile(seed) as (random, place):
        name, content = random.choice((("vlaudit.toml", CONFIG), ("ignore.toml", IGNORE)))
        put(place / name, mutate(content, random), random)
        command("validate", place / name, codes=(0, 2))


@share(0.03)
@given(SEEDS)
def test_scan_with_a_found_config(tiny_clip: Path, picture_folder: Path, seed: int) -> None:
    """A config, an ignore file and a policy in the current folder, together with the model that they name."""
    content = b'[scan]\nprobe = ["unsafe-file"]\n[[target]]\nmodel = "hf:model"\ndata = "data"\nprompt = ["a {}"]\n[policy]\nfail_on = "high"\n'
    with hostile(seed) as (random, place), contextlib.chdir(place):
        (place / "model").symlink_to(tiny_clip)
        (place / "data").symlink_to(picture_folder / "test")
        put(place / "vlaudit.toml", mutate(content, random), random)
        put(place / ".vlaudit-ignore.toml", mutate(IGNORE, random), random)
        flags = random.choice(((), ("--config", "vlaudit.toml"), ("--ignore-file", ".vlaudit-ignore.toml")))
        command("scan", *flags, "--dry-run", codes=(0, 2, 4))


@share(0.06)
@given(SEEDS)
def test_scans_with_a_hostile_file(tiny_clip: Path, picture_folder: Path, seed: int) -> None:
    """One file of a whole scan is hostile: a prompt, the reference, a picture, the metadata, the labels, accepted findings."""
    files = {
        "vp.safetensors": b"", "coop.safetensors": b"", "e.txt": b"a photo of a {}\nthe {}\n", "labels.txt": b"car\ncat\ndog\n",
        "ignore.toml": IGNORE, "mirror.py": MIRROR.encode(),
    }  # fmt: skip
    with hostile(seed) as (random, place):
        for name, content in files.items():
            (place / name).write_bytes(content)
        VisualPrompt(torch.zeros(3, 32, 32), torch.ones(32, 32)).save(place / "vp.safetensors")
        CoOp(torch.zeros(4, 32)).save(place / "coop.safetensors")
        for label in ("cat", "dog"):
            (place / "data" / label).mkdir(parents=True)
            for name in ("0.png", "1.png"):
                shutil.copy(picture_folder / "test" / label / name, place / "data" / label)
        rows = "".join(f"{label}/{name},{label},x\n" for label in ("cat", "dog") for name in ("0.png", "1.png"))
        (place / "data" / "metadata.csv").write_text(f"file_name,label,gender\n{rows}")
        changed = place / random.choice((*files, "data/metadata.csv", "data/cat/0.png", "data/dog/1.png"))
        put(changed, mutate(changed.read_bytes(), random), random)
        prompts = {"vp.safetensors": "vp:vp.safetensors", "coop.safetensors": "coop:coop.safetensors"}
        method, _, name = prompts.get(changed.name, "ensemble:e.txt").partition(":")
        command(
            "scan", f"hf:{tiny_clip}", "--data", place / "data", "--labels", place / "labels.txt", "--prompt", f"{method}:{place / name}",
            "--plugin", place / "mirror.py", "--probe", "mirror", "--ignore-file", place / "ignore.toml", "--out", place / "out",
        )  # fmt: skip


CONFIGS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@share(0.04)
@given(SEEDS)
def test_model_folders(tiny_clip: Path, picture_folder: Path, seed: int) -> None:
    with little_memory(), hostile(seed) as (random, place):
        shutil.copytree(tiny_clip, place / "model")
        file = place / "model" / random.choice(CONFIGS)
        put(file, mutate(file.read_bytes(), random), random)
        command("scan", f"hf:{place / 'model'}", "--data", picture_folder / "test", "--probe", "unsafe-file", "--out", place / "out")


@pytest.fixture(scope="module")
def audit(tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a small audit, and the plugin that it was made with."""
    place = tmp_path_factory.mktemp("audit")
    (place / "mirror.py").write_text(MIRROR)
    code = command(
        "scan", f"hf:{tiny_clip}", "--data", picture_folder / "test", "--plugin", place / "mirror.py", "--probe", "mirror",
        "--probe", "unsafe-file", "--out", place / "audit",
    )  # fmt: skip
    assert code in (0, 1)
    return place / "audit", place / "mirror.py"


@share(0.08)
@given(SEEDS)
def test_audit_folders(audit: tuple[Path, Path], seed: int) -> None:
    folder, plugin = audit
    with little_memory(), hostile(seed) as (random, place):
        shutil.copytree(folder, place / "audit")
        file = place / "audit" / random.choice(("manifest.json", "trials.jsonl", "trials.jsonl", "report.json"))
        put(file, mutate(file.read_bytes(), random), random)
        words = random.choice((
            ("judge", place / "audit", "--plugin", plugin), ("judge", place / "audit", "--plugin", plugin),
            ("report", place / "audit", "--format", random.choice(("html", "markdown", "junit", "sarif", "json", "cyclonedx"))),
            ("diff", place / "audit", folder), ("diff", folder, place / "audit", "--json"),
            ("replay", place / "audit", "X1", "--plugin", plugin, "--out", place / "out"),
        ))  # fmt: skip
        command(*words)


# --- answers of a server ----------------------------------------------------------------------------------------------


class Server:
    """Gives every request the ``body`` that it is told to."""

    def __init__(self) -> None:
        self.body, outer = b"", self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.server.shutdown()


ANSWER: dict[str, Any] = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    "choices": [{
        "index": 0, "message": {"role": "assistant", "content": "a cat", "refusal": None}, "finish_reason": "stop",
        "logprobs": {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}] * 2},
    }],
}  # fmt: skip


@share(0.08)
@given(SEEDS)
def test_answers_of_a_server(server: Server, seed: int) -> None:
    """Through the backend's public way alone: a conversation in, an answer out."""
    from vlaudit.backends.openai import OpenAIBackend
    from vlaudit.families.generation import Answer, Conversation, Turn

    pytest.importorskip("openai")
    with hostile(seed) as (random, _), reading():
        server.body = mutate(json.dumps(ANSWER).encode(), random)
        model = OpenAIBackend().load(f"{server.address}#m", torch.device("cpu"))
        (answer,) = model.generate([Conversation((Turn("user", ("What is this?",)),))], log_probs=random.random() < 0.5)
        assert isinstance(answer, Answer) and isinstance(answer.finished, bool)
        assert isinstance(answer.log_prob, float | None)
