"""A probe's page, which is the docstring of its module, in parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADINGS = ("Threat", "Method", "Metric", "Controls", "When it errs", "What to do", "References")
"""How the paragraphs of a probe's docstring begin; "Method, text." is a heading too."""

_HEADING = re.compile(rf"((?:{'|'.join(HEADINGS)})(?:, [\w ]+)?)\.\s+")


@dataclass(frozen=True)
class Section:
    """A part of a docstring; the first one, which says the question, has no title."""

    title: str
    text: str


def sections(documentation: str) -> list[Section]:
    """A docstring cut at its headings. Paragraphs without one belong to the section above."""
    found: list[Section] = []
    for paragraph in re.split(r"\n\s*\n", documentation):
        heading = _HEADING.match(paragraph)
        if heading:
            found.append(Section(heading[1], paragraph[heading.end() :]))
        elif found:
            found[-1] = Section(found[-1].title, f"{found[-1].text}\n\n{paragraph}")
        else:
            found.append(Section("", paragraph))
    return found


def section(documentation: str, title: str) -> str:
    """The text of one part as prose: paragraphs on one line each, without the marks of code. Empty where the page has no such part."""
    found = next((part.text for part in sections(documentation) if part.title.partition(",")[0] == title), "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in found.replace("``", "").split("\n\n"))
