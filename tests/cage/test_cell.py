"""A call that is ended from outside, and what is left after it."""

import os
import re
import time

import pytest

from tests.patience import patience
from vlaudit.cage import Stopped
from vlaudit.cage.cell import Cell


def sums(*numbers: int) -> int:
    return sum(numbers)


def test_calls_are_answered_one_after_the_other() -> None:
    cell = Cell(lambda number: (number + 1, os.getpid()), 10)
    first, second = cell(1), cell(2)
    assert (first[0], second[0]) == (2, 3)
    assert first[1] == second[1] != os.getpid(), "one other process answers both"


@pytest.mark.parametrize(
    "hangs", [lambda: 9 ** (9**9), lambda: re.match(r"(a+)+$", "a" * 60 + "b"), lambda: time.sleep(1000)]
)
def test_one_step_that_does_not_end_is_ended(hangs: object) -> None:
    cell = Cell(hangs, 0.3)  # type: ignore[arg-type]
    then = time.monotonic()
    with pytest.raises(Stopped, match=r"did not end within 0\.3 s"):
        cell()
    assert time.monotonic() - then < patience(5)
    with pytest.raises(Stopped):
        cell()  # and it can be asked again


def test_memory_is_bounded() -> None:
    cell = Cell(lambda size: len("A" * size), 20, memory=200_000_000)
    assert cell(1000) == 1000
    with pytest.raises(Stopped, match=r"more than 0\.2 GB"):
        cell(4 * 10**9)
    assert cell(1000) == 1000


def test_what_foreign_code_raises_is_said_in_its_words() -> None:
    def ends(how: str) -> None:
        if how == "raises":
            raise KeyError("lost")
        if how == "exits":
            raise SystemExit(0)
        os._exit(0)

    cell = Cell(ends, 10)
    with pytest.raises(RuntimeError, match="KeyError: 'lost'"):
        cell("raises")
    with pytest.raises(RuntimeError, match="SystemExit"):
        cell("exits")
    with pytest.raises(Stopped, match="ended the process"):
        cell("ends")
    with pytest.raises(RuntimeError, match="lost"):
        cell("raises")


def test_a_fork_gets_a_cell_of_its_own() -> None:
    cell = Cell(lambda: os.getpid(), 10)
    mine = cell()
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(there, str(cell()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(here, 100)) != mine
    assert cell() == mine
