"""What tests of privacy share: a painter's context."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import painters
from tests.attacks.privacy.painted import WORLD, Make
from vlaudit.probe import Context, Probe


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The context of a probe on a painter that remembers the pictures of some first members."""

    def context(probe: type[Probe], remembered: int = 0, world: painters.World = WORLD, odds: float = 6.0) -> Context:
        return painters.context(painters.painter(world, remembered, odds), world, probe.info.id, tmp_path)

    return context
