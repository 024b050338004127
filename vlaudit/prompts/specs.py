"""Prompt SPECs, as written on the command line: text with ``{`` is a template, otherwise ``method:ARGUMENT``.

ARGUMENT is a file or folder, or ``key=value,…``. What a bare template is depends on the family that is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from vlaudit.errors import UsageError, did_you_mean
from vlaudit.families.base import HARD, Prompt
from vlaudit.files import user_path, walk
from vlaudit.plugins import plugin, plugins
from vlaudit.records import Family

MOST_FILES = 100_000  # below the folder of a prompt


def parse_prompt(spec: str | None, family: Family) -> Prompt:
    """The prompt that a SPEC names for models of a family; None is the plain prompt. Raises UsageError."""
    hard, plain = HARD[family]
    if spec is None:
        spec = plain
    method, colon, argument = spec.partition(":")
    if "{" in spec and not (method in plugins("prompts") and "{" not in method):
        return plugin("prompts", hard).parse(spec)
    if not colon:
        raise UsageError(
            f"'{spec}' is not a prompt.",
            f"Write a template such as '{plain}', or METHOD:FILE with {', '.join(plugins('prompts'))}.",
        )
    prompt_class: type[Prompt] = plugin("prompts", method)  # raises with a did-you-mean
    if prompt_class.family is not family:
        known = [name for name in plugins("prompts") if plugin("prompts", name).family is family]
        raise UsageError(
            f"'{method}' prompts are for {prompt_class.family.value} models, and the target is {family.value}.",
            f"Prompts for it: {', '.join(known)}.",
        )
    return prompt_class.parse(argument)


def parse_options(argument: str, method: str, known: Sequence[str]) -> dict[str, str]:
    """``key=value,…`` with the ``known`` keys; an argument that does not begin with ``key=`` is the ``file``. A comma
    that no ``key=`` follows belongs to the value. Raises UsageError."""
    if not re.match(r"\s*[\w-]+\s*=", argument):
        return {"file": argument}
    pairs = [part.partition("=") for part in re.split(r",(?=\s*[\w-]+\s*=)", argument)]
    for key, equals, _ in pairs:
        if not equals or key.strip() not in known:
            raise UsageError(f"The prompt '{method}' cannot take '{key}'.", did_you_mean(key.strip(), list(known)))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _files_at(path: Path) -> list[Path]:
    """The file, or those of the folder; none where there is neither. Raises UsageError for a folder of too many."""
    if not os.path.isdir(path):
        return [path] if os.path.isfile(path) else []
    found = list(islice(filter(os.path.isfile, walk(path)), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise UsageError(f"The folder '{path}' of a prompt holds more than {MOST_FILES:,} files.", "Name its own folder.")
    return sorted(found)


def prompt_files(specs: Iterable[str]) -> list[Path]:
    """The files that prompt SPECs name, alone, in a folder, or as a ``key=value``."""
    found: list[Path] = []
    for spec in specs:
        method, _, argument = spec.partition(":")
        if "{" in method or method not in plugins("prompts"):
            continue
        for word in [argument, *(part.partition("=")[2] for part in argument.split(",") if "=" in part)]:
            found += _files_at(user_path(word)) if word else []
    return list(dict.fromkeys(found))
