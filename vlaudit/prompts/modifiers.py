"""Diversify generation with modifiers (survey section 5.2): each picture's caption gets one of many phrases.

Sources: language enhancement, He et al. 2022 (arXiv:2210.07574) and SuS-X (arXiv:2211.16198); DiffuMask (arXiv:2303.11681).
There a language model writes the sentences; here they come from a file, so that an audit can be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.files import user_path
from vlaudit.prompts.files import read_prompt_lines


class Modifiers(TextToImagePrompt):
    """A list of phrases, of which each seed draws one: "CAPTION, phrase", or the phrase's own ``{}`` holds the caption."""

    method = "modifiers"

    def __init__(self, phrases: Sequence[str], name: str | None = None) -> None:
        if not phrases:
            raise UsageError("A list of modifiers needs at least one phrase.", "Give a text file, one phrase a line.")
        for number, phrase in enumerate(phrases, 1):
            if phrase.count("{}") > 1:  # not quoted: an audit folder from elsewhere may name any file
                raise UsageError(f"Modifier {number} of the list has more than one '{{}}'.", "The caption goes into one.")
        self.phrases = tuple(phrases)
        digest = hashlib.sha256("\n".join(phrases).encode()).hexdigest()[:6]
        self.id = f"modifiers-{name or len(phrases)}-{digest}"

    @classmethod
    def parse(cls, argument: str) -> Modifiers:
        """``modifiers:FILE``: a text file, one phrase a line; blank lines and ``#`` lines are skipped."""
        path = user_path(argument)
        prompt = cls(read_prompt_lines(path, "modifiers file", "Give a text file, one phrase a line."), path.stem)
        prompt.path = path
        return prompt

    @property
    def text(self) -> str:
        return " | ".join(self.phrases)

    def wording(self, caption: str, seed: int | None = None) -> str:
        """Seeds draw a phrase; without one the caption does, so that a text without a picture is always the same."""
        key = caption if seed is None else seed
        draw = int.from_bytes(hashlib.sha256(f"modifier {key}".encode()).digest()[:8], "big")
        phrase = self.phrases[draw % len(self.phrases)]
        return phrase.replace("{}", caption) if "{}" in phrase else f"{caption}, {phrase}"
