"""Written evidence side by side: the texts of a row, and the words in which they differ from its first one. What is the same is shown
once: texts of a row under all their captions, rows under all their headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from vlaudit.records import Evidence
from vlaudit.reports.html.pictures import EvidenceFiles, Picture, PictureRow, RefusedError, heading_of

SHOWN_LINES = 9  # of a text; more of them are folded
MAX_TEXT = 4_000  # characters shown of a text
MAX_WORDS = 800  # of a text that is compared: the time grows with the square
PAIR = 100  # bytes read in the time that comparing a pair of words may take

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Transcript:
    """A text in pieces, each with whether the row's first text has it differently."""

    caption: str
    path: str
    pieces: list[tuple[str, bool]]
    sensitive: bool = False

    @property
    def parts(self) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]], int]:
        """The pieces of the first lines, those of the others, and how many the others are. A few lines more are not worth a fold."""
        lines = "".join(piece for piece, _ in self.pieces).count("\n") + 1
        if lines <= SHOWN_LINES + 3:
            return self.pieces, [], 0
        first: list[tuple[str, bool]] = []
        left = SHOWN_LINES
        for place, (piece, changed) in enumerate(self.pieces):
            breaks = piece.count("\n")
            if breaks >= left:
                head = "\n".join(piece.split("\n")[:left])
                rest = piece[len(head) + 1 :]
                return [*first, (head, changed)], [*([(rest, changed)] if rest else []), *self.pieces[place + 1 :]], lines - SHOWN_LINES
            first.append((piece, changed))
            left -= breaks
        return self.pieces, [], 0


@dataclass(frozen=True)
class Exhibit:
    """Pictures and texts to be seen side by side."""

    heading: str
    pictures: list[Picture]
    transcripts: list[Transcript]
    same: tuple[str, ...] = ()  # headings of rows that say the same


def exhibits(rows: Iterable[PictureRow], evidence: Iterable[Evidence], files: EvidenceFiles) -> list[Exhibit]:
    """The rows of pictures in their order, each with the texts of the same heading; then the rows of texts alone, equal ones once."""
    texts = {heading: _once(transcripts) for heading, transcripts in _rows(evidence, files)}
    shown = [Exhibit(row.heading, row.pictures, texts.pop(row.heading, [])) for row in rows]
    alike: dict[object, list[str]] = {}
    for heading, transcripts in texts.items():
        said = tuple((text.caption, tuple(text.pieces), text.sensitive) for text in transcripts) if heading else heading
        alike.setdefault(said, []).append(heading)
    return shown + [Exhibit(first, [], texts[first], tuple(others)) for first, *others in alike.values()]


def _once(transcripts: list[Transcript]) -> list[Transcript]:
    """Texts that are equal, once, under all their captions."""
    alike: dict[object, list[Transcript]] = {}
    for text in transcripts:
        alike.setdefault((tuple(text.pieces), text.sensitive), []).append(text)
    return [replace(same[0], caption=_captions(same)) for same in alike.values()]


def _captions(texts: list[Transcript]) -> str:
    """``without it (3 times) · as asked``."""
    counts = Counter(text.caption or text.path for text in texts)
    return " · ".join(f"{caption} ({count:,} times)" if count > 1 else caption for caption, count in counts.items())


def _rows(evidence: Iterable[Evidence], files: EvidenceFiles) -> Iterator[tuple[str, list[Transcript]]]:
    grouped: dict[str, list[tuple[Evidence, str]]] = {}
    for item in evidence:
        if item.kind == "text":
            heading, caption = heading_of(item)
            grouped.setdefault(heading, []).append((item, caption))
    for heading, items in grouped.items():
        texts = [_read(item, files) for item, _ in items]
        first = texts[0] if heading else None  # texts without a heading have nothing in common
        yield (
            heading,
            [
                Transcript(caption, item.path, marked(first, text, files), item.sensitive)
                for (item, caption), text in zip(items, texts, strict=True)
            ],
        )


def marked(first: str | None, text: str, files: EvidenceFiles) -> list[tuple[str, bool]]:
    """``text`` in pieces: what stands in ``first`` too, and what does not. It is left in one piece where telling takes too long."""
    if first is None:
        return [(text, False)]
    old, new = _WORDS.findall(first), _WORDS.findall(text)
    if max(len(old), len(new)) > MAX_WORDS:
        return [(text, False)]
    try:
        files.spend(PAIR * len(old) * len(new))
    except RefusedError:
        return [(text, False)]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [
        ("".join(new[start:end]), kind != "equal") for kind, _, _, start, end in matcher.get_opcodes() if start < end
    ]


def _read(evidence: Evidence, files: EvidenceFiles) -> str:
    """A text file's beginning, or the reason why it is not shown."""
    try:
        text = files.read(evidence).decode("utf-8", errors="replace")
    except RefusedError as refusal:
        return f"(not shown: {refusal})"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n… ({len(text):,} characters in all)"
