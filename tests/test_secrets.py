"""What is struck out of texts, and what is not."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.audit.journal import Journal, UnitResult
from vlaudit.errors import ModelError
from vlaudit.files import write_atomically
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Cost, Trial
from vlaudit.reporting import clean, log_line
from vlaudit.secrets import STRUCK, redact

KEY = 'sk-made/up+"key"&0123456789'


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAUDIT_API_KEY", KEY)


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY.upper(),
        quote(KEY),
        quote_plus(KEY),
        html.escape(KEY),
        json.dumps(KEY)[1:-1],
        KEY.encode().hex(),
        "\n  ".join(KEY),
        json.dumps("\r\n".join(KEY[i : i + 8] for i in range(0, len(KEY), 8)))[1:-1],
    ],
)
def test_every_usual_form_is_struck_out(form: str) -> None:
    assert redact(f"it is {form}!") == f"it is {STRUCK}!"


@given(st.text(max_size=9), st.text(max_size=9), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_of_a_text_around_it(before: str, after: str, encode: object) -> None:
    whole = encode((before + KEY + after).encode("utf-8", "replace")).decode()  # type: ignore[operator]
    left = redact(whole).replace(STRUCK, "")
    assert len(whole) - len(left) >= len(KEY) and STRUCK in redact(whole)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLAUDIT_JUDGE_KEY", "VLAUDIT_X_TOKEN"])
def test_whose_values_are_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, " another-secret\n")
    assert redact(f"another-secret and {KEY}") == f"{STRUCK} and {STRUCK}"
    monkeypatch.setenv(name, "EMPTY")
    assert redact("EMPTY") == "EMPTY", "short values are words"
    monkeypatch.delenv(name)
    assert redact("another-secret") == "another-secret"


def test_json_stays_json_with_a_key_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAUDIT_API_KEY", "12345678")
    value = {"a": 12345678, "b": [1.12345678, 0.012345678123], "c": "it is 12345678", "d": -12345678}
    struck = json.loads(redact(json.dumps(value)))
    assert struck["a"] == 11111111 and struck["b"] == value["b"] and "12345678" not in struck["c"]


def test_all_ways_out(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", json.dumps({"a": KEY}))
    store = ArtifactStore(tmp_path)
    store.put_text(f"A: {KEY}", "x")
    store.put_json({"a": [KEY]}, "x")
    trial = Trial(case=KEY, arm="target", values={KEY: [KEY]}, cost=Cost())
    Journal(tmp_path).append(UnitResult(unit="u", trials=[trial], error=f"It says {KEY}"))
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert STRUCK in path.read_text() and "0123456789" not in path.read_text()
    error = ModelError(f"It says {KEY}.", f"Take back {KEY}.")
    cut = log_line("x" * 290 + KEY, 300), log_line(" " * 1190 + KEY, 300)
    for text in (str(error), error.message, error.cure, repr(error), clean(KEY), log_line(KEY), *cut):
        assert "sk-made" not in text
