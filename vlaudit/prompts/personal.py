"""Personal tokens: how a caption speaks of a learned concept, and of its class in the reference."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import TextToImagePrompt


@dataclass(frozen=True)
class Concept:
    """A token that stands for a learned concept.

    noun: the class it belongs to; before_noun: whether the token stands before the noun ("a sks dog", DreamBooth) or in
    its place ("a <toy>", textual inversion); template: text with a ``{}`` for the caption, and usually the token.
    """

    token: str
    noun: str | None = None
    before_noun: bool = False
    template: str | None = None

    def __post_init__(self) -> None:
        if not self.token or re.search(r"\s", self.token):
            raise UsageError(
                f"The personal token '{self.token}' is empty or has a space.", "Give one word, such as <toy>."
            )
        if self.template is not None and self.template.count("{}") != 1:
            raise UsageError(
                f"The text '{self.template}' needs exactly one '{{}}' where the caption goes.",
                f"Write for example '{{}} in the style of {self.token}'.",
            )

    @property
    def phrase(self) -> str:
        return f"{self.token} {self.noun}" if self.before_noun and self.noun else self.token

    def put(self, caption: str) -> str:
        """The caption with the concept: in the template; else in the place of the class noun, and a caption that does not
        name it stays as it is (it is not about the concept); without a noun, after the caption."""
        if self.template is not None:
            return self.template.replace("{}", caption)
        if self._named(self.token).search(caption):
            return caption
        if self.noun is None:
            return f"{caption}, {self.token}"
        return self._named(self.noun).sub(lambda _: self.phrase, caption)

    def take(self, caption: str) -> str:
        """The caption with the class noun where the concept was; without a noun, the caption alone."""
        if self.template is not None:
            caption = self.template.replace("{}", caption) if self.noun else caption
        token = self._named(self.token)
        if self.noun is None:
            return re.sub(r"\s{2,}", " ", token.sub("", caption)).strip(" ,") or caption
        if self.before_noun:
            caption = re.sub(f"{token.pattern}\\s+(?={re.escape(self.noun)})", "", caption, flags=re.IGNORECASE)
        return token.sub(lambda _: str(self.noun), caption)

    @staticmethod
    def _named(word: str) -> re.Pattern[str]:
        """The word between word boundaries, also where it is no word to a regular expression (``<toy>``)."""
        return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


class WithoutConcept(TextToImagePrompt):
    """The reference of a personal token: its captions, with the class noun for the token."""

    method = "design"

    def __init__(self, concept: Concept) -> None:
        self._concept = concept
        self.id = f"{{}} ({concept.noun or 'nothing'} for {concept.token})"

    @classmethod
    def parse(cls, argument: str) -> WithoutConcept:
        raise UsageError("The reference of a personal token has no name of its own.", "Name the prompt with the token.")

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self._concept.take(caption)
