"""A model behind the OpenAI-compatible chat API: ``openai:BASE_URL#MODEL``. Black box: answers, and their log
probabilities where the server gives them.

The key comes from ``VLAUDIT_API_KEY`` or ``OPENAI_API_KEY``, and never travels over plain HTTP to another machine. A request is
sent again after 408, 409, 429, 5xx and lost connections; what is still wrong then is an error, never an answer. A request that
a content filter refuses is one answer that cannot be read. ``openai:BASE_URL#MODEL?reasoning_tokens=2000`` gives a model that
thinks before it answers so many tokens for that.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vlaudit.backends.base import Backend
from vlaudit.backends.openai_requests import NoReply, Reply, post
from vlaudit.cage import network
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, UsageError, VlauditWarning
from vlaudit.families.generation import MAX_NEW_TOKENS, OPEN_THOUGHT, SPENT, Answer, Conversation, GenerationModel
from vlaudit.records import Family, Needs
from vlaudit.reporting import log_line

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

TIMEOUT = 120.0  # seconds a request, all in all; a question has twice as long, with its repetitions and the waits between them
THOUGHT = 0.1  # seconds more for each token that the model may think
RETRIES = 4
PARALLEL = 4  # requests under way
PARAMETERS = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),  # without it, its newer name is sent
    "temperature": ("temperature",),
    "logprobs": ("logprobs",),
}
"""What some servers refuse, and the words that say so."""

FILTERED = "a content filter refused it"
CALLED = "it called a tool instead of answering"
NONE = "the server sent no choice"
ODD = "its content is no text"
_FILTER = re.compile(
    r"content.?filter|content.{0,12}(polic|risk)|content violates|responsible.?ai|data.?inspection|moderation|flagged|guardrail|blocklist"
    r"|prohibited.?content|sensitive.?(content|information|words?)|(usage|safety) (guideline|polic|system|filter)|high risk|recitation|spii"
    r"|\bsafety\b(?!_)|image_safety|不安全|敏感|风险",
    re.IGNORECASE,
)
"""What servers call a request or an answer that a filter of theirs stopped: in a refusal, or as the reason why an answer ended."""


class EndpointModel(GenerationModel):
    """A model on a server. Pictures are sent whole, as PNG: the server resizes them as it likes."""

    fusion = "unknown"
    capabilities = frozenset({Needs.ANSWERS})
    context_length = 1_000_000  # the server's to refuse
    embedding_width = 0
    more_tokens = "Give it tokens for its thoughts: openai:BASE_URL#MODEL?reasoning_tokens=2000."

    def __init__(self, argument: str, device: torch.device) -> None:
        self.spec, self.sha256, self.files, self.device = f"openai:{argument}", "", [], device
        base_url, self._name, self._reasoning_tokens = _parse(argument)
        self._url = f"{base_url}/chat/completions"
        network.permit(self._url)
        self._refused = frozenset[str]()  # parameters that the server does not take
        self._lock = threading.Lock()

    def preprocess(self, picture: Image) -> Tensor:
        from torchvision.transforms.functional import to_tensor

        return to_tensor(picture)

    def generate(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = MAX_NEW_TOKENS, log_probs: bool = False
    ) -> list[Answer]:
        stop = threading.Event()
        with ThreadPoolExecutor(PARALLEL) as pool:
            asked = [pool.submit(self._answer, talk, max_new_tokens, log_probs, stop) for talk in conversations]
            try:
                for answered in as_completed(asked):
                    answered.result()  # the first error in time
            finally:
                stop.set()  # after an error or Ctrl-C, no other request is begun or waited for
                pool.shutdown(wait=False, cancel_futures=True)
        return [answered.result() for answered in asked]

    def _answer(self, talk: Conversation, count: int, log_probs: bool, stop: threading.Event) -> Answer:
        if talk.prefix is not None:
            raise UsageError(f"'{self.spec}' takes no learned prompt.", "Use a prompt of text, or load the model here.")
        said, longest, retries = messages(talk), TIMEOUT + THOUGHT * self._reasoning_tokens, 0
        deadline = time.monotonic() + 2 * longest
        while True:
            asked = {"model": self._name, "messages": said} | self._parameters(count, log_probs)
            try:
                seconds = max(0.0, min(longest, deadline - time.monotonic()))
                reply = post(self._url, json.dumps(asked).encode(), _key(), seconds, stop)
            except NoReply as error:
                problem = ModelError(f"'{self.spec}' {log_line(error.message, 300)}.", error.cure)
                again, asked_for = error.again, None
            else:
                data = _parsed(reply.body)
                status = reply.status if reply.status >= 300 else _status_within(data)
                if status < 300:
                    return self._read(data, count, log_probs)
                if status >= 400 and _FILTER.search(_complaint(data)):
                    return Answer("", unread=FILTERED)
                if status in (400, 422) and self._learn(PARAMETERS.keys() & asked, _complaint(data)):
                    continue
                problem = self._problem(status, reply, data)
                again, asked_for = status in (408, 409, 429) or status >= 500, _retry_after(reply.headers)
            if not again or retries >= RETRIES or stop.is_set():
                raise problem
            wait = min(8.0, 0.5 * 2**retries) if asked_for is None else asked_for
            if wait > deadline - time.monotonic():
                more = "" if asked_for is None else f"; it asks for a wait of {asked_for:,.0f} s"
                raise ModelError(f"{problem.message.rstrip('.')}{more}.", problem.cure)
            stop.wait(wait)
            retries += 1

    def _parameters(self, count: int, log_probs: bool) -> dict[str, Any]:
        """What is asked for besides the conversation, as far as the server takes it."""
        refused = self._refused
        limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
        more = {"temperature": 0} | ({"logprobs": True} if log_probs else {})
        return {limit: count + self._reasoning_tokens} | {k: v for k, v in more.items() if k not in refused}

    def _learn(self, sent: set[str], complaint: str) -> bool:
        """Note which of the parameters that a request had sent its refusal names. True where the request would be another now;
        several requests may learn the same at once."""
        complaint = complaint.lower()
        named = {name for name in sent if any(word in complaint for word in PARAMETERS[name])}
        with self._lock:
            if "temperature" in named - self._refused:
                warnings.warn(
                    VlauditWarning(f"'{self.spec}' takes no temperature of 0: its answers may differ from run to run."),
                    stacklevel=2,
                )
            self._refused |= named
            return bool(self._refused & sent)

    def _read(self, data: Any, count: int, log_probs: bool) -> Answer:
        answer = read_completion(data, count, log_probs)
        if answer is None:
            what = "an HTML page" if isinstance(data, str) and data.lstrip()[:1] == "<" else "no chat completion"
            raise ModelError(
                f"'{self.spec}' answered with {what}.", "Is its address right? It usually ends with /v1, without /chat."
            )
        return answer

    def _problem(self, status: int, reply: Reply, data: Any) -> ModelError:
        """The sentence for a refusal, with the server's own words."""
        words = log_line(_message(data), 300).rstrip(".")
        said = f": {words}" if words else ""
        if status < 400:
            place = log_line(reply.headers.get("Location") or "nowhere", 200)
            return ModelError(
                f"'{self.spec}' sends its callers on to '{place}', which is not followed.",
                "Name that address if you trust it.",
            )
        if status == 401:
            return ModelError(
                f"'{self.spec}' refuses the key{said}.",
                "Set VLAUDIT_API_KEY or OPENAI_API_KEY; over plain HTTP keys are sent to this machine alone.",
            )
        if status == 404:
            return ModelError(
                f"'{self.spec}' does not know the model or has no chat API there{said}.",
                "Check the address (it usually ends with /v1) and the name after '#'.",
            )
        if status >= 500 or status in (408, 409, 429):
            return ModelError(f"'{self.spec}' gives no answer: status {status}{said}.", "Try again later.")
        return ModelError(f"'{self.spec}' refuses the request (status {status}){said}.")


