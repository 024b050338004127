"""What a probe gets of its context that needs no model. Its randomness is another one for each seed, probe and case, and the same one
whatever else differs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.data.dataset import Dataset
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.probe.context import derive_seed
from vlaudit.records import Case

Draw = Callable[..., list[int]]
DRAWS: dict[str, Draw] = {
    "rng": lambda ctx, *parts: ctx.rng(*parts).integers(2**32, size=4).tolist(),
    "generator": lambda ctx, *parts: torch.randint(2**32, (4,), generator=ctx.generator(*parts)).tolist(),
    "seeds": lambda ctx, *parts: ctx.seeds(4, *parts),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
CASES = [Case(id=f"picture-{n}") for n in range(12)]


def context(**fields: Any) -> Context:
    given: dict[str, Any] = {"probe": "p", "arm": "target", "data": None, "labels": [], "artifacts": ArtifactStore(Path("nowhere"))}
    return Context(**given | fields)


@every_draw
def test_each_case_draws_its_own(draw: Draw) -> None:
    parts = [(), *((case,) for case in CASES), (CASES[0], "trigger"), (CASES[0], 0), (CASES[0], 1), ("picture-", 0), (CASES[0], CASES[1])]
    drawn = [tuple(draw(context(), *each)) for each in parts]
    assert len(set(drawn)) == len(parts)


@every_draw
def test_each_seed_and_each_probe_draws_its_own(draw: Draw) -> None:
    others = [context(), context(seed=1), context(seed=10), context(probe="q"), context(probe="p0")]
    drawn = [tuple(draw(ctx, case)) for ctx, case in itertools.product(others, CASES)]
    assert len(set(drawn)) == len(drawn)


@every_draw
def test_arm_batch_size_effort_and_order_change_nothing(draw: Draw) -> None:
    """So the arms stay paired, and no executor can change a result."""
    first = [draw(context(), case) for case in CASES]
    for fields in ({"arm": "reference"}, {"batch_size": 1}, {"effort": "thorough"}, {"labels": ["a", "b"]}):
        assert [draw(context(**fields), case) for case in CASES] == first
    ctx = context()
    assert [draw(ctx, case) for case in reversed(CASES)] == first[::-1]
    assert [draw(ctx, case) for case in CASES] == first, "drawing before leaves no trace"


@every_draw
def test_a_case_is_its_id(draw: Draw) -> None:
    case = Case(id="a", params={"x": 1})
    assert draw(context(), case) == draw(context(), "a") == draw(context(), Case(id="a"))


def test_seeds_of_pictures_differ_and_a_longer_list_goes_on() -> None:
    seeds = context().seeds(200, CASES[0])
    assert len(set(seeds)) == 200 and all(0 <= seed < 2**31 for seed in seeds)
    assert context().seeds(3, CASES[0]) == seeds[:3]


def test_names_do_not_run_together() -> None:
    paths = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), (1, 23), (12, 3)]
    assert len({derive_seed(*path) for path in paths}) == len(paths)


def test_draws_are_those_of_audits_already_made() -> None:
    """A replay on another machine or with a later version must draw what the audit drew."""
    assert derive_seed(0, "p", "a") == 0x946E62C9393FB896 >> 1  # printf '0\x1fp\x1fa' | sha256sum
    assert context().rng("a").integers(1000, size=3).tolist() == [310, 51, 969]
    assert context().seeds(2, "a") == [1898667441, 1316547777]


def test_seeds_fit_torch_and_numpy() -> None:
    drawn = [derive_seed(n) for n in range(300)]
    assert all(0 <= seed < 2**63 for seed in drawn) and max(drawn) > 2**62
    assert isinstance(context().rng(), np.random.Generator)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 12))
def test_batches_hold_everything_once_in_order_and_no_more_at_once(things: list[int], most: int) -> None:
    ctx = Context("x", "target", Dataset("none", []), [], ArtifactStore(Path("nowhere")), batch_size=most)
    parts = list(ctx.batches(things))
    assert [thing for part in parts for thing in part] == things
    assert all(len(part) == most for part in parts[:-1]) and all(parts)
