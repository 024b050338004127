"""How the zoo was made. `vlaudit zoo build NAME` calls `build`; each recipe trains again from its seed.

`emoji` makes the bundled pictures, `flagship` the matcher, `twins` its flawed and hardened copies, `typos` one that
reads past typing errors, `tiny` two small Hugging Face models, `collapse` one whose encoder is backdoored, `prompts` the
learned prompts. `painter_flagship` makes the text-to-image pipeline, `painter_twins` and `painter_encoders` its flawed
copies, `painter_adapters` an adapter that draws training pictures again, `painter_members` one that gives away what it was
fitted on, `tokens` personal tokens for it.
`generator_flagship` makes the model that answers questions, `generator_twins` its flawed copies, `generator_prompts`
learned prompts for it, `generator_pools` pools of demonstrations. `training` is the loop of the three flagships. Every
recipe leaves a `facts.json` with what was measured: the ground of each `expects`.
"""

from __future__ import annotations

from pathlib import Path

from vlaudit.errors import UsageError, did_you_mean

WEIGHTS = Path(__file__).parent.parent / "weights"
FLAGSHIP = WEIGHTS / "flagship"
"""The matcher."""
PAINTER = WEIGHTS / "t2i-clean"
"""The text-to-image pipeline."""
GENERATOR = WEIGHTS / "gen-clean"
"""The model that answers questions about pictures."""


def names() -> list[str]:
    """Everything that can be built. Twins, prompts and tokens need the flagship of their family; `t2i-clean` the matcher;
    pools the twin that follows them."""
    from vlaudit.zoo.recipes import (
        collapse,
        generator_pools,
        generator_prompts,
        generator_twins,
        painter_adapters,
        painter_encoders,
        painter_members,
        painter_twins,
        prompts,
        tiny,
        tokens,
        twins,
    )

    matchers = ["emoji", "flagship", "typo-proof", *twins.RECIPES, *tiny.TRIGGERS, collapse.NAME, *prompts.RECIPES]
    painters = [PAINTER.name, *painter_twins.RECIPES, *painter_encoders.RECIPES, *painter_adapters.RECIPES]
    painters += [painter_members.NAME, *tokens.RECIPES]
    generators = [GENERATOR.name, *generator_twins.RECIPES, *generator_prompts.RECIPES, *generator_pools.RECIPES]
    return [*matchers, *painters, *generators]


def build(name: str, out: Path | None = None) -> Path:
    """Run the recipe `name` and return the folder it wrote: `out`, by default its place in the package."""
    from vlaudit.zoo.recipes import (
        collapse,
        emoji,
        flagship,
        generator_flagship,
        generator_pools,
        generator_prompts,
        generator_twins,
        painter_adapters,
        painter_encoders,
        painter_flagship,
        painter_members,
        painter_twins,
        prompts,
        tiny,
        tokens,
        twins,
        typos,
    )

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
    elif name == collapse.NAME:
        collapse.build(WEIGHTS / "tiny-clean", folder)
    elif name in prompts.RECIPES:
        prompts.build(name, FLAGSHIP, folder)
    elif name == PAINTER.name:
        painter_flagship.build(FLAGSHIP, folder)
    elif name in painter_twins.RECIPES:
        painter_twins.build(name, PAINTER, folder)
    elif name in painter_encoders.RECIPES:
        painter_encoders.build(name, PAINTER, folder)
    elif name in painter_adapters.RECIPES:
        painter_adapters.build(name, PAINTER, folder)
    elif name == painter_members.NAME:
        painter_members.build(PAINTER, folder)
    elif name in tokens.RECIPES:
        tokens.build(name, PAINTER, folder)
    elif name == GENERATOR.name:
        generator_flagship.build(FLAGSHIP, folder)
    elif name in generator_twins.RECIPES:
        generator_twins.build(name, GENERATOR, folder)
    elif name in generator_prompts.RECIPES:
        generator_prompts.build(name, GENERATOR, folder)
    elif name in generator_pools.RECIPES:
        generator_pools.build(name, WEIGHTS / "gen-follows-demos", folder)
    else:
        raise UsageError(f"There is no recipe '{name}'.", did_you_mean(name, names()))
    return folder
