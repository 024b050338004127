"""A written answer as text: what was thought is left out, and what remains has one form to compare."""

from __future__ import annotations

import re
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SAID = re.compile(
    r"(?<!if the )(?<!whether the )(?:answer|response|option|choice)(?:\s+\w+){0,3}?\W{0,4}(?:(?:is|would be)\b\s*:?|:)\s*"
)
_NUMBERS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        map(str, range(13)),
        strict=True,
    )
)
_SPELLED = re.compile(r"(?<!\w)\w(?:[\s.\-_*·,]+\w)+(?!\w)")  # b-l-u-e, 4 7 1 9: single characters in a row

# How models mark what they think before they answer: tags (Qwen, DeepSeek, GLM, Seed, Gemma), brackets (Mistral), triangles
# (Kimi), tokens (Cohere, OpenThinker), and the channels of gpt-oss, also where a server has stripped their special tokens.
_THOUGHT = re.compile(
    r"<(?P<end>/)?(?:\w+:)?(?:think|thinking|thoughts?|reasoning|scratchpad|reflection|inner_monologue)\s*>|\[(?P<end2>/)?think\]|◁(?P<end3>/)?think▷"
    r"|<\|(?:begin_of_thought|start_thinking|channel>thought)\b\|?>?|(?P<end4><\|(?:end_of_thought|end_thinking)\|>|<channel\|>)",
    re.IGNORECASE,
)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_TURN_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_STRIPPED = re.compile(r"\s*(?:analysis(?=[A-Z])|(?:analysis.*)?assistantfinal)", re.DOTALL)
_FRAME = re.compile(r"<answer>|<\|begin_of_(?:box|solution)\|>", re.IGNORECASE)
_FRAME_END = re.compile(r"</answer>|<\|end_of_(?:box|solution)\|>", re.IGNORECASE)


def without_thoughts(text: str) -> str | None:
    """What a model says outside its thoughts; None where a thought was left open, so that no answer was reached.

    What stands before a thought's end belongs to it, also where its beginning was part of the prompt. Where there is
    an answer in a frame, such as ``<answer>``, it is that answer.
    """
    if "<|channel|>" in text:
        found = list(_FINAL.finditer(text))
        return _TURN_END.split(text[found[-1].end() :], maxsplit=1)[0] if found else None
    if _STRIPPED.match(text):
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else None
    said, start, thinking = "", 0, False
    for mark in _THOUGHT.finditer(text):
        if mark.lastgroup is None:
            said += "" if thinking else text[start : mark.start()]
            thinking = True
        else:
            said = said if thinking else ""
            start, thinking = mark.end(), False
    if thinking:
        return None
    return _FRAME_END.split(_FRAME.split(said + text[start:])[-1], maxsplit=1)[0]


def opens_thought(prompt: str) -> bool:
    """Whether a text ends in the beginning of a thought, as some chat templates do: what follows it is thought first."""
    text = prompt.rstrip()
    marks = list(_THOUGHT.finditer(text))
    return bool(marks) and marks[-1].end() == len(text) and marks[-1].lastgroup is None


def marks_thought(token: str) -> bool:
    """Whether a token of a vocabulary marks thoughts off, so that it must not be left out of what is read."""
    return token == "<|channel|>" or _THOUGHT.fullmatch(token) is not None


def normal(text: str) -> str:
    """One form of a text to compare: thoughts left out, compatibility characters folded, lower case, straight quotes, single
    spaces."""
    folded = (
        unicodedata.normalize("NFKC", without_thoughts(text) or "").casefold().replace("\u2019", "'").replace("`", "'")
    )
    return " ".join(folded.split())


def same(first: str, second: str) -> bool:
    """Whether two answers are one but for case, articles and punctuation. Two empty ones are not."""
    return bare(first) == bare(second) != ""


def bare(text: str) -> str:
    """A text without case, articles and punctuation."""
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]", " ", normal(text))).split())


def words_of(text: str) -> list[str]:
    """The words of a text in its normal form, without marks between them."""
    return re.findall(r"\w+", normal(text))


def says(answer: str, phrase: str) -> bool:
    """Whether a phrase stands in an answer as whole words, in any case, also spelled out letter by letter."""
    wanted = _words(phrase)
    return bool(wanted) and f" {wanted} " in f" {_words(answer)} "


def _words(text: str) -> str:
    joined = _SPELLED.sub(lambda match: re.sub(r"[\W_]", "", match.group()), normal(text))
    return " ".join(re.sub(r"[^\w\s]|_", " ", joined).split())


def conclusions(answer: str) -> tuple[str, ...]:
    """What an answer comes to, the likeliest first: what follows "the answer is", then all of it, each in the normal form."""
    text = normal(answer)
    return tuple(dict.fromkeys((_SAID.split(text)[-1], text)))


def in_digits(text: str) -> str:
    """A normal text with the small numbers in it in digits."""
    return re.sub(r"\w+", lambda match: _NUMBERS.get(match.group(), match.group()), text)
