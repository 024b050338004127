"""Hostile text through every registered reporter: nothing breaks, nothing runs, nothing steers a reader.

Each form is read by an independent reader that is chosen by the ending of its file, so that a new reporter is tested too. Captions,
labels, prompts, names of targets and files, reasons and suppressions may hold anything.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.reports.browsing import Visit
from tests.reports.conftest import check_sarif, poisoned
from vlaudit.plugins import plugin, plugins
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Place, Report, Suppression

EVIL = "evil.example"
ATTACKS = {
    "script": f"</script></style></title></textarea><script>alert(1)</script><img src=//{EVIL}/x onerror=alert(1)>",
    "attribute": "\" onfocus=alert(1) autofocus tabindex=0 x='` style='position:fixed;inset:0'",
    "svg": "</text></svg></a><svg onload=alert(1)><a href='javascript:alert(1)'>x</a><iframe srcdoc='<script>alert(1)</script>'>",
    "cdata": "]]><failure message='x'/></testcase><!-- --><?php x ?>&xxe;<![CDATA[",
    "template": "{{7*7}}{% raw %}${7*7}#{7*7}<%= 7*7 %>{0}{1:x}%s%n\\",
    "ansi": "\x1b[31mred\x1b[2J\x1b[1;1H\x1b]0;owned\x07\x9b2J\x90q\x9c\x1bc\x08\x08\x08\x7f\r\x0b\x0c\x85\x00",
    "link escape": f"\x1b]8;;https://{EVIL}\x1b\\click\x1b]8;;\x1b\\",
    "bidi": "\u202eevil\u2066\u2067x\u2069\u200f\u061c\u2028line\u2029paragraph",
    "unencodable": "\ud800\udfff\ufffe\uffff\ufeff",
    "markup": f"[bold red]mark[/bold red][link=https://{EVIL}]up[/link]",
    "markdown": f"*b* **b** ~~s~~ `c` ``` [x](https://{EVIL}) ![x](https://{EVIL}/x.png) <https://{EVIL}> [r]: https://{EVIL}",
    "blocks": f"\n\n# heading\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- item\n\n1. item\n\n> quote\n\n```\ncode\n\n---\n[r]: https://{EVIL}\n\n",
    "cells": "| x | y |\n| z |\r\n|\t|",
    "bare link": f"https://{EVIL}/a www.{EVIL} mail@{EVIL} ftp://{EVIL} @everyone #1 GH-1 </details></summary><details>",
    "yaml": "\n---\nlicense: evil\n...\n'\": [evil, {evil: 1}]\n\tevil: !!python/object/apply:os.system [evil] #",
    "workflow": "\n::error::evil\n::stop-commands::evil\n ::set-output name=x::y\n##[error]evil\n##vso[task.complete]evil",
}  # fmt: skip
HARMLESS = "plain words"
SHAPES: dict[tuple[str, str], Counter[str]] = {}  # of reports with harmless text: by reporter and text
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
COMMANDS = re.compile(r"^\s*::|##\[|##vso", re.MULTILINE)  # what CI servers obey in a log
PAGES = [name for name in plugins("reporters") if plugin("reporters", name)().extension.endswith("html")]


def rendered(name: str, report: Report, audit_dir: Path) -> str:
    text = plugin("reporters", name)().render(report, audit_dir)
    assert not STEERING.search(text), "no character may steer a terminal or reorder a line"
    text.encode()
    return text


def attacked(report: Report, audit_dir: Path, text: str) -> Report:
    """The report with ``text`` behind every string and in the files of its evidence, some findings suppressed. The paths of the
    pictures stay, so that they are shown under the hostile captions."""
    store, (first, second, *others) = ArtifactStore(audit_dir), report.findings
    raw = text.encode("utf-8", "surrogatepass")
    bars = {"labels": ["a" + text], "values": [1.0], "xlabel": "x" + text, "ylabel": "y" + text, "title": "t" + text}
    table = {"columns": ["c" + text], "rows": [["r" + text]], "title": "t" + text}
    series = json.dumps({"bars": bars, "table": table}).encode()
    said = store.put(b"it says " + raw, "txt", "text", "answer | a")
    more = store.put(b"it said " + raw, "txt", "text", "answer | b")
    plot = store.put(series, "json", "plot-data", "plot")
    kept = Suppression(reason="no text in it", owner="ada", expires="2027-03-01", ticket="SEC-42")
    first = first.model_copy(update={"evidence": [*first.evidence, said, more, plot]})
    second = second.model_copy(update={"suppressed": kept, "change": "unchanged"})
    target = report.targets[1].model_copy(
        update={"declared": Place(file="a/vlaudit.toml", line=3), "scorer": "s", "wordings": ["a drawing of a judge"]}
    )
    audit = report.audit.model_copy(update={"baseline": "b", "only_new": True, "complete": False})
    whole = report.model_copy(
        update={"findings": [first, second, *others], "targets": [report.targets[0], target], "audit": audit}
    )
    made = poisoned(whole, text, kept=frozenset({"path", "sha256", "references"}))
    address = f"https://example.org/{text}"  # whether it is one depends on the text; test_html.py has it
    findings = [f.model_copy(update={"references": [r for r in f.references if r != address]}) for f in made.findings]
    return made.model_copy(update={"findings": findings})


@pytest.fixture(params=list(ATTACKS))
def attack(request: pytest.FixtureRequest) -> str:
    return ATTACKS[request.param]


@pytest.mark.parametrize("name", list(plugins("reporters")))
def test_hostile_text_stays_text(name: str, attack: str, report: Report, audit_dir: Path) -> None:
    extension = plugin("reporters", name)().extension
    read = next((reader for ending, reader in READERS.items() if extension.endswith(ending)), None)
    assert read is not None, f"add an independent reader of .{extension} to this test"
    harmless = HARMLESS + " | more words" * (" | " in attack)  # which parts the heading from the caption
    harmless += "\n" * attack.count("\n") * (name == "html")  # where long texts fold
    if (name, harmless) not in SHAPES:
        SHAPES[name, harmless] = read(rendered(name, attacked(report, audit_dir, harmless), audit_dir))
    hostile = read(rendered(name, attacked(report, audit_dir, attack), audit_dir))
    assert hostile == SHAPES[name, harmless], "the shape of a report must not depend on its strings"


# --- independent readers: each returns the shape, and fails on what must not be there -------------------------------


def read_json(text: str) -> Counter[str]:
    found: Counter[str] = Counter()

    def walk(value: Any, depth: int) -> None:
        found[f"{depth} {type(value).__name__}"] += 1
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item, depth + 1)

    walk(json.loads(text), 0)
    return found


def read_json_lines(text: str) -> Counter[str]:
    return sum((read_json(line) for line in text.splitlines()), Counter())


def read_sarif(text: str) -> Counter[str]:
    """A message of SARIF may embed links, ``[text](target)``: ours have none."""
    check_sarif(text)
    assert "](" not in text
    return read_json(text)


def read_xml(text: str) -> Counter[str]:
    from junitparser import JUnitXml

    suites = JUnitXml.fromstring(text.encode())
    assert suites.tests == sum(1 for suite in suites for _ in suite)
    return Counter(element.tag for element in ElementTree.fromstring(text.encode()).iter())


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.shape: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = " ".join(sorted(name for name, _ in attrs if name != "open"))
        assert not re.search(r"\bon\w+", names) and EVIL not in (dict(attrs).get("href") or "")
        if tag not in ("mark",):  # words that differ between two texts
            self.shape[f"{tag} {names}"] += 1


def read_html(text: str) -> Counter[str]:
    return Tags(text).shape


def read_markdown(text: str) -> Counter[str]:
    """As GitHub shows it: tables, bare links, raw HTML."""
    shape: Counter[str] = Counter()
    if text.startswith("---\n"):  # a model card's metadata
        header, text = text[4:].split("\n---\n", 1)
        shape = read_json(json.dumps(yaml.safe_load(header), default=str))
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": True}).parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    for token in (*tokens, *inline):
        if token.type in ("html_block", "html_inline"):
            assert set(re.findall(r"<(/?[a-z]\w*[^>]*)>", token.content, re.IGNORECASE)) <= OUR_HTML, token.content
        assert EVIL not in str(token.attrs) and token.type != "image"
        assert token.type != "text" or not re.search("[@#].", token.content), (
            "a comment keeps names and numbers from linking"
        )
        if not token.type.startswith(("text", "html_inline", "code_inline", "softbreak", "link")):
            shape[token.type] += 1
    return shape


OUR_HTML = {"details", "/details", "summary", "/summary", "br"}


def read_terminal(text: str) -> Counter[str]:
    assert max(map(len, text.splitlines())) <= 100
    assert not COMMANDS.search(text), "no command to a CI server that reads the log"
    return Counter(line for line in text.splitlines() if line.isupper())


READERS: dict[str, Callable[[str], Counter[str]]] = {
    "html": read_html,
    "sarif": read_sarif,
    "jsonl": read_json_lines,
    "json": read_json,
    "xml": read_xml,
    "md": read_markdown,
    "txt": read_terminal,
}
"""By the ending of a reporter's extension."""


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("guarded", [True, False], ids=["with its policy", "without its policy"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_run_nothing(name: str, guarded: bool, report: Report, audit_dir: Path, browser: Any) -> None:
    """All attacks in one page. Escaping alone suffices: nothing runs with the page's security policy off either."""
    everything = " ".join(ATTACKS.values())
    file = audit_dir / "page.html"
    file.write_text(rendered(name, attacked(report, audit_dir, everything), audit_dir), encoding="utf-8")
    scripts = rendered(name, report, audit_dir).count("<script")
    opened = Visit(browser, file, bypass_csp=not guarded)
    try:
        opened.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        opened.page.evaluate("document.querySelectorAll('[autofocus]').forEach((d) => d.focus())")
        assert opened.page.evaluate("document.scripts.length") == scripts
        assert (
            opened.page.evaluate("document.querySelectorAll('iframe, object, embed, [autofocus], [style]').length") == 0
        )
        assert opened.page.evaluate(f"[...document.links].every((a) => !a.href.includes('{EVIL}'))")
        assert "7*7" in opened.page.content() and "49" not in opened.page.evaluate("document.title")
        opened.assert_silent()
    finally:
        opened.context.close()
