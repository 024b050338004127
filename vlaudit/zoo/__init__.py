"""The zoo: small, really trained targets with known flaws (or known to be clean). Torch-free.

``specimens.toml`` says of each what it is made of, what is planted in it and what every probe must say. The weights and
prompt files lie under ``weights/``. Nothing here knows how they were made: that is ``recipes/``.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vlaudit.config import TargetSpec
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.records import Family

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights"
DEFAULTS = ("poisoned-prompt", "gen-backdoor-patch", "t2i-backdoor-encoder")
"""What `vlaudit scan` audits when it is told nothing: one of each family."""


class Specimen(BaseModel):
    """One bundled target. Paths in ``model`` and ``prompt`` are relative to ``weights/``, written ``@/…``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: Family = Family.MATCHING
    model: str
    prompt: str | None = None
    data: str
    groups: list[str] = []
    members: str | None = None
    planted: str | None = None  # null: clean
    recipe: str
    expects: dict[str, Literal["vulnerable", "held", "any"]] = {}

    @property
    def target(self) -> str:
        return f"zoo:{self.name}"

    def target_spec(self) -> TargetSpec:
        """The whole target, with the paths of this installation."""
        return TargetSpec(
            model=_here(self.model),
            prompt=[_here(self.prompt)] if self.prompt else [],
            data=self.data,
            groups=self.groups,
            members=self.members,
        )


def _here(spec: str) -> str:
    return spec.replace("@/", f"{WEIGHTS}/")


@cache
def specimens() -> tuple[Specimen, ...]:
    """All bundled specimens, in the order of the table."""
    table = tomllib.loads((FOLDER / "specimens.toml").read_text(encoding="utf-8"))
    return tuple(Specimen.model_validate(row) for row in table["specimen"])


def get(name: str) -> Specimen:
    """A specimen by name. Raises UsageError with a did-you-mean."""
    for specimen in specimens():
        if specimen.name == name:
            return specimen
    raise UsageError(f"There is no specimen '{name}'.", did_you_mean(name, [s.name for s in specimens()]))
