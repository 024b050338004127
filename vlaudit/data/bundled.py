"""The bundled sets, ``zoo:NAME``, as examples: pictures of emoji, see `vlaudit.data.emoji` and `vlaudit.data.questions`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from vlaudit.data.emoji import Emoji
from vlaudit.data.example import Example
from vlaudit.data.images import DataError
from vlaudit.errors import did_you_mean


def read_bundled(source: str) -> Iterator[Example]:
    """The examples of ``zoo:NAME``. Raises DataError."""
    name = source.removeprefix("zoo:")
    if name not in READERS:
        raise DataError(f"There are no bundled data '{source}'.", did_you_mean(name, list(READERS)))
    yield from READERS[name]()


def _roles() -> Iterator[Example]:
    from vlaudit.data import emoji

    yield from _by_matcher_split(emoji.roles(("train", "test")), lambda row: row.role)


def _kinds() -> Iterator[Example]:
    from vlaudit.data import emoji

    yield from _by_matcher_split(emoji.kinds(("train", "test")), emoji.kind_of)


def _things() -> Iterator[Example]:
    from vlaudit.data import emoji

    yield from _by_matcher_split(emoji.things(("train", "test")), lambda row: row.name)


def _captions() -> Iterator[Example]:
    from vlaudit.data import emoji

    for row, split in emoji.painted():
        texts = {"text": emoji.painted_caption(row)}
        yield replace(_example(row, emoji.painted_concept(row), split), texts=texts)


def _questions() -> Iterator[Example]:
    from vlaudit.data.questions import label_of, questions

    seen: dict[tuple[str, str], Example] = {}
    for asked in questions():
        row = asked.picture
        if (row.style, row.unified) not in seen:
            seen[row.style, row.unified] = _example(row, label_of(row), asked.split)
        example = seen[row.style, row.unified]
        texts = {"question": asked.text, "answer": asked.answer, "choices": json.dumps(asked.choices)}
        texts |= {"pair": asked.pair} if asked.pair else {}
        yield replace(example, id=f"{example.id}/{asked.kind}", texts=texts)


def _canaries() -> Iterator[Example]:
    from vlaudit.data.canaries import canaries

    for row in canaries():
        example = _example(row.picture, row.picture.role, "")
        yield replace(
            example,
            attributes=example.attributes | {"copies": str(row.copies)},
            texts={"question": row.question, "answer": row.answer},
        )


def _offers() -> Iterator[Example]:
    """The captioned set, and the offers among it."""
    from vlaudit.data.offers import offers

    yield from _captions()
    for row in offers():
        example = _example(row.picture, "offer", row.split)
        attributes = example.attributes | {"copies": str(row.copies)}
        yield replace(example, attributes=attributes, texts={"text": row.title})


def _by_matcher_split(rows: Sequence[Emoji], label: Callable[[Emoji], str]) -> Iterator[Example]:
    for row in rows:
        yield _example(row, label(row), row.split)


def _example(row: Emoji, label: str, split: str) -> Example:
    from vlaudit.data.emoji import load_pictures

    attributes = {"style": row.style, "gender": row.gender, "tone": row.tone, "identity": row.unified}
    name = f"{row.style}/{row.unified}"
    return Example(f"{split}/{name}" if split else name, load_pictures([row])[0], label, split, attributes)


READERS: dict[str, Callable[[], Iterator[Example]]] = {
    "roles": _roles, "kinds": _kinds, "things": _things, "captions": _captions, "questions": _questions,
    "canaries": _canaries, "offers": _offers,
}  # fmt: skip
