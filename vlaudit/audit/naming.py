"""Ids of targets: readable, safe in file names, and different for what is different, in any order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


def target_id(model: str, prompt: str) -> str:
    """A readable id, safe in file names: the model's last part and the prompt."""
    return f"{word(last_part(model))}~{word(prompt)}"


def last_part(model: str) -> str:
    """What a model spec ends with, as people call it."""
    return model.rstrip("/").rpartition("/")[2] if "/" in model else model.rpartition(":")[2]


def word(text: str) -> str:
    """A text as one word of an id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:48] or "plain"


def endings(named: Mapping[K, tuple[str, Sequence[str], str]]) -> dict[K, str]:
    """What to put behind the name of each thing, from its name, the steps of its path, and a text: nothing, or for those of
    one name the nearest step that tells all apart, else as few as do, else a digest of the text."""
    found = dict.fromkeys(named, "")
    for alike in grouped(list(named), lambda key: named[key][0]).values():
        if len(alike) == 1:
            continue
        rows = {key: named[key][1][::-1] for key in alike}
        columns = [[row[i] if i < len(row) else "" for row in rows.values()] for i in range(max(map(len, rows.values())))]
        chosen = [column for column in columns if len(set(column)) == len(alike)][:1]
        for column in columns if not chosen else ():
            if len(set(zip(*chosen, column, strict=True))) > len(set(zip(*chosen, strict=True)) or {()}):
                chosen.append(column)
        told = ["-".join(word(step) for step in told_by[::-1] if step) for told_by in zip(*chosen, strict=True)] or [""] * len(alike)
        for key, step in zip(alike, told, strict=True):
            same = told.count(step) > 1
            found[key] = "".join(f"-{part}" for part in (step, digest(named[key][2]) if same else "") if part)
    return found


def steps(path: str) -> list[str]:
    """The folders of a path or spec, the outermost first."""
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
