"""The zoo: small, really trained targets with known flaws (or known to be clean). Torch-free.

``specimens.toml`` says of each what it is made of, what is planted in it and what every probe must say. The weights and
prompt files lie under ``weights/``. Nothing here knows how they were made: that is ``recipes/``.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from vlaudit.config import TargetSpec
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.files import file_sha256, fingerprint, folder_files
from vlaudit.records import Family

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "weights"
DEFAULTS = ("tiny-backdoor", "gen-backdoor-patch", "t2i-backdoor-encoder")
"""What `vlaudit scan` audits when it is told nothing: one of each family, each with a flaw that is found quickly."""
FIRST_LOOK: dict[str, dict[str, Any]] = {
    "prompt-trigger-inversion": {}, "typographic": {}, "unsafe-file": {},
    "output-collapse-inversion": {"text": False}, "visual-instruction": {}, "counterfactual-gap": {}, "chat-template": {},
    "encoder-trigger-scan": {"words": 400}, "homoglyph-sweep": {"captions": 40}, "memorization-norm": {},
}  # fmt: skip
"""The probes of that scan, with what shortens them: what is planted in the three, and something of each risk, in about a minute on two cores."""


class Specimen(BaseModel):
    """One bundled target. Paths in ``model`` and ``prompt`` begin with what a recipe made, written ``@/RECIPE``."""

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
    return re.sub(r"@/([\w-]+)", lambda found: str(folder(found[1])), spec)


@cache
def folder(recipe: str) -> Path:
    """The folder of what a recipe made. One that is laid over another (see the table) is stored without the files that are the
    other's; the whole is put together in the user's cache, under the hash of what it is made of."""
    under = _table()["laid_over"].get(recipe)
    if under is None:
        return WEIGHTS / recipe
    layers = [WEIGHTS / under, WEIGHTS / recipe]
    stored = {path.relative_to(layer): path for layer in layers for path in folder_files(layer)}
    whole = _cache() / fingerprint(list(stored.values()))[:16] / recipe
    try:
        if not _is_whole(whole, stored):
            with tempfile.TemporaryDirectory(dir=whole.parents[1], ignore_cleanup_errors=True) as scratch:
                for name, path in stored.items():
                    (Path(scratch) / "new" / recipe / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, Path(scratch) / "new" / recipe / name)
                if os.path.lexists(whole.parent) and not _is_whole(whole, stored):  # else another process was first
                    whole.parent.rename(Path(scratch) / "old")
                (Path(scratch) / "new").rename(whole.parent)
    except OSError as error:
        if not _is_whole(whole, stored):
            raise UsageError(
                f"The model of a specimen cannot be put together in '{whole.parents[1]}': {error.strerror}.",
                "Make room there, or name another folder in the environment variable XDG_CACHE_HOME.",
            ) from error
    return whole


def _is_whole(whole: Path, stored: dict[Path, Path]) -> bool:
    """Whether a folder of the cache, where anybody may clean up, holds these files and no other."""
    with suppress(OSError):
        return {path.relative_to(whole) for path in folder_files(whole)} == set(stored) and all(
            (whole / name).is_file() and file_sha256(whole / name) == file_sha256(path) for name, path in stored.items()
        )
    return False


def _cache() -> Path:
    """Where it can be written to, else a new folder among the temporary files. A relative ``XDG_CACHE_HOME`` counts as none, as its
    specification says."""
    with suppress(OSError, RuntimeError):  # no home, or none that can be written to
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        place = (named if named.is_absolute() else Path.home() / ".cache") / "vlaudit"
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            return place
    return Path(tempfile.mkdtemp(prefix="vlaudit-"))


def thin(recipe: str) -> None:
    """Leave out of the stored folder of a recipe what it would be laid over."""
    under = _table()["laid_over"].get(recipe)
    for path in folder_files(WEIGHTS / recipe) if under else ():
        twin = WEIGHTS / str(under) / path.relative_to(WEIGHTS / recipe)
        if twin.is_file() and twin.read_bytes() == path.read_bytes():
            path.unlink()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "specimens.toml").read_text(encoding="utf-8"))


@cache
def specimens() -> tuple[Specimen, ...]:
    """All bundled specimens, in the order of the table."""
    return tuple(Specimen.model_validate(row) for row in _table()["specimen"])


def get(name: str) -> Specimen:
    """A specimen by name. Raises UsageError with a did-you-mean."""
    for specimen in specimens():
        if specimen.name == name:
            return specimen
    raise UsageError(f"There is no specimen '{name}'.", did_you_mean(name, [s.name for s in specimens()]))
