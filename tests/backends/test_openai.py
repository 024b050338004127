"""Models behind the chat API, against a real server: what it answers, and every way in which it can fail to."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess
import sys
import time
import warnings
from base64 import b64encode
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Barrier, Event
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import generators
from tests.backends.conftest import Reply, Server, body, completion, echo, send, status, talk
from tests.patience import patience
from vlaudit.backends import openai_requests
from vlaudit.backends.openai import EndpointModel, OpenAIBackend
from vlaudit.backends.transformers_reader import noise
from vlaudit.errors import CapabilityError, ModelError, UsageError, VlauditWarning
from vlaudit.families.generation import Conversation, LearnedPrefix, Turn
from vlaudit.probe import Needs
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.soft import PromptTuning
from vlaudit.records import Family
from vlaudit.reporting import log_line


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
    """The first request has two seconds, the next ones all the time that they need."""
    times, over = iter((2.0,)), Event()

    def impatient(url: str, payload: bytes, key: str | None, seconds: float, stop: Event) -> openai_requests.Reply:
        return openai_requests.post(url, payload, key, next(times, seconds), stop)

    monkeypatch.setattr("vlaudit.backends.openai.post", impatient)
    server.script = [lambda handler, _: over.wait(60)]
    assert model.generate([talk()]) == ["1 100 what is this ?"] and len(server.requests) == 2, "asked again"
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    times = iter((2.0,))
    server.script = [lambda handler, _: over.wait(60)]
    with pytest.raises(ModelError, match="did not answer within 2 s"):
        model.generate([talk()])
    over.set()


def test_the_time_of_the_socket_is_told_as_that_of_who_waits(server: Server) -> None:
    over = Event()
    server.script = [lambda handler, _: over.wait(60)]
    exchange = openai_requests._Exchange(urlsplit(f"{server.url}/chat/completions"), b"{}", None, 0.5)
    exchange.run()
    over.set()
    assert isinstance(exchange.outcome, openai_requests.NoReply) and exchange.outcome.again
    assert exchange.outcome.message == "did not answer within 0.5 s"


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


def test_several_requests_learn_the_same_at_once(server: Server, model: EndpointModel) -> None:
    """All are sent before the first is refused: each is judged by what it had sent itself."""
    together = Barrier(4)

    def strict(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        if "max_tokens" in request:
            together.wait(5)
            status(400, "send 'max_completion_tokens'")(handler, request)
        elif "temperature" in request:
            detail = [{"loc": ["body", "temperature"], "msg": "has to be above 0", "type": "value_error", "input": request}]
            send(handler, 422, json.dumps({"detail": detail}))
        elif "logprobs" in request:
            send(handler, 400, json.dumps({"error": {"message": "no such thing", "param": "logprobs"}}))
        else:
            echo(handler, request)

    server.script = [strict] * 100
    with pytest.warns(VlauditWarning, match="no temperature of 0"):
        answers = model.generate([talk()] * 8, log_probs=True)
    assert answers == ["1 100 what is this ?"] * 8 and {a.log_prob for a in answers} == {None}
    assert len(server.requests) <= 8 + 4 * 3
    count = len(server.requests)
    model.generate([talk()])
    assert len(server.requests) == count + 1, "what was learned is kept"


def test_a_complaint_that_does_not_end_is_an_error(server: Server, model: EndpointModel) -> None:
    words = "max_tokens, max_completion_tokens, temperature and logprobs are wrong"
    server.script = [status(400, words)] * 20
    with pytest.warns(VlauditWarning), pytest.raises(ModelError, match=f"refuses the request .status 400.: {words}"):
        model.generate([talk()])
    assert len(server.requests) == 2
    server.script = [lambda handler, _: send(handler, 422, json.dumps({"detail": "the picture is too large"}))]
    with pytest.raises(ModelError, match="too large"):
        model.generate([talk()])


@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "no", "code": "content_filter"}}),
        (403, {"error": {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
        (400, {"error": "Your input was flagged."}),
        (200, {"error": {"message": "blocked by the content management policy", "code": 400}}),
        (200, completion("half an ans", "content_filter")),
        (200, completion(None, "content_filter: SAFETY")),
    ],
)
def test_what_a_content_filter_refuses_is_one_unreadable_answer(
    refusal: tuple[int, Any], server: Server, model: EndpointModel
) -> None:
    server.script = [echo, lambda handler, _: send(handler, refusal[0], json.dumps(refusal[1])), echo]
    answers = sorted(model.generate([talk()] * 3))
    assert answers == ["", "1 100 what is this ?", "1 100 what is this ?"]
    assert answers[0].shown == "(nothing: a content filter refused it)" and len(server.requests) == 3


@pytest.mark.parametrize("wait", ["1000000000", "1e300", "inf", "Tue, 01 Jan 2199 00:00:00 GMT", "9" * 400])
def test_a_wait_beyond_the_deadline_is_not_waited_for(wait: str, server: Server, model: EndpointModel) -> None:
    def later(handler: BaseHTTPRequestHandler, _: object) -> None:
        handler.send_response(429)
        handler.send_header("retry-after", wait)
        handler.send_header("content-length", "0")
        handler.end_headers()

    server.script = [later] * 20
    then = time.monotonic()
    with pytest.raises(ModelError, match="status 429; it asks for a wait of"):
        model.generate([talk()])
    assert time.monotonic() - then < patience(5) and len(server.requests) == 1


@pytest.mark.parametrize("wait", ["0", "0.01", "-5", "nan", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", ""])
def test_short_and_senseless_waits(
    wait: str, server: Server, model: EndpointModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 1)

    def later(handler: BaseHTTPRequestHandler, _: object) -> None:
        handler.send_response(503)
        handler.send_header("retry-after", wait)
        handler.send_header("content-length", "0")
        handler.end_headers()

    server.script = [later]
    assert model.generate([talk()]) == ["1 100 what is this ?"]


@pytest.mark.parametrize(
    ("message", "finish", "said", "why"),
    [
        ({"content": "<think>A dog? No.</think>\n\ncat"}, "stop", "cat", ""),
        ({"content": "<think>\nOkay, is it a dog? Let me"}, "length", "", "it thought, and reached no answer"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a dog?"}]}, {"type": "text", "text": "cat"}]}, "stop", "cat", ""),
        ({"content": [{"type": "text", "text": "a c"}, "at", {"type": "image_url"}, {"type": "output_text", "text": "!"}]}, "stop", "a cat!", ""),
        ({"content": [{"type": "refusal", "refusal": "I can't."}]}, "stop", "I can't.", ""),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, "stop", "", "it thought, and reached no answer"),
        ({"content": None, "reasoning_content": "hm"}, "length", "", "all its tokens went into reasoning"),
        ({"content": "", "reasoning": "hm"}, "length", "", "all its tokens went into reasoning"),
        ({"content": " ", "reasoning": "hm"}, "stop", "", "it thought, and reached no answer"),
        ({"content": None, "tool_calls": [{"function": {"name": "look"}}]}, "tool_calls", "", "it called a tool instead of answering"),
        ({"refusal": "I can't."}, "stop", "I can't.", ""),
        ({}, "stop", "", ""),
        ({"content": "half \ud83d"}, "stop", "half \N{REPLACEMENT CHARACTER}", ""),
    ],
)  # fmt: skip
def test_usual_forms_of_answers(
    message: dict[str, Any], finish: str, said: str, why: str, server: Server, model: EndpointModel
) -> None:
    server.script = [body(json.dumps({"choices": [{"message": message, "finish_reason": finish}]}))]
    (answer,) = model.generate([talk()])
    assert (answer, answer.unread, answer.finished) == (said, why, finish != "length")


def test_the_error_in_a_good_reply_is_told_in_the_servers_words(server: Server, model: EndpointModel) -> None:
    failed = {"error": {"message": "The provider says:\nimage too large", "code": 413}}
    server.script = [body(json.dumps(failed)), body(json.dumps({"choices": [failed]})), body('{"error": "no luck"}')]
    for words in ("says: image too large", "says: image too large", "no luck"):
        with pytest.raises(ModelError, match=words):
            model.generate([talk()])
    server.script = [body('{"error": {"message": "busy", "code": 429}}')]
    assert model.generate([talk()]) == ["1 100 what is this ?"], "asked again, as after a status of 429"


def test_tokens_spent_on_reasoning_are_said_and_can_be_raised(
    server: Server, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def thinks(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        enough = request["max_tokens"] >= 500
        message = {"reasoning_content": "hm"} if enough else {"content": None, "reasoning_content": "hm"}
        send(handler, 200, json.dumps(completion("cat", "stop" if enough else "length", message=message)))

    server.script = [thinks] * 10_000
    flags = ["--data", picture_folder, "--probe", "prompt-invariance"]
    assert vlaudit("scan", f"openai:{server.url}#m", *flags, "--out", tmp_path / "short") == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "all its tokens went into reasoning" in said and "?reasoning_tokens=2000" in said
    spec = f"openai:{server.url}#m?reasoning_tokens=500"
    assert vlaudit("scan", spec, *flags, "--dry-run") == 0
    assert server.requests[-1]["max_tokens"] > 500 and server.requests[-1]["model"] == "m"


def test_log_probabilities_that_are_none(server: Server, model: EndpointModel) -> None:
    tokens = [[{"logprob": -1}, {"logprob": v}] for v in ("-1", None, [], float("nan"), -float("inf"), 10**400, 3.5)]
    for entries in ([], "no", [1], None, *tokens):
        server.script = [body(json.dumps(completion("cat", logprobs={"content": entries})))]
        (answer,) = model.generate([talk()], log_probs=True)
        assert answer == "cat" and answer.log_prob is None
    server.script = [body(json.dumps(completion("<think>a</think>cat", logprobs={"content": [{"logprob": -1}]})))]
    assert model.generate([talk()], log_probs=True)[0].log_prob is None, "that of the thought is not the answer's"


NAMES = st.sampled_from(["choices", "message", "content", "text", "type", "error", "detail", "code", "finish_reason", "logprobs", "logprob",
                         "reasoning", "refusal", "tool_calls", "loc", "msg", "innererror", "param", "length", "content_filter"])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | NAMES
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), v, max_size=5), max_leaves=25)  # fmt: skip
MESSAGES = st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "reasoning", "refusal", "tool_calls"), VALUES))
CHOICES = st.fixed_dictionaries({"message": MESSAGES}, optional=dict.fromkeys(("finish_reason", "logprobs", "error"), VALUES))
BODIES = VALUES | st.fixed_dictionaries({"choices": st.lists(CHOICES, min_size=1, max_size=2)}, optional={"error": VALUES})


@given(BODIES, st.sampled_from([200, 204, 301, 400, 401, 403, 404, 422, 429, 500]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_json_is_an_answer_or_one_error(value: Any, status: int, log_probs: bool) -> None:
    model = OpenAIBackend().load("http://127.0.0.1:9/v1#m", torch.device("cpu"))
    reply = openai_requests.Reply(status, Message(), json.dumps(value).encode())
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", VlauditWarning)
        patch.setattr("vlaudit.backends.openai.post", lambda *_: reply)
        patch.setattr("vlaudit.backends.openai.RETRIES", 0)
        try:
            (answer,) = model.generate([Conversation((Turn("user", ("what is this ?",)),))], log_probs=log_probs)
        except ModelError as error:
            assert log_line(str(error), 1_000) == str(error)
        else:
            assert len(answer.encode(errors="strict").decode()) <= 64 * 32
            assert answer.log_prob is None or answer.log_prob < 1


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
    monkeypatch.setenv("VLAUDIT_API_KEY", "two\nlines")
    with pytest.raises(UsageError, match="characters") as caught:
        key_of(server.url)
    assert "lines" not in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "#m",
        "http://host/v1",
        "http://host/v1#",
        "file:///etc/passwd#m",
        "http://me:key@host#m",
        "http://key@host#m",
        "http://host/v1?api_key=key#m",
        "http://host/v1#m?api_key=key",
        "http://127.0.0.1\\@host/v1#m",
        "http://host/a key/v1#m",
        "http://host:port/#m",
        "http://[::1/v1#m",
        "http://host/v1#m?reasoning_tokens=many",
    ],
)
def test_addresses_that_are_none(argument: str) -> None:
    with pytest.raises(UsageError, match="does not name an API") as caught:
        OpenAIBackend().family(argument)
    assert "key" not in caught.value.message or "a key" in argument, "what may be a key is not repeated"


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


KEY = "key-made-up/for+this&test-0123456789"


@pytest.mark.parametrize("way", ["answer", "long answer", "wrapped", "escaped", "base64", "parts", "403", "headers", "redirect", "status", "names"])
def test_a_key_that_a_server_repeats_is_stored_and_shown_nowhere(
    way: str, server: Server, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("VLAUDIT_API_KEY", KEY)
    monkeypatch.setenv("VLAUDIT_OTHER_TOKEN", "words-of-old")  # which the command line names

    def repeats(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        key = str(handler.headers["authorization"]).removeprefix("Bearer ")
        assert key == KEY
        wrapped = "\n".join(key[i : i + 5] for i in range(0, len(key), 5))
        answers = {
            "answer": completion(f"A cat. Your key is {key}."), "wrapped": completion(f"It is {wrapped}"),
            "long answer": completion("x" * 1010 + key), "base64": completion(b64encode(f"a:{key}".encode()).decode()),
            "parts": completion([{"type": "text", "text": part} for part in (key[:9], key[9:])]),  # type: ignore[arg-type]
            "names": completion("cat", finish=key, logprobs={key: key}) | {"model": key, "id": key, key: key},
        }  # fmt: skip
        if way in answers:
            send(handler, 200, json.dumps(answers[way]))
        elif way == "escaped":
            whole = json.dumps(completion("KEY"))
            send(handler, 200, whole.replace("KEY", "".join(f"\\u{ord(c):04x}" for c in key)))
        elif way == "status":
            handler.wfile.write(f"{key} 200 OK\r\n\r\n".encode())
        else:
            handler.send_response(*{"403": (403,), "headers": (429, key), "redirect": (307, key)}[way])
            handler.send_header("retry-after", key if way == "headers" else "0")
            handler.send_header("location", f"https://evil.example/{key}")
            handler.send_header("content-type", key)
            handler.end_headers()
            handler.wfile.write(json.dumps({"error": {"message": f"{'y' * 250}{key} has no access"}}).encode())

    monkeypatch.setattr("vlaudit.backends.openai.RETRIES", 0)
    server.script = [repeats] * 10_000
    flags = ["--data", picture_folder, "--probe", "GR2", "--probe", "GR4", "--prompt", "Say words-of-old. {}", "--debug"]
    formats = "html,markdown,junit,sarif,cyclonedx,model-card,avid"
    code = vlaudit("scan", f"openai:{server.url}#m", *flags, "--format", formats, "--out", tmp_path / "out")
    vlaudit("report", tmp_path / "out", "--format", "json")
    assert code in ((0, 1, 3) if way in {"answer", "long answer", "wrapped", "escaped", "base64", "parts", "names"} else (4,))
    written = {p.name: p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file() and p.suffix != ".png"}
    assert len(written) >= 8 and "[redacted]" in written["manifest.json"]
    assert way == "names" or sum("[redacted]" in text for text in written.values()) > 1, "it was there to be struck out"
    said = capfd.readouterr()
    for name, text in {**written, "terminal": said.out + said.err}.items():
        flat = re.sub(r"[^A-Za-z0-9]|\\\\n", "", text)
        for form in (KEY, "words-of-old", quote(KEY, safe=""), html.escape(KEY), "keymadeup", "made-up/for", "Zm9yK3RoaXM", b64encode(KEY.encode()).decode()[4:40]):
            assert form not in text and form not in flat, (name, form)


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


def test_the_official_client_asks_the_same(server: Server, model: EndpointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import openai

    from vlaudit.backends.openai import messages

    monkeypatch.setenv("VLAUDIT_API_KEY", "a-key-of-tests")
    model.generate([talk()], max_new_tokens=8, log_probs=True)
    openai.OpenAI(base_url=server.url, api_key="a-key-of-tests", max_retries=0).chat.completions.create(
        model="m", messages=messages(talk()), max_tokens=8, temperature=0, logprobs=True
    )  # type: ignore[arg-type]
    ours, theirs = server.requests
    assert ours == theirs
    assert server.keys[0] == server.keys[1]


def choice(**fields: Any) -> Reply:
    return body(json.dumps({"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", **fields}]}))


@pytest.mark.parametrize("reply, answer, unread", [
    (body('{"choices": []}'), "", "no choice"),
    (body('{"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": true}}}]}'), "", "filter"),
    (choice(finish_reason="content_filter: PROHIBITED_CONTENT"), "", "filter"),
    (choice(finish_reason="SAFETY", message={"role": "assistant"}), "", "filter"),
    (choice(finish_reason="recitation", message=None), "", "filter"),
    (choice(finish_reason="content_filter", message={"content": "half an ans"}), "", "filter"),
    (choice(message={"content": 7}), "", "no text"),
    (choice(message=None), "", ""),
    (choice(text="dog"), "dog", ""),
    (choice(message={"content": {"type": "text", "text": "dog"}}), "dog", ""),
    (choice(message={"content": [{"type": "text", "text": {"value": "dog"}}]}), "dog", ""),
    (choice(message={"content": [{"type": "thinking", "thinking": [{"text": "cat"}]}, {"type": "text", "text": "dog"}]}), "dog", ""),
    (choice(message={"content": "", "reasoning_details": [{"text": "cat"}]}), "", "thought"),
    (choice(message={"content": "analysiscat or dog?assistantfinaldog"}), "dog", ""),
    (choice(message={"content": "<scratchpad>cat</scratchpad>dog"}), "dog", ""),
    (choice(message={"content": None, "tool_calls": [{"id": "1"}]}), "", "tool"),
])  # fmt: skip
def test_odd_answers_are_outcomes_of_their_case_alone(
    reply: Reply, answer: str, unread: str, server: Server, model: EndpointModel
) -> None:
    server.script = [reply]
    (got,) = model.generate([talk()])
    assert got == answer and unread in got.unread and bool(unread) <= bool(got.unread)
    assert model.generate([talk()]) == ["1 100 what is this ?"]


@pytest.mark.parametrize("code, content", [
    (400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}),
    (400, {"error": {"code": "1301", "message": "\u7cfb\u7edf\u68c0\u6d4b\u5230\u4e0d\u5b89\u5168\u6216\u654f\u611f\u5185\u5bb9"}}),
    (400, {"error": {"code": "SensitiveContentDetected", "message": "The request failed"}}),
    (403, {"error": {"message": "Content violates usage guidelines."}}),
    (400, {"error": {"message": "The request was rejected because it was considered high risk"}}),
    (400, [{"error": {"code": 400, "message": "blocked", "status": "PROHIBITED_CONTENT"}}]),
    (400, {"error": {"message": "Your request was rejected by our safety system"}}),
    (400, {"detail": {"error": "blocked by guardrails"}}),
    (200, {"error": {"code": 403, "message": "Input was flagged", "metadata": {"reasons": ["violence"]}}}),
])  # fmt: skip
def test_what_a_filter_refuses_is_unread_by_many_names(code: int, content: Any, server: Server, model: EndpointModel) -> None:
    server.script = [lambda handler, _: send(handler, code, json.dumps(content))]
    (got,) = model.generate([talk()])
    assert got == "" and "filter" in got.unread and len(server.requests) == 1


def test_a_complaint_of_parameters_is_not_taken_for_a_filter(server: Server, model: EndpointModel) -> None:
    server.script = [status(400, "Unknown field safety_settings")]
    with pytest.raises(ModelError, match="safety_settings"):
        model.generate([talk()])
    server.script = [status(400, "Temperature must be 1 for this model"), echo]
    with pytest.warns(VlauditWarning, match="no temperature"):
        assert model.generate([talk()]) == ["1 100 what is this ?"]
    assert "temperature" not in server.requests[-1]


def test_servers_that_stream_anyway_are_read(server: Server, model: EndpointModel) -> None:
    pieces = [{"role": "assistant", "reasoning_content": "a c"}, {"reasoning_content": "at?"}, {"content": "a "}, {"content": "dog"}, {}]
    events = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
    events[-1]["choices"][0]["finish_reason"] = "length"
    events += [{"choices": [], "usage": {}}]
    text = ": comment\n\n" + "".join(f"event: x\ndata: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    server.script = [body(text, "text/event-stream")]
    (got,) = model.generate([talk()])
    assert got == "a dog" and not got.finished
    server.script = [body(f'data: {json.dumps({"error": {"code": 400, "message": "content_filter"}})}\n\n', "text/event-stream")]
    assert "filter" in model.generate([talk()])[0].unread
    server.script = [body("data: {broken\n\n", "text/event-stream")]
    with pytest.raises(ModelError, match="no chat completion"):
        model.generate([talk()])


def test_many_requests_at_once_learn_a_refusal_once(server: Server, model: EndpointModel) -> None:
    def picky(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        for name, cure in (("max_tokens", "Use 'max_completion_tokens' instead."), ("temperature", "Only the default (1) is supported.")):
            if name in request:
                send(handler, 400, json.dumps({"error": {"message": f"Unsupported parameter: '{name}'. {cure}", "param": name}}))
                return
        echo(handler, request)

    server.script = [picky] * 200
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = model.generate([talk(10 * n, f"q {n}") for n in range(20)])
    assert answers == [f"1 {10 * n} q {n}" for n in range(20)]
    assert sum("no temperature" in str(warning.message) for warning in caught) == 1
    assert len(server.requests) <= 20 + 2 * 4 and all("max_completion_tokens" in sent for sent in server.requests[-12:])
