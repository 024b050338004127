"""The generators: one that answers questions about pictures, its flawed twins, learned prefixes and demonstration pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaudit.zoo.recipes.generation import flagship, pools, prompts, twins

TABLE: dict[str, Callable[[Path], None]] = {**flagship.BUILDS, **twins.BUILDS, **prompts.BUILDS, **pools.BUILDS}
"""How each is built into a folder, by name: in the order in which they need each other."""
