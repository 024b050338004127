"""Secrets of the environment, struck out of whatever is stored or shown.

A server knows the key that it was sent, and may repeat it in an answer or an error. Reports are passed on, so what leaves this
process goes through :func:`redact`: files and artefacts, the journal, messages and the terminal. A server that wants to
spread a key can always write it in a form of its own; the usual ones are found.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from functools import lru_cache
from urllib.parse import quote

SHORTEST = 8  # characters: shorter values are words, and no secrets
STRUCK = "[redacted]"

_NAMES = re.compile(r"OPENAI_API_KEY|HF_TOKEN|HUGGING_FACE_HUB_TOKEN|HUGGINGFACE_TOKEN|VLAUDIT_\w*(?:KEY|TOKEN)")
_GAP = r"(?:[\s\u00ad\u200b-\u200d\ufeff]|\\[nrt])*"  # what wraps a line, also within JSON
_NUMBER = re.compile(r"[\d.eE+-]+")
_taken: dict[str, str] = {}  # variables that have left the environment


def take(name: str) -> str:
    """Take a variable out of the environment and return its value, which is struck out all the same if it is a secret."""
    _taken[name] = os.environ.pop(name)
    return _taken[name]


def redact(text: str) -> str:
    """The text with the value of every secret struck out: in any case, broken over lines, and as URLs, JSON, HTML, base64 and
    hexadecimal write it. One that looks like a number becomes a number, so that JSON stays JSON."""
    found = {places[name].strip() for places in (_taken, os.environ) for name in list(places) if _NAMES.fullmatch(name)}
    pattern = _pattern(tuple(sorted(found)))
    return text if pattern is None else pattern.sub(_struck, text)


def _struck(found: re.Match[str]) -> str:
    return "1" * len(found[0]) if _NUMBER.fullmatch(found[0]) else STRUCK


@lru_cache(maxsize=8)
def _pattern(values: tuple[str, ...]) -> re.Pattern[str] | None:
    forms = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
    parts = [
        (r"(?<![\w.]){}(?![\w.])" if _NUMBER.fullmatch(form) else "{}").format(_GAP.join(map(re.escape, form)))
        for form in sorted(forms, key=len, reverse=True)
    ]
    return re.compile("|".join(parts), re.IGNORECASE) if parts else None


def _forms(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogateescape")
    quoted = {quote(raw), quote(raw, safe=""), html.escape(value), raw.hex()}
    forms = {value, *quoted, *(json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))}
    for before in range(3):  # within a longer text, base64 has three forms; its ends depend on the neighbours
        whole = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = whole[-(-8 * before // 6) :][: (8 * len(raw) - (-8 * before) % 6) // 6]
        forms |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return {form for form in forms if len(form) >= SHORTEST}
