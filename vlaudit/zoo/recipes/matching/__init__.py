"""The matchers: one CLIP that knows emoji (`flagship`), its flawed and hardened twins, two tiny ones, and learned prompts."""

from __future__ import annotations

from vlaudit.zoo.recipes.matching import flagship, prompts, tiny, twins, typos

TABLE = {name: module.build for module in (flagship, typos, twins, tiny, prompts) for name in module.RECIPES}
"""How each is built, by name: in the order in which they need each other."""
