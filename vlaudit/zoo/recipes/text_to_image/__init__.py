"""The text-to-image pipelines: one that draws what the matchers see, its flawed twins, adapters and personal tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaudit.zoo.recipes.text_to_image import adapters, flagship, tokens, twins

TABLE: dict[str, Callable[[Path], None]] = {**flagship.BUILDS, **twins.BUILDS, **adapters.BUILDS, **tokens.BUILDS}
"""How each is built into a folder, by name: in the order in which they need each other."""
