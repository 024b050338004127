"""What a file is, decided by its content and never by its name, and whether its ordinary loader would run code of it.

A file can be of two formats at once, such as a picture with an archive behind it; every format that accepts it is looked into.
Nothing is run, nothing is unpacked to the disk, and a file of any size is read in its headers and tables only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlaudit.files import open_flags
from vlaudit.inspection import formats
from vlaudit.inspection.archives import BEHIND, NOT_KNOWN, look_into_compressed, look_into_tar, look_into_zip
from vlaudit.inspection.pickles import look_for_pickles, look_into_pickles
from vlaudit.inspection.sources import DEEPEST, Look, NotLookedInto, Source

TEXT_BYTES = 256_000_000  # longest text that is read whole


@dataclass(frozen=True)
class Inspected:
    """What looking into a file gave. A file is safe when it is ``understood`` and has no ``danger``."""

    kind: str  # such as "safetensors"; "unknown" where no format accepts it
    danger: str = ""  # what its ordinary loader would run, such as "a pickle that ..."; "" if nothing was found
    unknown: str = ""  # why it, or a part of it, was not looked into; "" if all of it was
    names: frozenset[str] = frozenset()  # what its pickles import, such as "torch._utils._rebuild_tensor_v2"

    @property
    def understood(self) -> bool:
        return not self.unknown


def inspect_file(path: Path) -> Inspected:
    """Look into one file. Never raises for what lies there: a pipe, a device or a folder is "not looked into" and not waited for."""
    try:
        handle = os.open(path, open_flags("RDONLY", "NONBLOCK", "NOCTTY"))
    except (OSError, ValueError) as error:
        return Inspected("unknown", unknown=f"it cannot be opened ({getattr(error, 'strerror', None) or 'no name of a file'})")
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Inspected("unknown", unknown="it is no regular file")
        source, look = Source.of_file(handle), Look()
        kind = _look_into(source, path.name, look, 0)
        if look.unknowns and not look.dangers:
            look_for_pickles(source, look)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, EOFError) as error:
        return Inspected("unknown", unknown=f"it cannot be read ({type(error).__name__})")
    finally:
        os.close(handle)
    return _result(kind, look)


def _result(kind: str, look: Look) -> Inspected:
    more = f" (and {len(look.dangers) - 1} more)" if len(look.dangers) > 1 else ""
    danger = look.dangers[0] + more if look.dangers else ""
    return Inspected(kind, danger, look.unknowns[0] if look.unknowns else "", frozenset(look.names))


def _look_into(source: Source, name: str, look: Look, depth: int) -> str:
    """Give every format its chance. Returns the kind; dangers and what is not understood go to ``look``."""
    if depth > DEEPEST:
        raise NotLookedInto("archives within archives")
    if not source.size:
        return "empty"

    def part(inner: Source, called: str) -> str:
        return _look_into(inner, called, look, depth + 1)

    def loaded(inner: Source) -> None:
        _look_into_loaded(inner, look, depth + 1)

    text = formats.read_text(source, TEXT_BYTES)
    tries: list[Callable[[], str | None]] = [
        lambda: look_into_pickles(source, look, loaded, text=text is not None),
        lambda: look_into_zip(source, look, part),
        lambda: look_into_tar(source, look, part),
        lambda: look_into_compressed(source, look, part, name),
    ]
    if text is None:
        tries += [
            lambda: formats.look_into_safetensors(source, look),
            lambda: formats.look_into_npy(source, look, lambda inner, at: look_into_pickles(inner, look, loaded, at)),
            lambda: formats.look_into_gguf(source, look),
            lambda: formats.look_into_hdf5(source, look),
            lambda: formats.look_into_program(source, look),
            lambda: formats.look_into_picture(source, look),
            lambda: formats.look_into_protobuf(source, look),
            lambda: formats.look_into_msgpack(source, look),
        ]
    else:
        tries.append(lambda: formats.look_into_text(text, name, look))
    kinds = [kind for attempt in tries if (kind := _bounded(attempt, look)) is not None]
    if kinds == [BEHIND]:
        look.unknown("other data before a zip archive")
    if not kinds:
        magic = source.read(0, 10)
        kind = next((kind for start, kind in NOT_KNOWN.items() if magic.startswith(start)), None)
        look.unknown(f"a {kind}" if kind else "no format that is known here")
        return kind or "unknown"
    if name.lower().endswith(".safetensors") and "safetensors" not in kinds and kinds != ["text"]:
        look.unknown("it is called safetensors and is none")
    return next((kind for kind in kinds if kind != BEHIND), BEHIND)


def _look_into_loaded(source: Source, look: Look, depth: int) -> None:
    """What torch loads from bytes that a pickle holds."""
    look.member()
    if depth > DEEPEST:
        raise NotLookedInto("pickles within pickles")

    def part(inner: Source, called: str) -> str:
        return _look_into(inner, called, look, depth + 1)

    _bounded(lambda: look_into_zip(source, look, part), look)
    _bounded(lambda: look_into_tar(source, look, part), look)
    look_into_pickles(source, look, lambda inner: _look_into_loaded(inner, look, depth + 1))


def _bounded(attempt: Callable[[], str | None], look: Look) -> str | None:
    """One format's look. What it cannot look into is said, and the other formats have their chance."""
    try:
        return attempt()
    except NotLookedInto as error:
        look.unknown(str(error))
    return None
