"""Semantic prompt design (survey section 5.2): hard text around the caption, or slots for what pictures are asked to be.

Source: Witteveen & Andrews 2022, "Investigating Prompt Engineering in Diffusion Models" (arXiv:2211.15462): adjectives,
nouns, artists' names and lighting. Here the noun is the caption's setting, because the caption itself says what is drawn.
"""

from __future__ import annotations

from vlaudit.data.articles import with_article
from vlaudit.errors import UsageError
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.prompts.specs import parse_options

SLOTS = ("adjective", "noun", "artist", "lighting")


class Design(TextToImagePrompt):
    """Text with a ``{}`` where the caption goes, such as "an oil painting of {} by Monet, dramatic lighting"."""

    method = "design"

    def __init__(self, template: str = "{}") -> None:
        if template.count("{}") != 1:
            raise UsageError(
                f"The prompt '{template}' needs exactly one '{{}}' where the caption goes.",
                "Write for example 'an oil painting of {}'.",
            )
        self.template = template
        self.id = template

    @classmethod
    def parse(cls, argument: str) -> Design:
        """Text with ``{}``, or ``adjective=…,noun=…,artist=…,lighting=…``, each optional: "a moody" "photograph" of the
        caption "by" an artist, "soft" lighting."""
        if "{" in argument:
            return cls(argument)
        slots = parse_options(argument, cls.method, SLOTS)
        if "file" in slots or not all(slots.values()):
            raise UsageError(
                f"'{argument}' is no prompt design.",
                f"Write text with '{{}}', or {'=…,'.join(SLOTS)}=… (each optional).",
            )
        return cls(compose(**slots))

    def wording(self, caption: str, seed: int | None = None) -> str:
        return self.template.replace("{}", caption)


def compose(adjective: str = "", noun: str = "", artist: str = "", lighting: str = "") -> str:
    """The template that the slots make."""
    head = " ".join(word for word in (adjective, noun) if word)
    head = f"{with_article(head)} of {{}}" if noun else f"{head} {{}}".strip()
    tail = [f" by {artist}"] if artist else []
    tail += [f", {lighting} lighting"] if lighting else []
    return head + "".join(tail)
