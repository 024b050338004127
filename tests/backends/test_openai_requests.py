"""A server that is hostile, or only slow or misled: each request ends, and the key goes where it may."""

from __future__ import annotations

import gzip
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
import torch

from tests.backends.conftest import Reply, Server, body, completion, send, talk
from tests.patience import patience
from vlaudit.backends import openai_requests
from vlaudit.backends.openai import EndpointModel, OpenAIBackend, messages
from vlaudit.errors import ModelError

KEY = "key-made-up-for-this-test-0123456789"


def raw(*parts: bytes, pause: float = 0.0, endless: bool = False) -> Reply:
    """Writes bytes as they are, one part after the other; the last for ever where ``endless``."""

    def reply(handler: BaseHTTPRequestHandler, _: object) -> None:
        handler.close_connection = True
        try:
            for part in parts:
                handler.wfile.write(part)
            for _ in range(10_000_000 if endless else 0):
                handler.wfile.write(parts[-1])
                time.sleep(pause)
        except OSError:
            pass  # the other side has had enough

    return reply


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = json.dumps(completion("cat")).encode()
BOMB = gzip.compress(b" " * 10_000_000)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (raw(HEAD + b"Content-Length: 9999999\r\n\r\n", b" ", pause=0.05, endless=True), "did not answer within"),
        (raw(b"H", pause=0.05, endless=True), "did not answer within"),
        (raw(HEAD, b"X-A: b\r\n", pause=0.05, endless=True), "did not answer within"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", pause=0.05, endless=True), "did not answer"),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.02, endless=True), "did not answer within"),
        (raw(HEAD + b"\r\n", b" " * 10_000, endless=True), "sends more than 0.05 MB"),
        (raw(b"HTTP/1.1 500 No\r\n\r\n", b" " * 10_000, endless=True), "sends more than 0.05 MB"),
        (raw(HEAD, b"X-A: b\r\n" * 200, b"\r\n"), "gives no answer"),
        (raw(HEAD + b"X: " + b"y" * 100_000, b"\r\n\r\n"), "gives no answer"),
        (raw(HEAD + f"Content-Length: {len(GOOD) + 5}\r\n\r\n".encode(), GOOD), "broke off"),
        (raw(HEAD + b"Content-Length: 20\r\n\r\n", GOOD), "no chat completion"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "gives no answer"),
        (raw(HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode(), BOMB), "encoding 'gzip'"),
        (raw(b"\x00\xff\xfe" * 50), "gives no answer"),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\n", endless=True), "did not answer within|gives no answer"),
        (raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", endless=True), "no chat completion"),
        (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + GOOD), "no chat completion"),
        (raw(b"HTTP/1.1 204 No Content\r\n\r\n" + GOOD), "no chat completion"),
        (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n" + GOOD), "to 'nowhere'"),
        (raw(HEAD + b"Content-Length: -1\r\n\r\n", b" " * 10_000, endless=True), "sends more than 0.05 MB"),
        (raw(HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", b" " * 10_000, endless=True), "sends more|gives no answer"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b" " * 10_000, endless=True), "sends more|gives no answer"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", pause=0.01, endless=True), "did not answer within"),
        (raw(b"HTTP/1.1 200 OK\r\n" * 1_000 + b"\r\n"), "gives no answer|no chat completion"),
        (raw(b""), "gives no answer"),
        (raw(HEAD + b"\r\n\x00\xff\xfe\x80"), "no chat completion"),
        (body("[" * 20_000), "no chat completion"),
        (body('{"choices":' * 4_000), "no chat completion"),
        (body("9" * 20_000), "no chat completion"),
    ],
)  # fmt: skip
def test_every_request_ends(
    reply: Reply, message: str, server: Server, model: EndpointModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.TIMEOUT", 0.5)
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    monkeypatch.setattr(openai_requests, "LARGEST", 50_000)
    server.script = [reply]
    question = talk()
    messages(question)  # imports what draws pictures
    then = time.monotonic()
    with pytest.raises(ModelError, match=message) as caught:
        model.generate([question])
    assert time.monotonic() - then < patience(5) and len(str(caught.value)) < 500
    monkeypatch.setattr("vlaudit.backends.openai.TIMEOUT", 30.0)
    assert model.generate([talk()]) == ["1 100 what is this ?"], "the next question is asked as if nothing had been"


@pytest.mark.parametrize("head", [HEAD + b"\r\n", b"HTTP/1.0 200 OK\r\n\r\n", HEAD + b"Connection: close\r\nContent-Length: 999999\r\n\r\n"])
def test_nothing_of_a_request_that_was_left_stays(
    head: bytes, server: Server, model: EndpointModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its connection, which the library's own object has forgotten by then."""
    monkeypatch.setattr("vlaudit.backends.openai.TIMEOUT", 2.0)
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    dripping, ended = raw(head, b" ", pause=0.05, endless=True), Event()

    def reply(handler: BaseHTTPRequestHandler, request: dict[str, object]) -> None:
        dripping(handler, request)
        ended.set()

    server.script = [reply]
    with pytest.raises(ModelError, match="did not answer within"):
        model.generate([talk()])
    assert ended.wait(10), "the server still has somebody to write to"


def test_a_server_that_speaks_no_tls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    with pytest.raises(ModelError, match="gives no answer"):
        ask(server.url.replace("http://", "https://").removesuffix("/v1"))


def test_looking_up_a_name_and_connecting_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.TIMEOUT", 0.3)
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
        with pytest.raises(ModelError, match=r"did not answer within 0\.3 s"):
            OpenAIBackend().load("http://model.invalid/v1#m", torch.device("cpu")).generate([talk()])
    with socket.socket() as full:  # a queue of one that nobody accepts from
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        with pytest.raises(ModelError, match=r"did not answer within|gives no answer"):
            port = full.getsockname()[1]
            OpenAIBackend().load(f"http://127.0.0.1:{port}/v1#m", torch.device("cpu")).generate([talk()])
        for each in waiting:
            each.close()


def test_one_failure_waits_for_no_other_request(server: Server, model: EndpointModel) -> None:
    server.script = [lambda handler, _: time.sleep(20)] * 3
    server.script.insert(0, lambda handler, _: send(handler, 401, "{}"))
    then = time.monotonic()
    with pytest.raises(ModelError, match="refuses the key"):
        model.generate([talk()] * 4)
    assert time.monotonic() - then < patience(5)


# --- where requests and keys travel -----------------------------------------------------------------------------------


class Recorder:
    """A proxy (or another server) that notes what it sees and lets nothing through."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.seen.append((self.command, self.path, str(self.headers)))
                self.send_response(403)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_CONNECT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the key and the given variables; no others that matter are set."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "OPENAI_API_KEY"):
        for form in (name, name.upper()):
            monkeypatch.delenv(form, raising=False)
    monkeypatch.setenv("VLAUDIT_API_KEY", KEY)
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def ask(url: str) -> None:
    OpenAIBackend().load(f"{url}/v1#m", torch.device("cpu")).generate([talk()])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost.", "a.localhost", "127.1", "2130706433", "0x7f.0.0.1"])
@pytest.mark.parametrize("proxied", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", None])
def test_this_machine_gets_the_key_and_no_proxy(
    host: str, proxied: str | None, server: Server, recorder: Recorder, environment: Callable[..., None]
) -> None:
    environment(**({proxied: recorder.url} if proxied else {}), VLAUDIT_API_KEY=KEY)
    ask(f"http://{host}:{server.http.server_port}")
    assert server.keys == [f"Bearer {KEY}"] and not recorder.seen


def test_a_proxy_of_another_kind_is_none_for_this_machine(server: Server, environment: Callable[..., None]) -> None:
    environment(ALL_PROXY="socks5://proxy.invalid:1080")
    ask(server.url.removesuffix("/v1"))
    with pytest.raises(ModelError, match="proxy of the kind 'socks5'"):
        ask("https://model.invalid")


@pytest.mark.parametrize("address", ["0.0.0.0", "[::ffff:10.0.0.1]", "10.0.0.1"])
def test_other_addresses_get_no_key_in_clear(
    address: str, server: Server, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of other machines are made to lead to this one, so that what they would be sent is seen."""
    made = socket.create_connection
    port = server.http.server_port
    monkeypatch.setattr(socket, "create_connection", lambda _, *more, **kinds: made(("127.0.0.1", port), *more, **kinds))
    environment(VLAUDIT_API_KEY=KEY)
    ask(f"http://{address}:{port}")
    assert server.keys == [None]


@pytest.mark.parametrize(
    ("resolved", "key"),
    [
        (["127.0.0.1"], f"Bearer {KEY}"),
        (["127.0.0.1", "203.0.113.7"], None),
        (["203.0.113.7"], None),
        (["::ffff:127.0.0.1"], f"Bearer {KEY}"),
    ],
)
def test_a_name_is_what_it_stands_for(
    resolved: list[str], key: str | None, server: Server, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``localhost.evil.example`` is not this machine because of its name; and a name that is one now and another machine a
    moment later gets the key at the address that was looked at, or not at all."""
    port, made = server.http.server_port, socket.create_connection
    asked: list[str] = []

    def connect(place: tuple[str, int], *more: object, **kinds: object) -> socket.socket:
        asked.append(place[0])
        return made(("127.0.0.1", port))

    monkeypatch.setattr(socket, "getaddrinfo", _only_for("localhost.evil.example", resolved))
    monkeypatch.setattr(socket, "create_connection", connect)
    environment(VLAUDIT_API_KEY=KEY)
    ask(f"http://localhost.evil.example:{port}")
    assert server.keys == [key]
    assert [ipaddress.ip_address(a) for a in asked] == [ipaddress.ip_address(a) for a in resolved] if key else (
        asked == ["localhost.evil.example"]
    )


def _only_for(name: str, addresses: list[str]) -> Callable[..., list[tuple[object, ...]]]:
    true = socket.getaddrinfo

    def look_up(host: str, *more: object, **kinds: object) -> list[tuple[object, ...]]:
        if host != name:
            return true(host, *more, **kinds)  # type: ignore[arg-type, return-value]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]

    return look_up


def test_proxies_see_no_key(recorder: Recorder, environment: Callable[..., None]) -> None:
    login = recorder.url.replace("//", "//ada:pass%20word@")
    environment(HTTP_PROXY=login, HTTPS_PROXY=recorder.url)
    with pytest.raises(ModelError, match="403"):
        ask("http://model.invalid")
    with pytest.raises(ModelError, match="403"):
        ask("https://model.invalid")
    (plain, tunnel) = recorder.seen
    assert plain[:2] == ("POST", "http://model.invalid/v1/chat/completions") and "Basic YWRhOnBhc3Mgd29yZA==" in plain[2]
    assert tunnel[:2] == ("CONNECT", "model.invalid:443")
    assert KEY not in str(recorder.seen) and "Authorization: Bearer" not in str(recorder.seen)
    environment(NO_PROXY="model.invalid")
    with pytest.raises(ModelError, match="gives no answer"):
        ask("http://model.invalid")
    assert len(recorder.seen) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_named_and_not_followed(
    status: int, server: Server, model: EndpointModel, recorder: Recorder, environment: Callable[..., None]
) -> None:
    environment()
    head = f"HTTP/1.1 {status} On\r\nLocation: {recorder.url}/{KEY}\r\nContent-Length: 0\r\n\r\n"
    server.script = [raw(head.encode())]
    with pytest.raises(ModelError, match=f"'{recorder.url}/.redacted.', which is not followed"):
        model.generate([talk()])
    assert not recorder.seen and len(server.requests) == 1