# --- what servers send ------------------------------------------------------------------------------------------------


def read_completion(data: Any, max_new_tokens: int, log_probs: bool = False) -> Answer | None:
    """The answer in a completion, as JSON; None where there is no completion in it."""
    if not isinstance(data, dict) or not isinstance(data.get("choices"), list):
        return None
    choice = _first_choice(data)
    message = choice.get("message") or choice.get("delta")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    finish = str(choice.get("finish_reason")).lower()
    finished = finish not in ("length", "max_tokens")
    if _FILTER.search(finish) or (not choice and _filtered(data.get("prompt_filter_results"))):
        return Answer("", unread=FILTERED)
    if not choice:
        return Answer("", unread=NONE)
    content = message.get("content")
    said = _text(content)
    if said is None:
        return Answer("", finished, unread=ODD)
    said = said if said.strip() else _text([{"text": message.get("refusal")}]) or ""
    if said.strip():
        return Answer.read(said, max_new_tokens, finished, _log_prob(choice) if log_probs else None)
    thought = content or any(message.get(name) for name in ("reasoning_content", "reasoning", "reasoning_details", "thinking"))
    called = message.get("tool_calls") or message.get("function_call")
    return Answer("", finished, unread=SPENT if not finished else OPEN_THOUGHT if thought else CALLED if called else "")


