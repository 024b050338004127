"""The indefinite article of English, where questions and captions are made of names."""

from __future__ import annotations

import re


def with_article(name: str) -> str:
    """``a judge``, ``an artist``."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def mend_articles(text: str) -> str:
    """``a artist or a cook`` as English has it: ``an artist or a cook``."""
    return re.sub(r"\ba(?= [aeiou])", "an", text)
