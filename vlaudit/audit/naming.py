"""Ids of targets: readable, safe in file names, and different for what is different, in any order."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


def target_id(model: str, prompt: str) -> str:
    """A readable id, safe in file names: the model's last part and the prompt."""
    return f"{word(last_part(model))}~{word(prompt)}"


def last_part(model: str) -> str:
    """What a model spec ends with, as people call it; a folder named by dots alone is called by its own name."""
    last = model.rstrip("/").rpartition("/")[2] if "/" in model.rstrip("/") else model.rstrip("/").rpartition(":")[2]
    return os.path.basename(os.path.abspath(model.partition(":")[2])) if last in (".", "..") else last


def word(text: str) -> str:
    """A text as one word of an id: letters and digits of any script, composed."""
    return re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", text)).strip("-")[:48] or "plain"


def alike(text: str) -> str:
    """Equal for what would be one word of an id to a reader, or to a disk that knows no case."""
    return word(text).casefold()


def endings(named: Mapping[K, tuple[str, Sequence[str], str]]) -> dict[K, str]:
    """What to put behind the name of each thing, from its name, the steps of its path, and a text: nothing, or for those of
    one name the nearest step that tells all apart, else as few as do, else a digest of the text."""
    found = dict.fromkeys(named, "")
    for group in grouped(list(named), lambda key: alike(named[key][0])).values():
        if len(group) == 1:
            continue
        rows = [named[key][1][::-1] for key in group]
        columns = [[word(row[i]) if i < len(row) else "" for row in rows] for i in range(max(map(len, rows)))]
        chosen = [column for column in columns if _kinds(column) == len(group)][:1]
        for column in columns if not chosen else ():
            if _kinds(*chosen, column) > _kinds(*chosen):
                chosen.append(column)
        told = ["-".join(step for step in told_by[::-1] if step) for told_by in zip(*chosen, strict=True)] or [""] * len(group)
        folded, texts = [step.casefold() for step in told], [named[key][2] for key in group]
        for key, step, text in zip(group, told, texts, strict=True):
            same = folded.count(step.casefold()) > 1
            more = digest(text if texts.count(text) == 1 else f"{text} {'/'.join(named[key][1])}") if same else ""
            found[key] = "".join(f"-{part}" for part in (step, more) if part)
    return found


def _kinds(*columns: Sequence[str]) -> int:
    """How many rows of these columns differ by more than case."""
    return len({tuple(map(str.casefold, row)) for row in zip(*columns, strict=True)}) or 1


def steps(path: str) -> list[str]:
    """The folders of a path or spec, the outermost first; those of a path on this disk from its root."""
    start, colon, end = path.rpartition(":")
    if end and os.path.exists(end):
        path = start + colon + os.path.abspath(end)
    return re.split(r"[:/\\]+", path.rstrip("/"))


def digest(text: str) -> str:
    """Six letters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def grouped(things: Iterable[K], key: Callable[[K], str]) -> dict[str, list[K]]:
    """Things by a key, in their order."""
    found: dict[str, list[K]] = {}
    for thing in things:
        found.setdefault(key(thing), []).append(thing)
    return found
