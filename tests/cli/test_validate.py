"""validate: everything that is misspelt is refused, at once, with the name that was meant; what is right passes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from vlaudit.cli import validate
from vlaudit.registry import ProbeRegistry

CONFIG = """
[scan]
effort = "standard"
budget = "30m"
seed = 3
device = "cpu"
dtype = "bf16"
batch_size = 8
probe = ["clip-autoattack", "typographic"]
skip = ["rank-skew"]

[[target]]
model = "zoo:tiny-clean"
prompt = ["a photo of a {}"]
reference = "{}"
data = "zoo:kinds"
groups = ["gender"]
scorer = "zoo:clean"

[probes.group-performance]
pictures = 300

[policy]
level = 0.95
alpha = 0.05
unread = 0.01
fail_on = "high"
strict = true
gate = "holm"

[policy.thresholds]
cropa = 0.2

[policy.severity]
backdoor = "critical"
unsafe-file = "high"
privacy = "medium"
"""
POLICY = CONFIG.partition("[policy]\n")[2].replace("[policy.", "[")
IGNORE = """
[[ignore]]
probe = "typographic"
target = "tiny-clean~*"
reason = "it is"
owner = "somebody"
expires = {day}
ticket = "SEC-42"
"""
FREE = {"30m", "gender", "it is", "somebody", "SEC-42", "tiny-clean~*", "a photo of a {}", "{}"}  # texts that may be any
GOOD = {"cpu": "cuda:N"}  # said of what is no device
FILES = {"vlaudit.toml": CONFIG, "policy.toml": POLICY, ".vlaudit-ignore.toml": IGNORE}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProbeRegistry, "load", cache(ProbeRegistry.load))


def content(name: str) -> str:
    from datetime import UTC, datetime, timedelta

    return FILES[name].replace("{day}", f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%d}")


def words(text: str) -> list[tuple[int, str]]:
    """Every key and name that means something, with its place."""
    found = []
    for match in re.finditer(r"[A-Za-z][\w-]+(?:/[\w-]+)?", text):
        quoted = re.search(r'"([^"\n]*)$', text[: match.start()][text[: match.start()].rfind("\n") + 1 :])
        inside = quoted and text[: match.start()][text[: match.start()].rfind("\n") :].count('"') % 2
        whole = text[match.start() - len(quoted[1]) : text.index('"', match.start())] if inside and quoted else match[0]
        if whole not in FREE and match[0] not in ("zoo", "true"):
            found.append((match.start(), match[0]))
    return found


def misspelt(word: str, rng: random.Random) -> str:
    at, letter = rng.randrange(len(word)), rng.choice("abcdefghijklmnopqrstuvwxyz")
    return rng.choice([word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :],
                       word[:at] + word[at : at + 2][::-1] + word[at + 2 :]])  # fmt: skip


@pytest.mark.parametrize("name", list(FILES))
def test_two_hundred_misspellings_are_refused_with_what_was_meant(name: str, tmp_path: Path) -> None:
    path, text, rng = tmp_path / name, content(name), random.Random(name)
    path.write_text(text)
    assert validate._wrong_with(path) == []
    known = {word for _, word in words(text)} | set(ProbeRegistry.load().classes)
    tried = 0
    while tried < 200:
        at, word = rng.choice(words(text))
        wrong = misspelt(word, rng)
        if wrong in known or not wrong:
            continue
        tried += 1
        path.write_text(text[:at] + wrong + text[at + len(word) :])
        said = "\n".join(map(str, validate._wrong_with(path)))
        assert re.search(rf"Did you mean [^?]*'[\w.]*{re.escape(GOOD.get(word, word))}'|{re.escape(GOOD.get(word, '!'))}", said), (word, wrong, said)


def test_all_that_is_wrong_is_listed_and_scan_says_how_much(
    tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vlaudit.toml").write_text(
        '[scan]\nefort = "quick"\nprobe = ["MR44"]\n[[target]]\nmodel = "zoo:tiny-clen"\nprompt = ["copo:x", "coop:no.safetensors", "plain"]\n'
        '[[target]]\nmodl = "x"\n[[target]]\nmodel = "hf:./nowhere"\ndata = "nowhere"\nlabels = "no.txt"\n'
        '[probes.rank-skew]\npictres = 3\npictures = "many"\n[policy.thresholds]\nclip-autoattak = 0.3\n'
    )
    assert vlaudit("validate") == 2
    shown = capsys.readouterr()
    for said in ("'scan.efort'", "'MR44'", "'tiny-clen'", "'copo'", "'no.safetensors' of the prompt", "'plain' is not a prompt", "'target[2].modl'",
                 "nowhere' does not exist", "data folder", "no.txt' of labels", "no parameter 'pictres'", "cannot take 'pictures'", "'clip-autoattak'"):  # fmt: skip
        assert said in shown.out, said
    assert re.search(r"1[34] things are wrong", shown.err)
    assert vlaudit("scan") == 2
    assert "'target[2].modl'" in (said := capsys.readouterr().err) and "2 more things are wrong; `vlaudit validate" in said


def test_a_misspelt_command_is_told(vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("scn") == 2
    assert "Did you mean 'scan'?" in capsys.readouterr().err
