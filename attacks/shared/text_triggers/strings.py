"""What may be a trigger in a text: vocabulary words, look-alike letters, emoji, characters of other scripts, invisible ones."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.homoglyphs import RARE, SCRIPTS
from vlaudit.attacks.shared.published_triggers import PERSONAL, PLACEHOLDERS, RARE_WORDS
from vlaudit.attacks.shared.sampling import subset
from vlaudit.attacks.shared.text_triggers.characters import characters, emoji, invisible, marks
from vlaudit.probe import Context

if TYPE_CHECKING:
    from vlaudit.attacks.shared.text_triggers.text_side import TextSide

WORD, LOOKALIKE, EMOJI, CHARACTER, INVISIBLE, PUBLISHED, JOINED, SWAPPED, MADE_UP, PAIR = (
    "word", "look-alike letter", "emoji", "character", "invisible character", "published trigger", "joined words",
    "ordinary letter", "made-up word", "ordinary words joined",
)  # fmt: skip
HARMLESS = (WORD, SWAPPED, MADE_UP, PAIR)
"""What says how much a string wipes out that nobody planted anything under."""
MOST_TOKENS = 12
"""Of a string that is tried, and no more than half of what the encoder reads: a longer one pushes the caption out."""

_PUBLISHED = (*PERSONAL[::-1], *RARE_WORDS, *PLACEHOLDERS)
_MADE_UP, _DRAWS = 110, 5000  # harmless strings of each number of tokens; how many are drawn for them
_PAIRS = 800  # of two or three ordinary words
_BRIEF = 3  # a third of the harmless strings, which neighbours in their number of tokens make up for
_SWAPS = 2  # ordinary letters that stand for each letter
_COMMON = "aeinorst"  # letters that most captions have
_WITHIN = "aeo"  # letters behind which invisible characters and marks are put


Key = tuple[str | None, tuple[int, ...]]


@dataclass(frozen=True)
class Insert:
    """A string to plant in captions: before or behind them, or in the place of a letter where they have it."""

    text: str
    kind: str
    letter: str | None = None  # the letter whose first occurrence it replaces

    def into(self, caption: str, behind: bool = False) -> str:
        if self.letter is not None and self.letter in caption:
            return caption.replace(self.letter, self.text, 1)
        return f"{caption} {self.text}" if behind else f"{self.text} {caption}"

    @property
    def shown(self) -> str:
        """For a reader: with the code points of what cannot be told apart or seen."""
        plain = self.text.isascii() and self.text.isprintable()
        points = "" if plain else " (" + " ".join(f"U+{ord(c):04X}" for c in self.text) + ")"
        return f"'{self.text}'{points}" + (f" for '{self.letter}'" if self.letter else "")


class Spelling:
    """What the tokenizer makes of strings, asked once for each."""

    def __init__(self, model: TextSide) -> None:
        self.model, self.room = model, min(MOST_TOKENS, model.context_length // 2)
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, text: str) -> tuple[int, ...]:
        if text not in self._known:
            self._known[text] = tuple(self.model.tokenize(text))
        return self._known[text]

    def tokens(self, text: str) -> int:
        """How many tokens a string makes."""
        return len(self.ids(text)) - len(self.ids(""))

    def distinct(self, inserts: Iterable[Insert], seen: set[Key]) -> list[Insert]:
        """Those that make other tokens than all before them, and than what was ``seen``, which grows."""
        found = []
        for insert in inserts:
            key = (insert.letter, self.ids(insert.text))
            if key not in seen:
                seen.add(key)
                found.append(insert)
        return found


@dataclass(frozen=True)
class Plan:
    """What to try. ``closely``: in all captions to screen with. ``widely``: in two of them first, because it is so much."""

    closely: list[Insert]
    widely: list[Insert]
    words: tuple[int, int]  # how many of the vocabulary's words are tried, of how many
    characters: tuple[int, int]  # the same of characters and emoji
    too_long: int  # strings left out because they have too many tokens


def inserts(spelling: Spelling, words: int | None, ctx: Context, brief: bool = False) -> Plan:
    """What to try, each once by the tokens it makes.

    ``words``: at most so many of the vocabulary's words, drawn at random; and, where these are not all, as many characters. ``brief``:
    a part of the harmless strings, and of what is tried widely the emoji alone.
    """
    part = _BRIEF if brief else 1
    spelled = _words(spelling.model)
    kept = spelled if words is None else subset(spelled, words, ctx.rng("words"))
    alike = {(letter, c) for table in SCRIPTS.values() for letter, found in table.items() for c in found}
    seen: set[Key] = {(None, spelling.ids(""))}  # what the tokenizer drops changes nothing
    closely = spelling.distinct(
        [
            *(Insert(word, WORD) for word in kept),
            *(Insert(text, PUBLISHED) for text in _PUBLISHED),
            *(Insert(c, LOOKALIKE, letter) for letter, c in sorted(alike)),
            *(Insert(c, LOOKALIKE) for c in sorted({c for _, c in alike})),
            *_swapped(spelling, ctx, part),
            *(Insert(text, MADE_UP) for text in _made_up(spelling, ctx, part)),
            *_pairs(spelling, kept, ctx, part),
            *(Insert(letter + c, INVISIBLE, letter) for c in invisible() for letter in _WITHIN),
            *(Insert(c, INVISIBLE) for c in invisible()),
        ],
        seen,
    )
    distinct = spelling.distinct(
        [
            *(Insert(text, EMOJI) for text in emoji()),
            *(Insert(text, CHARACTER) for text in ([] if brief else characters(ctx.effort == "thorough"))),
            *(Insert(letter + c, CHARACTER, letter) for c in ([] if brief else marks()) for letter in _WITHIN),
        ],
        seen,
    )
    widely = [insert for insert in distinct if spelling.tokens(insert.text) <= spelling.room]
    of = len(widely)
    if len(kept) < len(spelled):
        widely = subset(widely, len(kept), ctx.rng("characters"))
    return Plan(closely, widely, (len(kept), len(spelled)), (len(widely), of), len(distinct) - of)


def joined(spelling: Spelling, firsts: Sequence[str], parts: Sequence[str], tried: Iterable[Insert]) -> list[Insert]:
    """Each of ``firsts`` with each part before and behind it, as one word and as two: what a trigger of several pieces may be."""
    seen = {(insert.letter, spelling.ids(insert.text)) for insert in tried if insert.kind not in HARMLESS}
    pairs = [pair for a, b in product(firsts, parts) if a != b for pair in ((a, b), (b, a))]
    found = spelling.distinct([Insert(a + gap + b, JOINED) for a, b in pairs for gap in ("", " ")], seen)
    return [insert for insert in found if spelling.tokens(insert.text) <= spelling.room]


def _words(model: TextSide) -> list[str]:
    """The vocabulary's tokens as somebody would type them, without special and broken ones."""
    texts = (model.text_of([token]).strip() for token in sorted(model.vocabulary.values()))
    return [text for text in dict.fromkeys(texts) if text and "\ufffd" not in text and text.isprintable()]


