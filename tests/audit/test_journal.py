"""The journal survives a kill at any byte, and refuses what it cannot trust."""

import errno
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.audit import journal as journals
from vlaudit.audit.journal import Journal, UnitResult
from vlaudit.checksums import sealed
from vlaudit.errors import UsageError, VlauditError
from vlaudit.records import Trial


def results(count: int) -> list[UnitResult]:
    trials = [Trial(case=f"c{i}", arm="target", values={"x": i / 7}) for i in range(3)]
    return [UnitResult(unit=f"u{n}", trials=trials, seconds=0.5) for n in range(count)]


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def refused(call: Callable[[], object], folder: Path) -> UsageError:
    """The error of a call, which names the place and a cure."""
    with pytest.raises(UsageError) as caught:
        call()
    assert str(folder) in caught.value.message and caught.value.cure
    return caught.value


def test_round_trip(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for result in results(3):
        journal.append(result)
    assert journal.results() == {result.unit: result for result in results(3)}


def test_what_foreign_code_says_never_spoils_the_journal(tmp_path: Path) -> None:
    """Half of a surrogate pair, which no reader of the journal takes, in an error or a value."""
    journal = Journal(tmp_path)
    journal.append(UnitResult(unit="u0", error="RuntimeError: \ud800"))
    journal.append(UnitResult(unit="u1", trials=[Trial(case="c", arm="target", values={"said": ["\ud800"]})]))
    assert journal.results()["u0"].error == "RuntimeError: \ufffd"
    assert journal.results()["u1"].trials[0].values == {"said": ["\ufffd"]}


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
    path = written(tmp_path, 2)
    path.write_bytes(b"{broken" + path.read_bytes())
    with pytest.raises(UsageError, match="damaged: line 1 "):
        Journal(tmp_path).results()


def test_every_line_names_its_unit(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path, 1).read_text().splitlines()]
    assert [line["unit"] for line in lines] == ["u0"] * 4 and "closed" in lines[-1]


def written(folder: Path, count: int) -> Path:
    journal = Journal(folder)
    for result in results(count):
        journal.append(result)
    journal.close()
    return folder / "trials.jsonl"


def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    sound, true, draw = path.read_bytes(), Journal(tmp_path).results(), random.Random(0)
    lines = sound.count(b"\n")
    for _ in range(1500):
        place, bit = draw.randrange(len(sound)), 1 << draw.randrange(8)
        path.write_bytes(sound[:place] + bytes([sound[place] ^ bit]) + sound[place + 1 :])
        try:
            assert Journal(tmp_path).results() == true, (place, bit)
        except UsageError as error:
            number = int(re.search(r"damaged: line (\d+) ", error.message)[1])  # type: ignore[index]
            assert number in (found := sound[:place].count(b"\n") + 1, found + 1) and number <= lines
    for place in [place for place, byte in enumerate(sound) if byte == ord("\n")]:
        for bit in range(8):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
            with pytest.raises(UsageError, match="damaged: line"):
                Journal(tmp_path).results()


def lines_changed(sound: list[bytes]) -> Iterator[list[bytes]]:
    """All ways to drop, repeat or swap whole lines, the last ones aside: without them the audit is only unfinished."""
    for n in range(len(sound) - 1):
        yield sound[:n] + sound[n + 1 :]
        yield [*sound[:n], sound[n + 1], sound[n], *sound[n + 2 :]]
    for n in range(len(sound)):
        for to in range(n, len(sound) + 1):
            yield [*sound[:to], sound[n], *sound[to:]]
    yield sound[4:] + sound[:4]


def test_lines_dropped_repeated_or_moved_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    sound, true = path.read_bytes().splitlines(keepends=True), Journal(tmp_path).results()
    for changed in lines_changed(sound):
        path.write_bytes(b"".join(changed))
        try:
            assert Journal(tmp_path).results() == true or changed == sound
        except UsageError as error:
            assert "does not agree with its checksum" in error.message
        else:
            assert changed == sound, "unseen"


