"""One mutator for everything that vlaudit reads: a valid file in, a hostile one out.

Texts are cut into the tokens that JSON, TOML and CSV share, and a token gives way to another kind of value, is dropped, doubled,
nested or swapped: most of the result is still well-formed, so that it gets past the parser to what trusts the values. Any bytes are
flipped, cut, repeated and overwritten with extreme numbers. Safetensors are opened at their header, whose length is kept right.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[\w.+~:-]+|[\[\]{},=\n|<>]|[^\S\n]+|.', re.DOTALL)
LARGE = 500_000  # bytes
DEPTHS = (3, 70, 3_000, 100_000)
VALUES: tuple[str, ...] = (
    "null", "true", "false", "0", "-1", "1", "2", "3.5", "1e308", "1e999", "nan", "inf", "NaN", "-Infinity", "9223372036854775808",
    "-9223372036854775809", "4294967296", "9" * 5_000, '""', '" "', '"x"', '"\\u0000"', '"\\ud800"', '"\\u202e\\u001b[2J"', '"../../.."',
    '"/etc/passwd"', '"/dev/zero"', '"~nobody/x"', '"."', '"{}"', '"{}{}"', '"zoo:clean"', '"::error::x"', f'"{"x" * 300}"', f'"{"x" * 70_000}"',
    "[]", "{}", "[[]]", '[""]', "[1, 2]", '{"a": 1}', '{"": null}', "2027-01-01", "0x10", "1_0", '"é"', '"nul\\u0000l"',
)  # fmt: skip
NUMBERS = tuple(
    value.to_bytes(size, order, signed=False)
    for size, order in ((2, "big"), (4, "little"), (4, "big"), (8, "little"))
    for value in (0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
)


def mutate(content: bytes, random: Random) -> bytes:
    """Between one and four changes of a file, fewer where it has grown large."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if len(content) < LARGE:
            content = _once(content, random)
    return content


def _once(content: bytes, random: Random) -> bytes:
    if content[8:9] == b"{" and random.random() < 0.6:
        return _safetensors(content, random)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return random.choice(BYTES)(content, random)
    if "\0" not in text and random.random() < 0.8:
        return random.choice(TEXTS)(text, random).encode("utf-8", "surrogatepass")
    return random.choice(BYTES)(content, random)


def _safetensors(content: bytes, random: Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = random.choice(TEXTS)(content[8 : 8 + size].decode("utf-8", "replace"), random).encode("utf-8", "replace")
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


# --- texts ------------------------------------------------------------------------------------------------------------


def _retype(text: str, random: Random) -> str:
    """A value becomes another: a name or number too."""
    tokens = TOKEN.findall(text)
    places = [place for place, token in enumerate(tokens) if token[:1] == '"' or token[:1].isalnum()]
    if places:
        tokens[random.choice(places)] = random.choice(VALUES)
    return "".join(tokens)


def _nest(text: str, random: Random) -> str:
    """A value sinks into brackets, or all of the text does."""
    depth = random.choice(DEPTHS)
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    if random.random() < 0.2:
        return opening * depth + text + closing * depth
    tokens = TOKEN.findall(text)
    place = random.randrange(len(tokens)) if tokens else 0
    return "".join([*tokens[:place], opening * depth, *tokens[place : place + 1], closing * depth, *tokens[place + 1 :]])


def _rearrange(text: str, random: Random) -> str:
    """A token is dropped, doubled, or takes another's place."""
    tokens = TOKEN.findall(text)
    if not tokens:
        return "x"
    place, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    how = random.randrange(3)
    if how == 0:
        del tokens[place]
    elif how == 1:
        tokens.insert(place, tokens[other])
    else:
        tokens[place] = tokens[other]
    return "".join(tokens)


def _lines(text: str, random: Random) -> str:
    """A line is dropped, doubled, moved, or repeated many times; or all end otherwise."""
    lines = text.split("\n")
    place, how = random.randrange(len(lines)), random.randrange(5)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(random.randrange(len(lines)), lines[place])
    elif how == 2:
        lines[place:place] = [lines[place]] * min(random.choice((3, 2_000)), LARGE // (len(lines[place]) + 1) + 1)
    elif how == 3:
        return text.replace("\n", random.choice(("\r\n", "\r", "\u2028", "\n\n")))
    else:
        random.shuffle(lines)
    return "\n".join(lines)


def _retree(text: str, random: Random) -> str:
    """A JSON object loses an entry, gets one twice, or has one renamed."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _retype(text, random)
    objects = [value]
    for item in objects:
        objects += [
            child for child in (item.values() if isinstance(item, dict) else item) if isinstance(child, dict | list) and child
        ] if isinstance(item, dict | list) else []  # fmt: skip
    found = random.choice(objects)
    if isinstance(found, dict) and found:
        key = random.choice(list(found))
        taken = found.pop(key)
        if random.random() < 0.5:
            found[random.choice(("", "x", key.upper(), f"{key} ", "\0"))] = taken
    elif isinstance(found, list) and found:
        place = random.randrange(len(found))
        found[place : place + 1] = random.choice(([], [found[place]] * 3, [[found[place]]], [None]))
    return json.dumps(value)


# --- bytes ------------------------------------------------------------------------------------------------------------


def _place(content: bytes, random: Random) -> int:
    """Heads, where the structure is, more often than bodies."""
    return random.randrange(min(len(content), random.choice((16, 200, 10**9))) or 1)


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(random.choice((1, 1, 8))):
        changed[_place(content, random) % len(changed)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(content: bytes, random: Random) -> bytes:
    place = _place(content, random)
    return random.choice((content[:place], content[place:], b"", content[:place] + content[place + random.choice((1, 8, 100)) :]))


def _repeat(content: bytes, random: Random) -> bytes:
    start = _place(content, random)
    part = content[start : start + random.choice((1, 8, 100))] * random.choice((1, 3, 1_000))  # at most 100 kB
    return content[:start] + part + content[start:]


def _overwrite(content: bytes, random: Random) -> bytes:
    place, number = _place(content, random), random.choice(NUMBERS)
    return content[:place] + number + content[place + len(number) :]


def _encode(content: bytes, random: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return random.choice((b"\xef\xbb\xbf" + content, text.encode("utf-16"), b"\xff" + content, content + b"\0", b"\0" * 9))


TEXTS: tuple[Callable[[str, Random], str], ...] = (_retype, _retype, _retype, _retree, _nest, _rearrange, _lines)
BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _flip, _cut, _repeat, _overwrite, _encode)


def put(path: Path, content: bytes, random: Random) -> None:
    """Write a hostile file, or in one of 30 times something that is no file."""
    path.unlink(missing_ok=True)
    if random.random() > 1 / 30:
        path.write_bytes(content)
        return
    random.choice((
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: path.symlink_to("nowhere"),
        lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("/"),
    ))()  # fmt: skip
