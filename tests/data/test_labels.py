"""Labels that are one class to people and several to a program: composed alike, refused, or said."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vlaudit.data.dataset import load_dataset
from vlaudit.data.images import DataError
from vlaudit.data.text_files import look_alikes, read_labels


def test_what_one_disk_composes_and_another_decomposes_is_one_label(tmp_path: Path) -> None:
    for folder in ("caf\u00e9", "cafe\u0301", "hot  dog", "dog "):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / folder / "1.png")
    data = load_dataset(tmp_path / "data")
    assert data.labels == ["caf\u00e9", "dog", "hot dog"] and len(data) == 4
    (tmp_path / "labels.txt").write_text("cafe\u0301\nhot dog\ndog\n", "utf-8")
    assert read_labels(tmp_path / "labels.txt") == ["caf\u00e9", "hot dog", "dog"]
    (tmp_path / "labels.txt").write_text("cafe\u0301\ncaf\u00e9\n", "utf-8")
    with pytest.raises(DataError, match="twice"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize("other", ["ca\u200bt", "\ufeffcat", "\u202ecat", "\uff43at", "cat\u3164", "c\u00adat"])
def test_labels_that_look_the_same_are_refused(other: str) -> None:
    with pytest.raises(DataError, match="look the same and are not"):
        look_alikes(["cat", other], "here")


def test_a_label_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\u200b\n", "utf-8")
    with pytest.raises(DataError, match="shows nothing"):
        read_labels(tmp_path / "labels.txt")


def test_labels_that_differ_in_case_or_underscores_are_said_and_others_are_not() -> None:
    (said,) = look_alikes(["Cook", "cook", "hot dog", "hot_dog", "dog"], "here")
    assert "'Cook' and 'cook', 'hot dog' and 'hot_dog'" in said
    assert look_alikes(["H2", "H\u00b2", "\U0001f469\u200d\U0001f373", "\U0001f469", "\u0645\u06cc\u200c\u062e"], "here") == []