def test_only_the_scan_itself_mends(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"unit": "torn')
    assert len(Journal(tmp_path).results()) == 2 and path.read_bytes() == whole + b'{"unit": "torn'
    journal = Journal(tmp_path)
    assert len(journal.results(mend=True)) == 2 and path.read_bytes() == whole
    journal.close()


def test_a_failed_unit_is_replaced_and_a_good_one_never(tmp_path: Path) -> None:
    journal, (good,) = Journal(tmp_path), results(1)
    for result in (UnitResult(unit="u0", error="away"), good, UnitResult(unit="u0", error="again")):
        journal.append(result)
    assert journal.results() == {"u0": good}


def test_journals_without_checksums_are_read_and_not_gone_on_with(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    true = Journal(tmp_path).results()
    bare = [re.sub(', "checksum": "[0-9a-f]*"', "", line) + "\n" for line in path.read_text().splitlines()]
    path.write_text("".join(bare))
    assert Journal(tmp_path).results() == true
    path.write_text("".join([*bare[:4], bare[3], *bare[4:]]))
    assert Journal(tmp_path).results() == true, "a repeated closing line drops no trials"
    assert "earlier version" in refused(lambda: Journal(tmp_path).append(results(3)[2]), tmp_path).message
    path.write_text("".join(bare) + sealed(bare[0])[0] + "\n")
    with pytest.raises(UsageError, match="line 9 does not agree"):
        Journal(tmp_path).results()


def test_two_scans_in_one_folder_are_refused(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.append(results(1)[0])
    with pytest.raises(UsageError, match="Another scan is writing"):
        second.append(results(2)[1])
    first.close()
    second.append(results(2)[1])
    assert len(second.results()) == 2
    second.close()


def test_a_forked_worker_does_not_keep_the_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.lock()
    said, says = os.pipe()
    child = os.fork()
    if not child:
        os.write(says, b"here")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(said, 4)
        journal.close()
        Journal(tmp_path).lock()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_journal_that_another_has_grown_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert "Another scan has written" in refused(lambda: journal.append(results(2)[1]), tmp_path).message
    journal.close()


def test_a_unit_is_on_the_disk_before_it_counts_as_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power right after ``append`` has kept the unit."""
    journal, path, real = Journal(tmp_path), tmp_path / "trials.jsonl", os.fsync
    synced: list[tuple[int, int]] = []  # which file, and how much of it

    def fsync(file: int) -> None:
        real(file)
        status = os.fstat(file)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    for result in results(3):
        journal.append(result)
        status = path.stat()
        assert synced and synced[-1] == (status.st_ino, status.st_size)
    journal.close()


def test_a_unit_that_cannot_be_synced_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])
    before = (tmp_path / "trials.jsonl").read_bytes()

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert "Input/output error" in refused(lambda: journal.append(results(2)[1]), tmp_path).message
    assert (tmp_path / "trials.jsonl").read_bytes() == before
    journal.append(results(2)[1])
    assert list(journal.results()) == ["u0", "u1"]
    journal.close()


def test_what_cannot_even_be_taken_back_is_cut_off_by_the_next_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])

    def broken(*_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", broken)
        patched.setattr(os, "fsync", broken)
        refused(lambda: journal.append(UnitResult(unit="u1", trials=results(2)[1].trials)), tmp_path)
        refused(lambda: journal.append(results(2)[1]), tmp_path)
    journal.close()
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # nor was it whole
    again = Journal(tmp_path)
    again.append(results(2)[1])
    assert list(again.results()) == ["u0", "u1"]
    again.close()


def test_a_failed_write_leaves_closed_units_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])
    before = (tmp_path / "trials.jsonl").read_bytes()
    real = os.write

    def write(file: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:90])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(VlauditError, match="is full"):
        journal.append(results(2)[1])
    assert (tmp_path / "trials.jsonl").read_bytes() == before
    monkeypatch.setattr(os, "write", real)
    journal.append(results(2)[1])
    assert len(journal.results()) == 2


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000, b'{"unit": "u", "trial": ' + b'{"values":' * 5000, b"null", b"{}", b'{"unit": [], "closed": {}}',
        b'{"unit": "u", "closed": {"unit": "v"}}', b'{"unit": "u", "closed": {"seconds": 1e999, "error": null}}',
        b'{"unit": "u", "trial": {"case": "a", "arm": "target", "values": {"x": NaN}}}', b'{"unit": "u", "closed": 3}',
        b'{"unit": "u", "trial": {"case": "a", "arm": "target", "values": {"x": 1' + b"0" * 3000 + b"}}}",
        b'{"unit": "u", "trial": {"case": "a", "arm": "target", "values": {"x": 1' + b"0" * 9000 + b"}}}",
        b'{"unit": "u", "trial": {"case": "\\ud800", "arm": "target"}}', b"\xff\xfe", b"", b'{"unit": "u", "closed": {}, "x": 1}',
    ],
)  # fmt: skip
def test_lines_that_no_scan_writes(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "trials.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UsageError, match="damaged: line 1 "):
        Journal(tmp_path).results()


# --- who may write -------------------------------------------------------------------------------------------------


def test_a_lock_is_taken_once_and_let_go_once(tmp_path: Path) -> None:
    before, first, second = open_files(), Journal(tmp_path), Journal(tmp_path)
    first.lock()
    first.lock()
    assert open_files() == before + 1
    for _ in range(3):
        error = refused(second.lock, tmp_path)
    assert "Another scan is writing" in error.message and "--out" in error.cure
    second.close()
    refused(second.lock, tmp_path)
    held = first._lock
    first.close()
    assert held not in journals._locks, "nothing is left for a worker to close"
    first.close()
    assert open_files() == before, "no descriptor is left behind"
    second.lock()
    refused(first.lock, tmp_path)
    second.close()
    assert open_files() == before


def test_a_worker_lets_go_of_every_lock_and_of_nothing_else(tmp_path: Path) -> None:
    """What runs in a fork, run here: descriptors that were let go of belong to somebody else by now."""
    before, held, journal = open_files(), len(journals._locks), Journal(tmp_path)
    journal.lock()
    journals._let_go()
    assert open_files() == before - held
    other = os.open(tmp_path, os.O_RDONLY)
    journal.close()
    os.close(other)
    other_journal = Journal(tmp_path)
    other_journal.lock()
    other_journal.close()


@pytest.mark.parametrize(("number", "free"), [(errno.EWOULDBLOCK, False), (errno.EACCES, False), (errno.ENOLCK, True), (errno.EOPNOTSUPP, True)])
def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, free: bool) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    journal = Journal(tmp_path)
    if free:
        journal.append(results(1)[0])
        assert list(journal.results()) == ["u0"]
        journal.close()
    else:
        refused(journal.lock, tmp_path)


def test_what_is_no_folder_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file", "nowhere"):
        assert "Cannot write to" in refused(Journal(tmp_path / name).lock, tmp_path / name).message


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe", "pipe with a reader"])
def test_only_a_regular_file_is_written(tmp_path: Path, kind: str) -> None:
    path, own, reader = tmp_path / "trials.jsonl", tmp_path / "own", None
    journal = Journal(tmp_path)
    journal.lock()
    journal._size = 0  # nothing was there when it was read
    if "link" in kind:
        path.symlink_to(own)
        if kind == "link":
            own.write_text("")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if "reader" in kind else None
    before = open_files()
    assert "is not a regular file" in refused(lambda: journal.append(results(1)[0]), path).message
    assert open_files() == before and (not own.exists() or own.read_text() == "")
    journal.close()
    if reader:
        os.close(reader)


def test_a_disk_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real = Journal(tmp_path), os.open
    journal.append(results(1)[0])

    def read_only(path: object, flags: int, *more: int) -> int:
        if flags & os.O_WRONLY:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    assert "Read-only file system" in refused(lambda: journal.append(results(2)[1]), tmp_path).message
    journal.close()


def test_a_number_that_no_reader_takes_is_never_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(results(1)[0])
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(UnitResult(unit="u1", seconds=float("nan")))
    assert list(journal.results()) == ["u0"]
    journal.close()


# --- what is read --------------------------------------------------------------------------------------------------


def test_of_a_unit_that_failed_again_the_last_try_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for error in ("first", "second"):
        journal.append(UnitResult(unit="u0", error=error))
    assert journal.results()["u0"].error == "second"
    journal.close()


def test_trials_of_an_open_unit_are_dropped_and_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    journal = Journal(tmp_path)
    assert list(journal.results()) == ["u0"] and path.read_bytes() == b"".join(lines[:-1])
    journal.append(results(2)[1])
    assert path.read_bytes() == b"".join(lines)
    journal.close()


def test_the_line_that_is_damaged_is_named_with_its_file_and_a_cure(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines) + 1):
        path.write_bytes(b"".join([*lines[: number - 1], lines[number - 1].replace(b'"u', b'"v'), *lines[number:]]))
        message = refused(lambda: Journal(tmp_path).results(), path).message
        assert f"damaged: line {number} does not agree with its checksum" in message


def test_a_last_line_with_more_behind_it_is_no_torn_one(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "line 4 does not end where it should" in refused(lambda: Journal(tmp_path).results(), path).message


def test_a_line_without_its_checksum_among_others_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    lines = path.read_text().splitlines(keepends=True)
    for number in range(4):
        path.write_text("".join(re.sub(', "checksum": "[0-9a-f]*"', "", line) if n == number else line for n, line in enumerate(lines)))
        assert "does not agree with its checksum" in refused(lambda: Journal(tmp_path).results(), path).message


def test_a_line_put_before_the_first_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    first = path.read_text().splitlines(keepends=True)[0]
    path.write_text(re.sub(', "checksum": "[0-9a-f]*"', "", first) + path.read_text())
    assert "line 2 does not agree with its checksum" in refused(lambda: Journal(tmp_path).results(), path).message


def test_a_journal_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 2)
    true, size, longest = Journal(tmp_path).results(), path.stat().st_size, max(map(len, path.read_bytes().splitlines(keepends=True)))
    with monkeypatch.context() as patched:
        patched.setattr(journals, "TRIALS_BYTES", size)
        assert Journal(tmp_path).results() == true
        patched.setattr(journals, "TRIALS_BYTES", size - 1)
        assert "is larger than" in refused(lambda: Journal(tmp_path).results(), path).message
    monkeypatch.setattr(journals, "TEXT_BYTES", longest)
    assert Journal(tmp_path).results() == true
    monkeypatch.setattr(journals, "TEXT_BYTES", longest - 1)
    assert f"is longer than {(longest - 1) / 1e6:g} MB" in refused(lambda: Journal(tmp_path).results(), path).message


def test_a_link_in_place_of_the_journal_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    path.rename(tmp_path / "elsewhere")
    for other in ("elsewhere", "nowhere"):
        path.symlink_to(tmp_path / other)
        assert "is a link" in refused(lambda: Journal(tmp_path).results(), path).message
        path.unlink()
    assert Journal(tmp_path).results() == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]", "is not what a scan writes"), (b'{"unit": "u", "open": {}}', "is not what a scan writes"),
        (b'{"unit": "u", "trial": {"case": "a"}}', "is not what a scan writes"), (b"{", "is not JSON"),
        (b'{"unit": "u", "closed": {"seconds": NaN, "error": null}}', "holds a number that is not finite"),
    ],
)  # fmt: skip
def test_why_a_line_is_refused(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_bytes(line + b"\n")
    assert f"line 1 {why}" in refused(lambda: Journal(tmp_path).results(), path).message
