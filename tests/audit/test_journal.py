"""The journal survives a kill at any byte, and refuses what it cannot trust."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.audit.journal import Journal, UnitResult
from vlaudit.errors import UsageError
from vlaudit.records import Trial


def results(count: int) -> list[UnitResult]:
    trials = [Trial(case=f"c{i}", arm="target", values={"x": i / 7}) for i in range(3)]
    return [UnitResult(unit=f"u{n}", trials=trials, seconds=0.5) for n in range(count)]


def test_round_trip(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for result in results(3):
        journal.append(result)
    assert journal.results() == {result.unit: result for result in results(3)}


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 2000))
def test_killed_at_any_byte_keeps_all_closed_units(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for result in results(3):
        journal.append(result)
    journal.close()
    path = folder / "trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    journal = Journal(folder)
    kept = journal.results()
    assert list(kept) == [f"u{n}" for n in range(len(kept))]
    assert all(len(result.trials) == 3 for result in kept.values())
    journal.append(results(4)[3])  # goes on where the last closed unit ended
    assert list(journal.results()) == [*kept, "u3"]
    journal.close()


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for result in results(2):
        journal.append(result)
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b"{broken" + path.read_bytes())
    with pytest.raises(UsageError, match="damaged"):
        journal.results()


def test_every_line_names_its_unit(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["u0"] * 4 and "closed" in lines[-1]
