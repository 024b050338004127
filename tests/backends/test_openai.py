"""Models behind the chat API, against a real server: what it answers, and every way in which it can fail to."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import generators
from vlaudit.backends.openai import EndpointModel, OpenAIBackend
from vlaudit.backends.transformers_reader import noise
from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.families.generation import Conversation, LearnedPrefix, Turn
from vlaudit.probe import Needs
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.soft import PromptTuning
from vlaudit.records import Family

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def send(handler: BaseHTTPRequestHandler, status: int, body: str, kind: str = "application/json") -> None:
    content = body.encode()
    handler.send_response(status)
    handler.send_header("content-type", kind)
    handler.send_header("content-length", str(len(content)))
    handler.send_header("retry-after-ms", "10")
    handler.end_headers()
    handler.wfile.write(content)


def completion(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def echo(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Says how many pictures it saw, how bright the last is, and what was asked."""
    parts = [part for message in request["messages"] for part in message["content"] if isinstance(part, dict)]
    shown = [part["image_url"]["url"].split(",")[1] for part in parts if part["type"] == "image_url"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    light = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[-1])))).mean()
    logprobs = (
        {"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}] * 2}
        if request.get("logprobs")
        else None
    )
    send(handler, 200, json.dumps(completion(f"{len(shown)} {light:.0f} {texts[-1]}", logprobs=logprobs)))


class Server:
    """Answers each request by the next of ``script``, then by ``echo``."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        lock, outer = Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.requests.append({**request, "path": self.path})
                    outer.keys.append(self.headers["authorization"])
                    reply = outer.script.pop(0) if outer.script else echo
                reply(self, request)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "VLAUDIT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def model(server: Server) -> EndpointModel:
    return OpenAIBackend().load(f"{server.url}#m", torch.device("cpu"))


def talk(shade: int = 100, text: str = "what is this ?") -> Conversation:
    return Conversation((Turn("user", (torch.full((3, 9, 7), shade / 255), text)),))


def status(code: int, message: str = "no") -> Reply:
    return lambda handler, _: send(
        handler, code, json.dumps({"error": {"message": message, "type": "x", "code": None}})
    )


def body(text: str, kind: str = "application/json") -> Reply:
    return lambda handler, _: send(handler, 200, text, kind)


def test_answers_come_in_order_with_their_pictures(server: Server, model: EndpointModel) -> None:
    answers = model.generate([talk(10 * i, f"question {i}") for i in range(12)], max_new_tokens=7)
    assert answers == [f"1 {10 * i} question {i}" for i in range(12)] and all(a.finished for a in answers)
    sent = server.requests[0]
    assert (sent["path"], sent["model"], sent["temperature"], sent["max_tokens"]) == ("/v1/chat/completions", "m", 0, 7)
    demo = (Turn("system", ("be brief",)), Turn("user", (torch.zeros(3, 5, 5), "a")), Turn("assistant", ("b",)))
    assert model.generate([Conversation((*demo, *talk(50).turns))]) == ["2 50 what is this ?"]
    assert [m["role"] for m in server.requests[-1]["messages"]] == ["system", "user", "assistant", "user"]
    (scored,) = model.generate([talk()], log_probs=True)
    assert scored.log_prob == -1.0 and model.generate([talk()])[0].log_prob is None


def test_it_is_a_black_box(server: Server, model: EndpointModel) -> None:
    backend = OpenAIBackend()
    assert backend.is_remote("x") and backend.family(f"{server.url}#m") is Family.GENERATION
    target = Instruction().bind(model)
    assert target.capabilities == {Needs.ANSWERS}
    picture = model.preprocess(noise(31, 17))
    assert picture.shape == (3, 17, 31)
    assert len(target.generate([picture], ["what ?"])) == 1
    for call in (
        lambda: target.choose([picture], ["a"], ["b", "c"]),
        lambda: model.tokenize("a"),
        lambda: model.attention([], []),
    ):
        with pytest.raises(CapabilityError):
            call()
    with pytest.raises(CapabilityError, match="takes no learned prefix"):
        PromptTuning(LearnedPrefix(embeddings=torch.zeros(2, 4))).bind(model)


def test_busy_and_broken_servers_are_asked_again(server: Server, model: EndpointModel) -> None:
    server.script = [status(429), status(500), status(503)]
    assert model.generate([talk()]) == ["1 100 what is this ?"] and len(server.requests) == 4


@pytest.mark.parametrize(
    "reply, message",
    [
        (status(429, "slow down"), "slow down"),
        (status(500), "gives no answer"),
        (status(401), "refuses the key"),
        (status(404), "does not know the model"),
        (status(400, "no pictures here"), "refuses the request.*no pictures"),
        (body("<!doctype html><p>hello", "text/html"), "an HTML page"),
        (body("<html>", "application/json"), "gives no answer|HTML"),
        (body('{"choices": []}'), "no chat completion"),
        (body('{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}'), "no chat completion"),
        (body('{"hello": "there"}'), "no chat completion"),
        (body('"cat"'), "no chat completion"),
        (body("[1]"), "no chat completion"),
        (body("null"), "no chat completion"),
    ],
)
def test_what_is_no_answer_is_one_error(reply: Reply, message: str, server: Server, model: EndpointModel) -> None:
    server.script = [reply] * 20
    with pytest.raises(ModelError, match=message) as caught:
        model.generate([talk()])
    assert "\n" not in str(caught.value)


def test_a_server_that_hangs_is_left(server: Server, model: EndpointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.TIMEOUT", 0.2)
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 1)
    server.script = [lambda handler, _: time.sleep(1)] * 2
    with pytest.raises(ModelError, match=r"did not answer within 0\.2 s"):
        model.generate([talk()])
    server.script = [lambda handler, _: time.sleep(1)]
    assert model.generate([talk()]) == ["1 100 what is this ?"]


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    gone = OpenAIBackend().load("http://127.0.0.1:9/v1#m", torch.device("cpu"))
    with pytest.raises(ModelError, match="gives no answer"):
        gone.generate([talk()])


def test_parameters_that_a_server_does_not_know(server: Server, model: EndpointModel) -> None:
    server.script = [
        status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        status(400, "'temperature' does not support 0"),
    ]
    assert model.generate([talk()], max_new_tokens=5) == ["1 100 what is this ?"]
    last = server.requests[-1]
    assert last["max_completion_tokens"] == 5 and "max_tokens" not in last and "temperature" not in last


def test_refusals_cut_answers_and_control_characters(server: Server, model: EndpointModel) -> None:
    server.script = [
        body(json.dumps(completion(None, message={"refusal": "I can't help."}))),
        body(json.dumps(completion("and so on", "length"))),
        body(json.dumps(completion("\u001b[2Jred"))),
        body(json.dumps(completion(None))),
    ]
    refused, cut, coloured, empty = (model.generate([talk()])[0] for _ in range(4))
    assert refused == "I can't help." and refused.finished and not cut.finished
    assert coloured == "\N{REPLACEMENT CHARACTER}[2Jred" and empty == ""


def test_keys(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def key_of(url: str) -> str | None:
        OpenAIBackend().load(f"{url}#m", torch.device("cpu")).generate([talk()])
        return server.keys[-1]

    monkeypatch.setenv("OPENAI_API_KEY", "one")
    assert key_of(server.url) == "Bearer one"
    monkeypatch.setenv("VLAUDIT_API_KEY", "two")
    assert key_of(server.url) == "Bearer two"
    monkeypatch.setattr("vlaudit.backends.openai.LOOPBACK", set())  # as another machine without encryption
    assert key_of(server.url) == "Bearer none"


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "#m",
        "http://host/v1",
        "http://host/v1#",
        "file:///etc/passwd#m",
        "http://me:key@host#m",
        "http://host:port/#m",
    ],
)
def test_addresses_that_are_none(argument: str) -> None:
    with pytest.raises(UsageError, match="does not name an API"):
        OpenAIBackend().family(argument)


def test_a_scan_reaches_it_when_named_by_flag(
    server: Server, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.families.test_generation import PROBE

    plugin, out = tmp_path / "echo.py", tmp_path / "out"
    plugin.write_text(PROBE)
    spec = f"openai:{server.url}#m"
    assert vlaudit("scan", spec, "--data", picture_folder, "--plugin", plugin, "--probe", "echo", "--out", out) in (
        0,
        1,
    )
    report = json.loads((out / "report.json").read_text())
    assert report["findings"][0]["metric"]["n"] == 24 and report["targets"][0]["model"]["sha256"] is None
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(picture_folder)
    (home / "vlaudit.toml").write_text(f'[[target]]\nmodel = "{spec}"\ndata = "zoo:kinds"\n')
    monkeypatch.chdir(home)
    count = len(server.requests)
    assert vlaudit("scan", "--plugin", plugin, "--probe", "echo") == 2, "a config that was found names a remote model"
    assert len(server.requests) == count


@pytest.mark.slow
def test_transformers_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers from `transformers serve` with a tiny model as from the model itself."""
    from vlaudit.backends.huggingface import HuggingFaceBackend

    folder = generators.save("llava", tmp_path / "llava")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
    serving = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        remote = OpenAIBackend().load(f"http://localhost:{port}/v1#{folder}", torch.device("cpu"))
        own = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
        picture = noise(24, 24, seed=5)
        question = (Turn("user", (remote.preprocess(picture), "what is this ?")),)
        monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
        said = None
        for _ in range(60):
            try:
                said = remote.generate([Conversation(question)], max_new_tokens=5)
                break
            except ModelError as error:
                last = error
                time.sleep(2)
        assert said is not None, last
        mine = own.generate(
            [Conversation((Turn("user", (own.preprocess(picture), "what is this ?")),))], max_new_tokens=5
        )  # type: ignore[attr-defined]
        assert [a.split() for a in said] == [a.split() for a in mine]
    finally:
        serving.terminate()
        serving.wait(30)
