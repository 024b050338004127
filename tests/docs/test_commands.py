"""Every `vlaudit` command that the documentation shows is one that the command line takes: no stale flag, probe or format.
TOML that it shows is what vlaudit reads."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click
import pytest
from markdown_it import MarkdownIt

from vlaudit.cli import cli
from vlaudit.cli.render import reporter_names
from vlaudit.config import Config
from vlaudit.errors import UsageError
from vlaudit.plugins import plugins
from vlaudit.registry import ProbeRegistry
from vlaudit.suppressions import Entry
from vlaudit.zoo import get

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REGISTRY = ProbeRegistry.load()
OTHERS_PROBES = {"mirrored"}  # of the plugin that CONTRIBUTING.md shows


def parts(page: Path) -> Iterator[tuple[str, str]]:
    """The code of a page: (language, text) of each block, and ("inline", text) of each span."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info.strip(), token.content
        yield from (("inline", child.content) for child in token.children or () if child.type == "code_inline")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `vlaudit` command of a shell script, up to a pipe, a redirection or the next command."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"(^|\s)#\s.*", "", line), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, ""  # a # within a word is part of it
        words = list(lexer)
        while "vlaudit" in words:
            words = words[words.index("vlaudit") + 1 :]
            end = next((i for i, word in enumerate(words) if word and set(word) <= set("|&;<>")), len(words))
            if end:  # else it prints the help, or what a shell needs to complete it
                yield words[:end]
            words = words[end:]


def shown() -> Iterator[tuple[str, list[str], bool]]:
    """Page, words, and whether the command only stands in a sentence."""
    for page in PAGES:
        for kind, code in parts(page):
            if kind in ("", "text", "console"):  # what a screen shows: commands and what they print
                code = "\n".join(line for line in code.splitlines() if re.match(r"(\$ )?vlaudit [a-z]", line))
            if kind in ("", "text", "console", "bash") or code.startswith("vlaudit "):
                yield from ((page.name, words, kind == "inline") for words in commands(code))


def accept(words: list[str], mentioned: bool = False) -> None:
    """Parse a command as the command line would, and look up what it names. Raises click's or vlaudit's usage errors."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, *words = words or [""]
        found = command.get_command(context, name)
        assert found is not None, f"there is no command '{name}'"
        context, command = click.Context(found, parent=context, info_name=name), found
    with patch.object(
        click.Path, "convert", lambda _self, value, *_: Path(value)
    ):  # the reader's own files are not here
        try:
            given = command.make_context(context.info_name, list(words), parent=context.parent).params
        except (click.MissingParameter, click.BadOptionUsage) as error:
            if mentioned and ("requires an argument" in error.format_message() or not words):
                return  # in a sentence, a command's or an option's name may stand alone
            raise
    selectors = {*given.get("probes", ()), *given.get("skip", ())} - OTHERS_PROBES
    REGISTRY.select(selectors)
    for formats in (given.get("formats"), given.get("format")):
        if isinstance(formats, str):
            reporter_names(re.sub(r"\|.*", "", formats))
    for target in given.get("targets", ()):
        kind, _, rest = target.partition(":")
        if kind == "zoo" and rest != "NAME":
            get(rest)
        elif kind != "zoo" and ":" in target:
            assert kind in plugins("backends"), f"there is no backend '{kind}'"
    for prompt in given.get("prompts", ()):
        assert "{" in prompt or prompt.isupper() or prompt.partition(":")[0] in plugins("prompts"), prompt
    if context.info_name == "explain" and not given["name"].isupper():
        known = {*REGISTRY.classes, *plugins("prompts"), *plugins("backends"), *plugins("reporters"), *OTHERS_PROBES}
        assert given["name"] in known or get(given["name"])


SHOWN = list(shown())


@pytest.mark.parametrize(
    "page, words, mentioned", SHOWN, ids=[f"{page}: {shlex.join(words)}"[:80] for page, words, _ in SHOWN]
)
def test_commands_that_pages_show_are_taken(page: str, words: list[str], mentioned: bool) -> None:
    accept(words, mentioned)


@pytest.mark.parametrize(
    "stale",
    ["scan zoo:clean --probes MR1", "scan zoo:no-such", "scan --probe no-such-probe", "scan --effort fast", "scan oops:x",
     "report audit --format pdf", "scan --prompt coopt:file", "zoo make x", "explain no-such-thing"],
)  # fmt: skip
def test_stale_commands_are_not(stale: str) -> None:
    with pytest.raises((click.UsageError, UsageError, AssertionError)):
        accept(shlex.split(stale))


def test_commands_are_found() -> None:
    assert len(SHOWN) > 60
    script = (
        'vlaudit scan "a b" \\\n    --out x || code=$?  # vlaudit is said here\nA=1 vlaudit list probes x#y | head -1'
    )
    assert list(commands(script)) == [["scan", "a b", "--out", "x"], ["list", "probes", "x#y"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_that_pages_show_is_read(page: Path) -> None:
    for text in (code for kind, code in parts(page) if kind == "toml"):
        table = tomllib.loads(text)
        if "ignore" in table:
            assert [Entry.model_validate(entry) for entry in table["ignore"]]
        else:
            Config.model_validate(table)
