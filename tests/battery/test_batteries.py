"""Every probe's judge against planted harm and against innocence, in short. The long run is ``python -m benchmarks.battery``."""

from __future__ import annotations

import pytest

from benchmarks.battery import batteries
from vlaudit.battery import failures
from vlaudit.registry import ProbeRegistry

BATTERIES = batteries()


def test_every_probe_has_its_battery() -> None:
    assert not ProbeRegistry.load().classes.keys() - BATTERIES.keys()


@pytest.mark.parametrize("name", BATTERIES)
def test_nothing_is_shown_to_be_bad(name: str) -> None:
    probe, scenarios = BATTERIES[name]
    assert not failures(probe, scenarios)
