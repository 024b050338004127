"""Wordings of a question that mean the same: paraphrases, instructions around it, the options the other way round, and small
misspellings of words that name no answer. Pure text, English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS, perturb
from vlaudit.data.articles import mend_articles

if TYPE_CHECKING:
    from numpy.random import Generator

AS_WRITTEN = "as written"
TYPOS = CHARACTER_KINDS[:3]  # swapped, dropped and neighbouring letters
CARRIERS = {
    "instruction before": "Look at the picture. {}",
    "instruction after": "{} Look at the picture.",
    "heading": "Question: {}",
    "please": "Please answer the question. {}",
    "request": "Please tell me: {}",
    "introduction": "Here is a picture. {}",
}
"""Instructions that say nothing which the question leaves open, around the question ``{}``."""
_PARAPHRASES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(r"what(?: is|'s) (?:this|that|it|in (?:the|this) (?:picture|image|photo))\?", re.IGNORECASE),
        ("What does the picture show?", "What is in the picture?", "What do you see?", "What is that?"),
    ),
    (
        re.compile(
            r"(?:is|does) (?:this|that|it|the (?:picture|image) show) (?P<x>\S.*?) or (?P<y>\S.*?)\?", re.IGNORECASE
        ),
        (
            "Is it {x} or {y}?",
            "Does the picture show {x} or {y}?",
            "Which is it, {x} or {y}?",
            "Do you see {x} or {y}?",
        ),
    ),
    (
        re.compile(r"(?:is|does) (?:this|that|it|the (?:picture|image) show) (?P<x>an? \S.*?)\?", re.IGNORECASE),
        ("Is it {x}?", "Does the picture show {x}?", "Do you see {x}?", "Is that {x}?"),
    ),
)
_OPTION = r"(?:an? )?[\w'-]+(?: [\w'-]+)?"
_OPTIONS = re.compile(rf"(?P<before>.*?\b)(?P<x>{_OPTION}) or (?P<y>{_OPTION})\?")


def wordings(question: str, names: Sequence[str], rng: Generator) -> Iterator[tuple[str, str]]:
    """The kind and the text of each wording, the question as written first; only those that differ from it.

    names: texts of answers, whose words are spelled right in every wording.
    """
    yield AS_WRITTEN, question
    yield from _new(_others(question, names, rng), question)


def _new(texts: Iterable[tuple[str, str]], usual: str) -> Iterator[tuple[str, str]]:
    """The texts that are neither the usual one nor one that came before."""
    seen = {usual}
    for kind, text in texts:
        if text not in seen:
            seen.add(text)
            yield kind, text


def _others(question: str, names: Sequence[str], rng: Generator) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(paraphrases(question), 1):
        yield f"paraphrase {number}", text
    if swapped := options_swapped(question, names):
        yield "options swapped", swapped
    for kind, carrier in CARRIERS.items():
        yield kind, carrier.replace("{}", question)
    yield "capitals", question.upper() if question != question.upper() else question.lower()
    yield "no mark", question.rstrip("?. ")
    for number, kind in enumerate(TYPOS, 1):
        yield f"typo {number}", misspelled(question, kind, names, rng)


def paraphrases(question: str) -> list[str]:
    """Other ways to ask a question of a known form; none for others."""
    for form, texts in _PARAPHRASES:
        if found := form.fullmatch(question.strip()):
            return [mend_articles(text.format(**found.groupdict())) for text in texts]
    return []


def options_swapped(question: str, names: Sequence[str]) -> str | None:
    """``Is this a cook or a judge?`` with the two options the other way round, where both are among the answers."""
    found = _OPTIONS.fullmatch(question.strip())
    if found is None:
        return None
    x, y = found["x"], found["y"]
    for start in range(len(x.split())):  # what stands before the first option is greedy: `this a cook`
        first = " ".join(x.split()[start:])
        if {_bare(first), _bare(y)} <= {_bare(name) for name in names}:
            before = found["before"] + "".join(f"{word} " for word in x.split()[:start])
            return f"{before}{y} or {first}?"
    return None


def misspelled(text: str, kind: str, names: Sequence[str], rng: Generator) -> str:
    """One word of three letters or more misspelled behind its first letter; the text itself where there is none that
    stands in no answer."""
    spared = {word for name in names for word in re.findall(r"\w+", name.lower())}
    places = [m for m in re.finditer(r"[^\W\d_]{3,}", text) if m.group().lower() not in spared]
    if not places:
        return text
    word = places[int(rng.integers(len(places)))]
    start = word.start() + 1
    return text[:start] + perturb(text[start : word.end()], kind, rng) + text[word.end() :]


def templates(template: str, names: Sequence[str], rng: Generator) -> Iterator[tuple[str, str]]:
    """The kind and the text of wordings of an instruction around the question ``{}``; none where it has no words."""
    if not template.replace("{}", "").strip():
        return
    before, _, after = template.partition("{}")
    turned = " ".join(part for part in (after.strip(), "{}", before.strip()) if part)
    others = [("instruction, other side", turned), ("instruction, capitals", f"{before.upper()}{{}}{after.upper()}")]
    others += [(f"instruction, typo {n}", misspelled(template, kind, names, rng)) for n, kind in enumerate(TYPOS, 1)]
    yield from _new(others, template)


def _bare(text: str) -> str:
    return re.sub(r"^(?:an?|the) ", "", text.strip().lower())
