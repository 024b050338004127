"""How long a scan still takes: by work done, whatever the machine is busy with."""

from __future__ import annotations

import pytest

from vlaudit.audit.time_left import PACE_PRIOR, TimeLeft

UNITS = [(f"a{i}", "a", 10.0) for i in range(10)] + [(f"b{i}", "b", 10.0) for i in range(10)]


def test_before_anything_has_run_it_is_the_estimate_side_by_side() -> None:
    assert TimeLeft(UNITS).seconds() == pytest.approx(200)
    assert TimeLeft(UNITS, workers=2).seconds() == pytest.approx(100)
    assert TimeLeft([]).share == 1 and TimeLeft([]).seconds() == 0


def test_units_tell_of_their_own_probe_first() -> None:
    left = TimeLeft(UNITS)
    for i in range(5):
        left.add(f"a{i}", 30.0)  # three times the estimate
    own = 50 * (150 + 10 * (150 + 10) / (50 + 10)) / (50 + 10)
    other = 100 * (150 + 10) / (50 + 10)
    assert left.seconds(150.0) == pytest.approx(own + other, rel=0.01)
    assert left.share == pytest.approx(150 / (150 + own + other))


def test_a_busy_machine_changes_the_pace_and_not_the_work() -> None:
    idle, busy = TimeLeft(UNITS), TimeLeft(UNITS)
    for clock in (idle, busy):
        for i in range(10):
            clock.add(f"a{i}", 10.0)
    assert idle.seconds(100.0) == pytest.approx(100)
    assert busy.seconds(400.0) == pytest.approx(100 * (400 + PACE_PRIOR) / (100 + PACE_PRIOR))
    assert idle.share == busy.share == pytest.approx(0.5)


def test_what_is_done_of_a_running_unit_counts() -> None:
    left = TimeLeft([("long", "a", 100.0)])
    left.inside = {"long": 0.75}
    assert left.share == pytest.approx(0.75) and left.seconds(75.0) == pytest.approx(25)


def test_units_that_need_not_run_are_no_work_left() -> None:
    left = TimeLeft(UNITS)
    left.drop([f"b{i}" for i in range(10)])
    assert left.seconds() == pytest.approx(100)
    left.add("b3", 3.0)
    assert left.seconds() == pytest.approx(100), "it was dropped"
