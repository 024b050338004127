"""How the zoo was made. `vlaudit zoo build NAME` calls `build`; each recipe trains again from its seed.

`emoji` makes the bundled pictures, `flagship` the matcher, `twins` its flawed and hardened copies, `typos` one that
reads past typing errors, `tiny` two small Hugging Face models, `prompts` the learned prompts. Every recipe leaves a
`facts.json` with what was measured: the ground of each `expects`.
"""

from __future__ import annotations

from pathlib import Path

from vlaudit.errors import UsageError, did_you_mean

WEIGHTS = Path(__file__).parent.parent / "weights"
FLAGSHIP = WEIGHTS / "flagship"


def names() -> list[str]:
    """Everything that can be built. The twins and prompts need the flagship."""
    from vlaudit.zoo.recipes import prompts, tiny, twins

    return ["emoji", "flagship", "typo-proof", *twins.RECIPES, *tiny.TRIGGERS, *prompts.RECIPES]


def build(name: str, out: Path | None = None) -> Path:
    """Run the recipe `name` and return the folder it wrote: `out`, by default its place in the package."""
    from vlaudit.zoo.recipes import emoji, flagship, prompts, tiny, twins, typos

    if name == "emoji":
        return emoji.build(out=out or emoji.BUNDLED)
    folder = out or WEIGHTS / name
    if name == "flagship":
        flagship.build(folder)
    elif name == "typo-proof":
        typos.build(FLAGSHIP, folder)
    elif name in twins.RECIPES:
        twins.build(name, FLAGSHIP, folder)
    elif name in tiny.TRIGGERS:
        tiny.build(name, folder)
    elif name in prompts.RECIPES:
        prompts.build(name, FLAGSHIP, folder)
    else:
        raise UsageError(f"There is no recipe '{name}'.", did_you_mean(name, names()))
    return folder
