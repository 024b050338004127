"""The text-to-image pipelines: one that draws what the matchers see, its flawed twins, adapters and personal tokens."""

from __future__ import annotations

from vlaudit.zoo.recipes.text_to_image import adapters, flagship, tokens, twins

TABLE = {name: module.build for module in (flagship, twins, adapters, tokens) for name in module.RECIPES}
"""How each is built, by name: in the order in which they need each other."""
