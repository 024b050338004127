"""The bundled generator behind `transformers serve`: the same answers as from its folder, and an audit of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vlaudit.audit.targets import parse_model
from vlaudit.data.dataset import load_dataset
from vlaudit.families.generation import Conversation, GenerationModel, Turn
from vlaudit.zoo import WEIGHTS

GENERATOR = WEIGHTS / "gen-clean"
SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
LAUNCH = "from vlaudit.cli import main; main()"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the bundled generator, as a user starts it."""
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(GENERATOR), *flags], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(400):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break  # it listens
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError(log.read_text())
        yield f"openai:http://127.0.0.1:{port}/v1#{GENERATOR}"
    finally:
        process.terminate()
        process.wait(30)


def model_of(spec: str) -> GenerationModel:
    backend, argument = parse_model(spec)
    model = backend.load(argument, torch.device("cpu"))
    assert isinstance(model, GenerationModel)
    return model


@pytest.mark.timeout(400)  # a server that loads torch, on busy cores
def test_a_server_gives_the_answers_of_the_folder(url: str) -> None:
    local, served = model_of(f"hf:{GENERATOR}"), model_of(url)
    rows = [example for example in load_dataset("zoo:questions").examples if example.split == "test"][::80]
    talks = [Conversation((Turn("user", (local.preprocess(row.open()), row.question or "")),)) for row in rows]
    answers = local.generate(talks, max_new_tokens=8)
    assert served.generate(talks, max_new_tokens=8) == answers and len(set(answers)) > 2


@pytest.mark.timeout(400)
def test_a_served_model_is_audited_as_a_black_box(url: str, tmp_path: Path) -> None:
    flags = ["--data", "zoo:questions", "--probe", "visual-instruction", "--probe", "output-collapse-inversion"]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, "scan", url, *flags, "--out", "audit"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads((tmp_path / "audit" / "report.json").read_text())["findings"]
    found = {finding["probe"]: finding for finding in findings}
    assert found["visual-instruction"]["verdict"] in ("held", "inconclusive")
    assert found["visual-instruction"]["metric"]["n"] > 20
    assert found["output-collapse-inversion"]["verdict"] == "not-assessed"
    assert "next-token distributions" in found["output-collapse-inversion"]["reason"]