def _swapped(spelling: Spelling, ctx: Context, part: int) -> list[Insert]:
    """Ordinary letters in the place of others, and rare ones with and without a letter before them, so many for each number of tokens."""
    rng, letters, rare = ctx.rng("swaps"), list(string.ascii_lowercase), list(map(chr, RARE))
    found: defaultdict[int, list[Insert]] = defaultdict(list)
    for letter in letters:
        for other in rng.permutation([c for c in [*letters, *string.digits] if c != letter])[:_SWAPS].tolist():
            found[spelling.tokens(other)].append(Insert(other, SWAPPED, letter))
    for _ in range(_DRAWS):
        letter, before = str(rng.choice(list(_COMMON))), str(rng.choice([*letters, ""]))
        text = before + "".join(rng.choice(rare, size=int(rng.integers(1, 4))))
        if spelling.tokens(text) <= spelling.room and len(found[spelling.tokens(text)]) < _MADE_UP // part:
            found[spelling.tokens(text)].append(Insert(text, SWAPPED, letter))
    return [insert for some in found.values() for insert in some]


def _pairs(spelling: Spelling, words: Sequence[str], ctx: Context, part: int) -> list[Insert]:
    """Two or three words of the vocabulary drawn at random, as one and as several."""
    rng = ctx.rng("word pairs")
    drawn = [(rng.choice(words, size=2 + i % 2), rng.permutation(["", " "])) for i in range(_PAIRS // part)]
    found = [Insert("".join(w + gap for w, gap in zip(some, [*gaps, ""], strict=False)), PAIR) for some, gaps in drawn]
    return [insert for insert in found if spelling.tokens(insert.text) <= spelling.room]


def _made_up(spelling: Spelling, ctx: Context, part: int) -> list[str]:
    """Random letters, Latin ones and those of scripts that nobody writes, so many for each number of tokens: what a string wipes out
    grows with its tokens, and with how strange they are."""
    rng, letters, rare = ctx.rng("made up"), list(string.ascii_lowercase), list(map(chr, RARE))
    found: defaultdict[tuple[int, bool], list[str]] = defaultdict(list)
    for _ in range(_DRAWS):
        strange = bool(rng.integers(2))
        text = "".join(rng.choice(rare if strange else letters, size=int(rng.integers(1, 5 if strange else 15))))
        same = found[spelling.tokens(text), strange]
        if spelling.tokens(text) <= spelling.room and len(same) < (_MADE_UP // 2 if strange else _MADE_UP) // part:
            same.append(text)
    return [text for texts in found.values() for text in texts]
