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
from vlaudit.errors import VlauditError
from vlaudit.files import folder_files
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
