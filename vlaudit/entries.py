"""What is wrong with the entries of a file that users write: all of it, each in a sentence with its cure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, ValidationError

from vlaudit.errors import UsageError, did_you_mean

Place = tuple[int | str, ...]


def problems(what: str, error: ValidationError, root: type[BaseModel], cure: str) -> list[UsageError]:
    """One error for each wrong entry. ``what``: the file, as a sentence begins with it; ``cure``: of a value that does not fit."""
    ordered = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt name also lacks the right one
    return [_problem(what, one, root, cure) for one in ordered]


def first_of(found: Sequence[UsageError], command: str) -> UsageError:
    """What is raised of several: the first, how many there are beside it, and the ``command`` that lists them."""
    if len(found) == 1:
        return found[0]
    others = f"{len(found) - 1} more things are" if len(found) > 2 else "1 more thing is"
    return UsageError(f"{found[0].message} ({others} wrong; `{command}` lists all.)", found[0].cure)


def without(raw: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """What is left of a file's content without its wrong entries, so that the others can be looked at too."""
    left = deepcopy(raw)
    places = {one["loc"][: -1 if one["type"] == "missing" else None] for one in error.errors()}
    for place in sorted(places, key=lambda place: [(isinstance(part, int), part) for part in place], reverse=True):  # of a list the last first
        _take_out(left, place)
    return left


def named(place: Place) -> str:
    """``target[2].model``; entries of a list count from 1."""
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _problem(what: str, one: Any, root: type[BaseModel], cure: str) -> UsageError:
    place, where = one["loc"], named(one["loc"])
    section = _section(root, place[:-1])
    if one["type"] == "extra_forbidden":
        return UsageError(f"{what} has an unknown entry '{where}'.", did_you_mean(str(place[-1]), _entries(section)) if section else cure)
    if one["type"] == "missing":
        return UsageError(f"{what} has no '{where}'.", cure)
    allowed = re.findall(r"'([^']+)'", str(one.get("ctx", {}).get("expected", "")))
    if allowed and isinstance(one["input"], str):
        return UsageError(f"{what} has a bad entry '{where}', which is '{one['input']}'.", did_you_mean(one["input"], allowed))
    return UsageError(f"{what} has a bad entry '{where}': {one['msg'].removeprefix('Value error, ').rstrip('.')}.", cure)


def _section(root: type[BaseModel], place: Place) -> type[BaseModel] | None:
    """The model of the table at a place; None where its keys are free."""
    model: type[BaseModel] | None = root
    for part in place:
        if isinstance(part, str) and model is not None:
            field = next((field for name, field in model.model_fields.items() if part in _spellings(name, field)), None)
            model = _model_in(field.annotation) if field else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _entries(section: type[BaseModel]) -> list[str]:
    return [_spellings(name, field)[0] for name, field in section.model_fields.items()]


def _spellings(name: str, field: Any) -> list[str]:
    alias = field.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name]


def _take_out(content: Any, place: Place) -> None:
    *above, last = place or (None,)
    for part in above:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(content, dict):
        content.pop(last, None)
    elif isinstance(content, list) and isinstance(last, int) and last < len(content):
        del content[last]