def _filtered(results: Any) -> bool:
    """Whether one of a server's filters says that it stopped the request."""
    return '"filtered": true' in json.dumps(results)


def _parsed(body: bytes) -> Any:
    """The JSON value of a body, or its text where it is none."""
    text = body.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON; nested without end
        return _streamed(text) or text
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _streamed(text: str) -> dict[str, Any] | None:
    """The completion in a stream of events, which some servers send unasked: its pieces joined, or the error that ends it."""
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    tokens: list[Any] = []
    for line in text.splitlines():
        field, _, content = line.partition(":")
        if field != "data" or content.strip() == "[DONE]":
            continue
        try:
            event = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(event, dict) or event.get("error"):
            return event if isinstance(event, dict) else None
        whole.setdefault("choices", [])
        piece = _first_choice(event)
        if piece.get("index") not in (None, 0):
            continue
        delta = piece.get("delta") or piece.get("message") or {"content": piece.get("text")}
        choice["message"] = message
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if isinstance(value, str | list) and value:
                message[name] = message[name] + value if type(message.get(name)) is type(value) else value
        choice["finish_reason"] = piece.get("finish_reason") or choice.get("finish_reason")
        given = piece.get("logprobs")
        tokens += given["content"] if isinstance(given, dict) and isinstance(given.get("content"), list) else []
    if choice:
        whole["choices"] = [choice | ({"logprobs": {"content": tokens}} if tokens else {})]
    return whole or None


def _first_choice(data: Any) -> dict[str, Any]:
    choices = data.get("choices") if isinstance(data, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _text(content: Any) -> str | None:
    """The text of a message's content: its parts joined, those left out that are thoughts or no text. None for what is no
    content."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    parts = [{"text": part} if isinstance(part, str) else part for part in content]
    spoken = [part for part in parts if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text", "refusal")]
    texts = [part.get("refusal" if part.get("type") == "refusal" else "text") for part in spoken]
    texts = [text.get("value") if isinstance(text, dict) else text for text in texts]
    return "".join(text for text in texts if isinstance(text, str))


def _log_prob(choice: dict[str, Any]) -> float | None:
    """The sum over an answer's tokens; None where it is not given, or some are no log probabilities."""
    given = choice.get("logprobs")
    tokens = given.get("content") if isinstance(given, dict) else None
    values = [token.get("logprob") if isinstance(token, dict) else None for token in tokens] if isinstance(tokens, list) else []
    fit = [float(value) for value in values if isinstance(value, int | float) and -1e6 < value < 1e-3]  # NaN is not
    return sum(fit) if fit and len(fit) == len(values) else None


def _faults(data: Any) -> list[dict[str, Any]]:
    """What a body says went wrong: OpenAI's ``error``, FastAPI's ``detail``, or a bare ``message``."""
    if not isinstance(data, dict):
        return [{"message": data}] if isinstance(data, str) and data.lstrip()[:1] != "<" else []
    found = [data.get("error"), _first_choice(data).get("error"), data.get("detail"), data.get("message")]
    each = [item for entry in found for item in (entry if isinstance(entry, list) else [entry]) if item]
    return [item if isinstance(item, dict) else {"message": item} for item in each]


def _message(data: Any) -> str:
    """The server's own words."""
    said = [fault.get("message") or fault.get("msg") or fault.get("code") for fault in _faults(data)]
    return "; ".join(text for text in said if isinstance(text, str))


def _complaint(data: Any) -> str:
    """The same with the codes and the names of fields."""
    words: list[Any] = []
    for fault in _faults(data):
        inner, place = fault.get("innererror"), fault.get("loc")
        words += [fault.get(name) for name in ("message", "msg", "code", "type", "param", "status", "error")]
        words += [inner.get("code")] if isinstance(inner, dict) else []
        words += place if isinstance(place, list) else []
    return " ".join(word for word in words if isinstance(word, str))


def _status_within(data: Any) -> int:
    """The status that a body tells where the server's own is 200: that of its ``error``, as gateways send it."""
    if isinstance(data, dict) and (error := data.get("error") or _first_choice(data).get("error")):
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, int) and 400 <= code < 600 else 400
    return 200


