"""A model behind the OpenAI-compatible chat API: ``openai:BASE_URL#MODEL``. Black box: answers, and their log
probabilities where the server gives them.

The key comes from ``VLAUDIT_API_KEY`` or ``OPENAI_API_KEY``, and never travels over plain HTTP to another machine. The
client waits and asks again after 408, 409, 429, 5xx and lost connections; what is still wrong then is an error, never an
answer.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vlaudit.backends.base import Backend
from vlaudit.errors import ModelError, UsageError, first_line
from vlaudit.families.generation import MAX_NEW_TOKENS, Answer, Conversation, GenerationModel, clean
from vlaudit.probe import Needs
from vlaudit.records import Family

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

TIMEOUT = 120.0  # seconds a request
RETRIES = 4
PARALLEL = 4  # requests under way
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class EndpointModel(GenerationModel):
    """A model on a server. Pictures are sent whole, as PNG: the server resizes them as it likes."""

    fusion = "unknown"
    capabilities = frozenset({Needs.ANSWERS})
    context_length = 1_000_000  # the server's to refuse
    embedding_width = 0

    def __init__(self, base_url: str, name: str, device: torch.device) -> None:
        self.spec, self.sha256, self.files, self.device = f"openai:{base_url}#{name}", "", [], device
        self._base_url, self._name = base_url, name
        self._client: tuple[int, Any] | None = None
        self._settings: dict[str, Any] = {"temperature": 0}
        self._limit = "max_tokens"

    def preprocess(self, picture: Image) -> Tensor:
        from torchvision.transforms.functional import to_tensor

        return to_tensor(picture)

    def generate(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = MAX_NEW_TOKENS, log_probs: bool = False
    ) -> list[Answer]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(lambda talk: self._answer(talk, max_new_tokens, log_probs), conversations))

    def _answer(self, talk: Conversation, count: int, log_probs: bool) -> Answer:
        if talk.prefix is not None:
            raise UsageError(f"'{self.spec}' takes no learned prompt.", "Use a prompt of text, or load the model here.")
        completion = self._ask(messages(talk), count, log_probs)
        choices = getattr(completion, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        content = getattr(message, "content", "")
        if message is None or not isinstance(content, str | None):
            seen = completion if isinstance(completion, str) else type(completion).__name__
            what = "an HTML page" if seen.lstrip()[:1] == "<" else "no chat completion"
            raise ModelError(
                f"'{self.spec}' answered with {what}.", "Is its address right? It usually ends with /v1, without /chat."
            )
        text = content or getattr(message, "refusal", None) or ""
        given = getattr(getattr(choice, "logprobs", None), "content", None) if log_probs else None
        score = float(sum(token.logprob for token in given)) if given else None
        return Answer(clean(text, count), getattr(choice, "finish_reason", None) != "length", score)

    def _ask(self, said: list[dict[str, Any]], count: int, log_probs: bool) -> Any:
        """The server's completion. Parameters that it says it doesn't know are left out from then on."""
        import openai

        more = {"logprobs": True} if log_probs else {}
        for _ in range(3):
            try:
                return self._connected().chat.completions.create(
                    model=self._name, messages=said, **self._settings, **more, **{self._limit: count}
                )
            except openai.BadRequestError as error:
                complaint = str(error)
                if "max_completion_tokens" in complaint and self._limit == "max_tokens":
                    self._limit = "max_completion_tokens"
                elif "temperature" in complaint and self._settings:
                    self._settings = {}
                elif "logprobs" in complaint and more:
                    more = {}
                else:
                    raise ModelError(f"'{self.spec}' refuses the request: {first_line(error)}.") from error
            except openai.AuthenticationError as error:
                raise ModelError(
                    f"'{self.spec}' refuses the key.",
                    "Set VLAUDIT_API_KEY or OPENAI_API_KEY; over plain HTTP keys are sent to this machine alone.",
                ) from error
            except openai.NotFoundError as error:
                raise ModelError(
                    f"'{self.spec}' does not know the model or has no chat API there.",
                    "Check the address (it usually ends with /v1) and the name after '#'.",
                ) from error
            except openai.APITimeoutError as error:
                raise ModelError(f"'{self.spec}' did not answer within {TIMEOUT:g} s.", "Try again later.") from error
            except (
                openai.OpenAIError,
                ValueError,
                TypeError,
                AttributeError,
            ) as error:  # ValueError: JSON that is none
                raise ModelError(
                    f"'{self.spec}' gives no answer: {first_line(error)}.", "Check its address, or try again later."
                ) from error
        raise ModelError(f"'{self.spec}' refuses every form of the request.")

    def _connected(self) -> Any:
        """This process's client: connections do not survive a fork."""
        import openai

        if self._client is None or self._client[0] != os.getpid():
            address = urlsplit(self._base_url)
            private = address.scheme == "https" or address.hostname in LOOPBACK
            key = os.environ.get("VLAUDIT_API_KEY") or os.environ.get("OPENAI_API_KEY")
            client = openai.OpenAI(
                base_url=self._base_url,
                api_key=key if key and private else "none",
                timeout=TIMEOUT,
                max_retries=RETRIES,
            )
            self._client = (os.getpid(), client)
        return self._client[1]


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

    def load(self, argument: str, device: torch.device) -> EndpointModel:
        base_url, name = _parse(argument)
        try:
            import openai  # noqa: F401 (is it installed?)
        except ImportError as error:
            raise ModelError(
                "A model behind an API needs the package 'openai'.", "pip install 'vlaudit[openai]'."
            ) from error
        return EndpointModel(base_url, name, device)


def _parse(argument: str) -> tuple[str, str]:
    base_url, mark, name = argument.partition("#")
    try:
        address = urlsplit(base_url)
        good = address.scheme in {"http", "https"} and bool(address.hostname) and address.username is None
        _ = address.port
    except ValueError:
        good = False
    if not good or not mark or not name:
        raise UsageError(
            f"'openai:{argument}' does not name an API and its model.",
            "Write openai:BASE_URL#MODEL, such as openai:http://localhost:8000/v1#Qwen2-VL-2B; keys stay in the environment.",
        )
    return base_url.rstrip("/"), name
