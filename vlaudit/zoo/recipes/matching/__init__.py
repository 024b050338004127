"""The matchers: one CLIP that knows emoji (`flagship`), its flawed and hardened twins, two tiny ones, and learned prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlaudit.zoo.recipes.matching import flagship, moved_prompts, prompts, tiny, twins, typos

TABLE: dict[str, Callable[[Path], None]] = {**flagship.BUILDS, **typos.BUILDS, **twins.BUILDS, **tiny.BUILDS, **prompts.BUILDS, **moved_prompts.BUILDS}
"""How each is built into a folder, by name: in the order in which they need each other."""
