"""A server of the chat API on the loopback, which answers as a test tells it to."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlaudit.backends.openai import EndpointModel, OpenAIBackend
from vlaudit.families.generation import Conversation, Turn

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
        Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


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
