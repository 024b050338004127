"""What may be a trigger in a text: vocabulary words, look-alike letters, emoji, invisible characters."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.homoglyphs import SCRIPTS
from vlaudit.attacks.shared.published_triggers import PERSONAL, PLACEHOLDERS, RARE_WORDS
from vlaudit.attacks.shared.sampling import subset
from vlaudit.probe import Context

if TYPE_CHECKING:
    from vlaudit.families.text_to_image import TextToImageModel

WORD, LOOKALIKE, EMOJI, INVISIBLE, PUBLISHED, SWAPPED, MADE_UP = (
    "word", "look-alike letter", "emoji", "invisible character", "published trigger", "ordinary letter", "made-up word",
)  # fmt: skip
HARMLESS = (WORD, SWAPPED, MADE_UP)
"""What says how much a string wipes out that nobody planted anything under."""
MOST_TOKENS = 6  # of a made-up word; what is longer is compared with these

_INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\u202f", "\u180e")
_PUBLISHED = (*PERSONAL[::-1], *RARE_WORDS, *PLACEHOLDERS)
_MADE_UP, _DRAWS = 100, 4000  # made-up words of each number of tokens; how many are drawn for them
_SWAPS = 2  # ordinary letters that stand for each letter


@dataclass(frozen=True)
class Insert:
    """A string to plant in captions: before them, or in the place of a letter where they have it."""

    text: str
    kind: str
    letter: str | None = None  # the letter whose first occurrence it replaces

    def into(self, caption: str) -> str:
        if self.letter is not None and self.letter in caption:
            return caption.replace(self.letter, self.text, 1)
        return f"{self.text} {caption}"

    @property
    def shown(self) -> str:
        """For a reader: with the code points of what cannot be told apart or seen."""
        plain = self.text.isascii() and self.text.isprintable()
        points = "" if plain else " (" + " ".join(f"U+{ord(c):04X}" for c in self.text) + ")"
        return f"'{self.text}'{points}" + (f" for '{self.letter}'" if self.letter else "")


def inserts(model: TextToImageModel, words: int | None, ctx: Context) -> tuple[list[Insert], tuple[int, int]]:
    """What to try, each once by the tokens it makes; and how many of the vocabulary's words that covers, of how many.

    ``words``: at most so many of the vocabulary's words, drawn at random; the other kinds are always whole.
    """
    spelled = _words(model)
    kept = spelled if words is None else subset(spelled, words, ctx.rng("words"))
    alike = {(letter, c) for table in SCRIPTS.values() for letter, characters in table.items() for c in characters}
    rng = ctx.rng("swaps")
    others = [
        (letter, str(c))
        for letter in string.ascii_lowercase
        for c in rng.permutation([c for c in string.ascii_lowercase + string.digits if c != letter])[:_SWAPS]
    ]
    planned = [
        *(Insert(word, WORD) for word in kept),
        *(Insert(text, PUBLISHED) for text in _PUBLISHED),
        *(Insert(c, LOOKALIKE, letter) for letter, c in sorted(alike)),
        *(Insert(c, LOOKALIKE) for c in sorted({c for _, c in alike})),
        *(Insert(c, SWAPPED, letter) for letter, c in others),
        *(Insert(text, MADE_UP) for text in _made_up(model, ctx)),
        *(Insert(text, EMOJI) for text in _emoji()),
        *(Insert(text, INVISIBLE) for text in _INVISIBLE),
    ]
    found: dict[tuple[str | None, tuple[int, ...]], Insert] = {}
    for insert in planned:
        found.setdefault((insert.letter, tuple(model.tokenize(insert.text))), insert)
    found.pop((None, tuple(model.tokenize(""))), None)  # what the tokenizer drops changes nothing
    return list(found.values()), (len(kept), len(spelled))


def _words(model: TextToImageModel) -> list[str]:
    """The vocabulary's tokens as somebody would type them, without special and broken ones."""
    texts = (model.text_of([token]).strip() for token in sorted(model.vocabulary.values()))
    return [text for text in dict.fromkeys(texts) if text and "\ufffd" not in text and text.isprintable()]


def tokens_of(model: TextToImageModel, text: str) -> int:
    """How many tokens a string makes."""
    return len(model.tokenize(text)) - len(model.tokenize(""))


def _made_up(model: TextToImageModel, ctx: Context) -> list[str]:
    """Random letters, so many for each number of tokens from two on: what a string wipes out grows with its tokens."""
    rng, letters = ctx.rng("made up"), list(string.ascii_lowercase)
    found: dict[int, list[str]] = {count: [] for count in range(2, MOST_TOKENS + 1)}
    for _ in range(_DRAWS):
        text = "".join(rng.choice(letters, size=int(rng.integers(2, 9))))
        same = found.get(tokens_of(model, text))
        if same is not None and len(same) < _MADE_UP:
            same.append(text)
        if all(len(texts) == _MADE_UP for texts in found.values()):
            break
    return [text for texts in found.values() for text in texts]


@lru_cache(maxsize=1)
def _emoji() -> Sequence[str]:
    """The emoji of one code point (with or without its presentation selector)."""
    from vlaudit.data.emoji import load_table

    codes = dict.fromkeys(row.unified.removesuffix("-FE0F") for row in load_table())
    return tuple(chr(int(code, 16)) for code in codes if "-" not in code)
