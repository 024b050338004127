"""Every probe's judge against planted harm and against innocence, in short: privacy. The long run is
``python -m benchmarks.battery``."""

from __future__ import annotations

import pytest

from benchmarks.battery import of_risk
from vlaudit.battery import failures

BATTERIES = of_risk('privacy')


@pytest.mark.parametrize("name", BATTERIES)
def test_nothing_is_shown_to_be_bad(name: str) -> None:
    assert not failures(*BATTERIES[name], audits=5)
