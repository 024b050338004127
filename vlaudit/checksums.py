"""The checksum that an audit's files carry: the last member of a JSON object, over the bytes before it.

    {"unit": "u0", "trial": {...}, "checksum": "0123456789abcdef"}

It is the first 16 hexadecimal digits of the SHA-256 of everything before ``"checksum"``; in a file of lines, of the checksum of the
line before (nothing for the first) and then these bytes, so that no line can be dropped, repeated or moved either. It finds damage,
not forgery: whoever can write the file can compute it.
"""

from __future__ import annotations

import hashlib
import re

from vlaudit.files import Unreadable
from vlaudit.secrets import redact

_MEMBER = b'"checksum": "'
_END = re.compile(rb'"checksum": "([0-9a-f]{16})"\s*\}')


def sealed(text: str, previous: str = "") -> tuple[str, str]:
    """The text of a JSON object that has members, without secrets and with its checksum, and the checksum; ``previous`` is that of
    the line before."""
    whole = redact(text).rstrip().removesuffix("}")
    members = whole.rstrip()
    indent = re.match(r"\{(\s*)", text)
    head = f"{members},{indent[1] if indent and indent[1] else ' '}"
    checksum = _digest(previous, head.encode())
    return f'{head}"checksum": "{checksum}"{whole[len(members) :]}}}', checksum


def unsealed(content: bytes, previous: str = "") -> tuple[bytes, str]:
    """The object without its checksum, and the checksum; empty where it has none. Raises Unreadable where they do not agree."""
    place = content.rfind(_MEMBER)
    found = _END.fullmatch(content.rstrip(), place) if place > 0 else None
    if found is None:
        return content, ""
    checksum = found[1].decode()
    if _digest(previous, content[:place]) != checksum:
        raise Unreadable("does not agree with its checksum")
    return without_checksum(content), checksum


def without_checksum(content: bytes) -> bytes:
    """An object that has a checksum, without it."""
    return content[: content.rindex(_MEMBER)].rstrip().removesuffix(b",") + b"}"


def resealed(line: bytes, previous: str) -> tuple[bytes, str]:
    """A line that carries a checksum as it stands behind another one, and its checksum there."""
    place = line.rindex(_MEMBER)
    checksum = _digest(previous, line[:place])
    return line[:place] + _MEMBER + checksum.encode() + line[place + len(_MEMBER) + len(checksum) :], checksum


def has_more(content: bytes) -> bool:
    """Whether something follows an object that ends in its checksum, as no half-written one has."""
    found = _END.search(content, max(content.rfind(_MEMBER), 0))
    return found is not None and found.end() < len(content)


def _digest(previous: str, head: bytes) -> str:
    return hashlib.sha256(previous.encode() + head).hexdigest()[:16]
