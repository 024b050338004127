"""Folders that others made: all of them are walked, however deep and whatever in them cannot be opened."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlaudit.data.dataset import load_dataset
from vlaudit.errors import UsageError, VlauditError
from vlaudit.files import folder_files, write_atomically, write_into
from vlaudit.prompts.specs import prompt_files


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file below 1,500 folders, more than Python's own walks can follow."""
    folder = tmp_path / "deep"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        for _ in range(1_500):
            os.mkdir("a")
            os.chdir("a")
        Path("file.bin").touch()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_deep_folders(deep: Path) -> None:
    assert [path.name for path in folder_files(deep)] == ["file.bin"]
    assert [path.name for path in prompt_files([f"vp:{deep}"])] == ["file.bin"]
    with pytest.raises(VlauditError, match="holds no pictures"):
        load_dataset(deep)


def test_what_cannot_be_opened_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a folder of a process that has ended; the file beside it is found, and the folder itself is listed."""
    scandir = os.scandir

    def refusing(place: Any) -> Any:
        if os.path.basename(place) == "net":
            raise OSError(errno.EINVAL, "Invalid argument", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    (tmp_path / "net").mkdir()
    (tmp_path / "file").touch()
    assert [path.name for path in folder_files(tmp_path)] == ["file", "net"]
    assert [path.name for path in prompt_files([f"vp:{tmp_path}"])] == ["file"]


@pytest.fixture(autouse=True)
def _devices_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that fails must not harm the machine of a user who is root."""
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda own, to: pytest.fail(f"{to} was replaced") if str(to).startswith("/dev/") else replace(own, to))


def test_no_file_takes_the_place_of_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is a device"):
        write_atomically(Path(os.devnull), "text")
    monkeypatch.setattr("vlaudit.files.SYSTEM", (f"{tmp_path}/dev/",))
    (tmp_path / "dev").mkdir()
    for folder, kept in (("dev", True), (".", False)):
        link = tmp_path / folder / "stdout"
        link.symlink_to(tmp_path / "file")
        if kept:
            with pytest.raises(UsageError, match="is a device"):
                write_atomically(link, "text")
        else:
            write_atomically(link, "text")
        assert link.is_symlink() is kept and not (tmp_path / "file").exists()


def test_text_goes_into_a_device_or_a_pipe_that_somebody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.stat(os.devnull)
    write_into(Path(os.devnull), "text")
    assert os.stat(os.devnull).st_ino == before.st_ino
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="Nobody reads"):
        write_into(pipe, "text")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_into(pipe, "a text")
    assert os.read(reader, 100) == b"a text"
    os.close(reader)
    with pytest.raises(VlauditError, match="is full"):
        write_into(Path("/dev/full"), "text")
    (tmp_path / "link").symlink_to(os.devnull)  # in somebody's folder: replaced, as any other
    write_into(tmp_path / "link", "text")
    assert (tmp_path / "link").read_text() == "text" and not (tmp_path / "link").is_symlink()
