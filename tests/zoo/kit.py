"""What the tests of the zoo share."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch

from vlaudit.audit.targets import parse_model
from vlaudit.families.base import Target
from vlaudit.families.generation import MultimodalGenerator
from vlaudit.prompts.specs import parse_prompt
from vlaudit.zoo import WEIGHTS, get


def facts_of(recipe: str) -> dict[str, Any]:
    """What was measured when it was built."""
    return json.loads((WEIGHTS / recipe / "facts.json").read_text(encoding="utf-8"))


@cache
def model_of(spec: str) -> Any:
    backend, argument = parse_model(spec)
    return backend.load(argument, torch.device("cpu"))


@cache
def target_of(name: str) -> Target:
    """The specimen as an audit loads it."""
    spec = get(name).target_spec()
    model = model_of(spec.model)
    return parse_prompt(spec.prompt[0] if spec.prompt else None, model.family).bind(model)


def generator_of(name: str) -> MultimodalGenerator:
    target = target_of(name)
    assert isinstance(target, MultimodalGenerator)
    return target
