"""The generators: one that answers questions about pictures, its flawed twins, learned prefixes and demonstration pools."""

from __future__ import annotations

from vlaudit.zoo.recipes.generation import flagship, pools, prompts, twins

TABLE = {name: module.build for module in (flagship, twins, prompts, pools) for name in module.RECIPES}
"""How each is built, by name: in the order in which they need each other."""
