"""Small perturbations of a template or a name that a reader would not mind. Pure text; the ``{}`` slot stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from vlaudit.attacks.shared.homoglyphs import SCRIPTS

if TYPE_CHECKING:
    from numpy.random import Generator

T = TypeVar("T")

KINDS = ("swap", "drop", "keyboard", "homoglyph", "case", "punctuation", "synonym")
NAME_KINDS = KINDS[:-1]  # a name has no synonym that is sure to mean the same
CHARACTER_KINDS = KINDS[:4]  # those that touch single characters of words

_SLOT = "\ue000"  # stands for {} while a text is edited: no letter, and in no text
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_HOMOGLYPHS = SCRIPTS["Cyrillic"]
_SYNONYMS = {
    "photo": ("picture", "image", "photograph", "snapshot"),
    "picture": ("photo", "image", "photograph"),
    "image": ("photo", "picture", "photograph"),
    "photograph": ("photo", "picture", "image"),
    "a": ("the", "one"),
    "an": ("the", "one"),
    "the": ("a", "one"),
    "of": ("showing", "with"),
    "showing": ("of", "with"),
}
_CARRIERS = ("this is {}", "here is {}", "we see {}", "look at {}")
_MARKS = (".", "!", ",", ":", ";", " -")


def perturb(text: str, kind: str, rng: Generator) -> str:
    """One random perturbation of the kind; the text itself where the kind finds nothing to change."""
    edited = _EDITS[kind](text.replace("{}", _SLOT), rng)
    return edited.replace(_SLOT, "{}")


def perturb_share(text: str, kind: str, share: float, rng: Generator) -> str:
    """As many perturbations of one kind as the share of the text's letters, at least one."""
    for _ in range(max(1, round(share * len(_letters(text))))):
        text = perturb(text, kind, rng)
    return text


def spaced(text: str) -> list[str]:
    """The text with more blanks than it needs, which most tokenizers ignore."""
    return [f" {text}", f"{text} ", text.replace(" ", "  ")]


def one_edit(text: str, rng: Generator) -> str:
    """A text at Levenshtein distance 1 (or 0 where there is no letter): a letter dropped, doubled or replaced."""

    def edited(letter: str) -> str:
        options = ["", letter * 2, _neighbour(letter, rng), _HOMOGLYPHS.get(letter, _neighbour(letter, rng))]
        return _pick(options, rng)

    safe = text.replace("{}", _SLOT)
    return _replaced(safe, _letters(safe), edited, rng).replace(_SLOT, "{}")


def _pick(options: Sequence[T], rng: Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _letters(text: str) -> list[int]:
    return [i for i, character in enumerate(text) if character.isalpha()]


def _replaced(text: str, places: Sequence[int], edited: Callable[[str], str], rng: Generator) -> str:
    """The text with the character at one of the places edited; the text itself where there is none."""
    if not places:
        return text
    at = _pick(places, rng)
    return text[:at] + edited(text[at]) + text[at + 1 :]


def _neighbour(letter: str, rng: Generator) -> str:
    """A key beside the letter's; the letter itself if it is on no key."""
    for row in _ROWS:
        if (at := row.find(letter.lower())) >= 0:
            beside = [row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)]
            chosen = _pick(beside, rng)
            return chosen.upper() if letter.isupper() else chosen
    return letter


def _swap(text: str, rng: Generator) -> str:
    pairs = [i for i in _letters(text) if i + 1 < len(text) and text[i + 1].isalpha() and text[i] != text[i + 1]]
    if not pairs:
        return text
    at = _pick(pairs, rng)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _drop(text: str, rng: Generator) -> str:
    places = _letters(text)
    return _replaced(text, places, lambda _: "", rng) if len(places) > 1 else text


def _keyboard(text: str, rng: Generator) -> str:
    return _replaced(text, _letters(text), lambda letter: _neighbour(letter, rng), rng)


def _homoglyph(text: str, rng: Generator) -> str:
    places = [i for i, character in enumerate(text) if character in _HOMOGLYPHS]
    return _replaced(text, places, _HOMOGLYPHS.__getitem__, rng)


def _case(text: str, rng: Generator) -> str:
    changed = (text.upper(), text.lower(), text.title(), text.capitalize())
    options = [option for option in dict.fromkeys(changed) if option != text]
    return _pick(options, rng) if options else text


def _punctuation(text: str, rng: Generator) -> str:
    mark = _pick(_MARKS, rng)
    if text.rstrip()[-1:] in _MARKS and rng.integers(2):
        return text.rstrip()[:-1]
    blanks = [i for i, character in enumerate(text) if character == " "]
    if blanks and rng.integers(2):
        at = _pick(blanks, rng)
        return text[:at] + mark + text[at:]
    return text + mark


def _synonym(text: str, rng: Generator) -> str:
    words = text.split(" ")
    options = [_pick(_CARRIERS, rng).replace("{}", text)]
    for at, word in enumerate(words):
        options += [" ".join([*words[:at], other, *words[at + 1 :]]) for other in _SYNONYMS.get(word.lower(), ())]
    return _pick(options, rng)


_EDITS = dict(zip(KINDS, (_swap, _drop, _keyboard, _homoglyph, _case, _punctuation, _synonym), strict=True))
