"""What a probe gets of its context that needs no model."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vlaudit.data.dataset import Dataset
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore


@given(st.lists(st.integers(), max_size=40), st.integers(1, 12))
def test_batches_hold_everything_once_in_order_and_no_more_at_once(things: list[int], most: int) -> None:
    ctx = Context("x", "target", Dataset("none", []), [], ArtifactStore(Path("nowhere")), batch_size=most)
    parts = list(ctx.batches(things))
    assert [thing for part in parts for thing in part] == things
    assert all(len(part) == most for part in parts[:-1]) and all(parts)
