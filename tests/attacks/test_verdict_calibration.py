"""The simulated audits of ``benchmarks/verdict_calibration.py``: without a flaw there is no alarm."""

from __future__ import annotations

import pytest

from tests.attacks import calibration
from vlaudit.records import Verdict

sim = calibration.load()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (flawed, _) in sim.SCENARIOS.items() if not flawed])
def test_two_hundred_null_audits_raise_no_alarm(name: str) -> None:
    assert sim.calibrate(name, 200)[Verdict.VULNERABLE] == 0
