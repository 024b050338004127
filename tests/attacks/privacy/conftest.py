"""What tests of privacy share: a painter's context, and the blind baseline, which is pure and slow, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import painters
from tests.attacks.privacy.painted import WORLD, Make
from vlaudit.attacks.shared import membership
from vlaudit.probe import Context, Probe


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The context of a probe on a painter that remembers the pictures of some first members."""

    def context(probe: type[Probe], remembered: int = 0, world: painters.World = WORLD, odds: float = 6.0) -> Context:
        return painters.context(painters.painter(world, remembered, odds), world, probe.info.id, tmp_path)

    return context


@pytest.fixture(scope="session", autouse=True)
def blind_once() -> Iterator[None]:
    """Simulated audits of one seed differ in their losses, not in what a blind eye sees."""
    known: dict[tuple[bytes, ...], Any] = {}
    scores = membership.blind_scores

    def remembered(features: Any, *about: Any) -> Any:
        key = (features.tobytes(), *(repr(list(part)).encode() for part in about))
        if key not in known:
            known[key] = scores(features, *about)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "blind_scores", remembered)
        yield