def _retry_after(headers: Message) -> float | None:
    """Seconds that the server asks to wait, if it does."""
    asked = headers.get("Retry-After") or ""
    for text, unit in ((headers.get("Retry-After-Ms") or "", 1000), (asked, 1)):
        try:
            return max(0.0, float(text) / unit)
        except ValueError:
            pass
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def messages(talk: Conversation) -> list[dict[str, Any]]:
    """A conversation in the API's form, pictures as data URIs."""
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": data_uri(part)}}
                for part in turn.parts
            ]
            if any(not isinstance(part, str) for part in turn.parts)
            else "\n".join(str(part) for part in turn.parts),
        }
        for turn in talk.turns
    ]


def data_uri(picture: Tensor) -> str:
    """A picture (3, H, W) in [0, 1] as PNG in a data URI."""
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(picture.detach().clamp(0, 1).mul(255).round().byte().cpu()).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


class OpenAIBackend(Backend):
    """``openai:…``"""

    def is_remote(self, argument: str) -> bool:
        return True

    def family(self, argument: str) -> Family:
        _parse(argument)
        return Family.GENERATION

    def files(self, argument: str) -> list[Path]:
        return []

    def load(self, argument: str, device: torch.device, how: Loading = PLAIN) -> EndpointModel:
        _key()
        return EndpointModel(argument, device)


def _key() -> str:
    """The key for the server, or nothing. Raises UsageError for one that no header can carry."""
    key = (os.environ.get("VLAUDIT_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UsageError("The API key holds characters that keys do not have.", "Set VLAUDIT_API_KEY or OPENAI_API_KEY anew.")
    return key


def _parse(argument: str) -> tuple[str, str, int]:
    """The address, the model's name, and the tokens that it may think."""
    base_url, _, rest = argument.partition("#")
    name, options, option = rest.partition("?")
    tokens = re.fullmatch(r"reasoning_tokens=(\d{1,6})" if options else r"(0?)", option)
    try:
        address = urlsplit(base_url)
        good = address.scheme in {"http", "https"} and bool(address.hostname) and "@" not in address.netloc
        _ = address.port
    except ValueError:
        good = False
    if not good or not name or tokens is None or not re.fullmatch(r"[!-~]+", base_url) or re.search(r"[?\\]", base_url):
        shown = argument if not re.search("[@?]", argument) else "…"  # what looks like a login or a key is not repeated
        raise UsageError(
            f"'openai:{shown}' does not name an API and its model.",
            "Write openai:BASE_URL#MODEL, such as openai:http://localhost:8000/v1#Qwen2-VL-2B, with no login or query in the "
            "address; keys stay in the environment.",
        )
    return base_url.rstrip("/"), name, int(tokens[1] or 0)
