"""How the zoo was made. `vlaudit zoo build NAME` calls `build`; each recipe trains again from its seed.

A package for each family offers its own table of recipes; what they share lies here. Every recipe leaves a `facts.json` with
what was measured: the ground of each `expects`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaudit.data.emoji import BUNDLED
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.zoo import WEIGHTS, specimens, thin


def table() -> dict[str, Callable[[Path], None]]:
    """How each part of the zoo is built, by name, into a folder."""
    from vlaudit.zoo.recipes import emoji, generation, matching, text_to_image

    return {"emoji": emoji.build, **matching.TABLE, **text_to_image.TABLE, **generation.TABLE}


def build(name: str, out: Path | None = None) -> Path:
    """Build a specimen, or a part of the zoo by the name of its recipe, and return the folder it was written to: ``out``, by
    default its place in the package. Raises UsageError with a did-you-mean."""
    recipes = table()
    recipe = next((specimen.recipe for specimen in specimens() if specimen.name == name), name)
    if recipe not in recipes:
        raise UsageError(f"There is no recipe '{recipe}'.", did_you_mean(recipe, list(recipes)))
    folder = out or (BUNDLED if recipe == "emoji" else WEIGHTS / recipe)
    recipes[recipe](folder)
    if out is None:
        thin(recipe)
    return folder
