"""The manifest of an audit: what was written is read, and what a reader cannot trust is refused by name."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlaudit.audit import journal as journals
from vlaudit.audit.journal import (
    MANIFEST,
    Journal,
    Manifest,
    PlannedProbe,
    Unit,
    UnitResult,
    read_manifest,
    read_part,
    trials_of,
)
from vlaudit.checksums import sealed
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import UsageError, VlauditWarning
from vlaudit.files import TEXT_BYTES
from vlaudit.records import Family, ModelInfo, PromptInfo, TargetInfo, Trial

NAMES = ("straße", "second")


def manifest(**fields: Any) -> Manifest:
    targets = [
        TargetInfo(id=name, family=Family.MATCHING, model=ModelInfo(spec=f"hf:{name}"), prompt=PromptInfo(id="p", method="hard"))
        for name in NAMES
    ]
    given: dict[str, Any] = {
        "version": "0", "id": "a", "digest": "d", "command": "vlaudit scan", "started": "now", "targets": targets,
        "request": Request(targets=[TargetSpec(model=f"hf:{name}") for name in NAMES], probes=["p"]),
        "planned": [PlannedProbe(target=name, probe="p", units=[Unit(id=name, subject="s", probe="p", arm="target", cases=["c"])])
                    for name in NAMES],
    }  # fmt: skip
    return Manifest(**given | fields)


def refused(folder: Path) -> UsageError:
    """The error of a reader, which names the file and a cure."""
    with pytest.raises(UsageError) as caught:
        read_manifest(folder)
    assert str(folder) in caught.value.message and caught.value.cure
    return caught.value


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = manifest(environment={"python": "3", "cores": 2}, batch_size=7, fingerprints={NAMES[0]: {"model": "0"}}, replays="b/F1")
    Journal(tmp_path).write_manifest(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_manifest(tmp_path) == made
    text = (tmp_path / MANIFEST).read_text("utf-8")
    assert NAMES[0] in text and text.count("\n") > 20, "a person can read it"
    assert made.specs == {name: TargetSpec(model=f"hf:{name}") for name in NAMES}


def test_half_of_a_surrogate_pair_in_a_name_does_not_spoil_it(tmp_path: Path) -> None:
    Journal(tmp_path).write_manifest(manifest(command="vlaudit scan \ud800"))
    assert read_manifest(tmp_path).command == "vlaudit scan \ufffd"


def test_a_folder_without_one_is_no_audit(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert MANIFEST in error.message and "not an audit folder" in error.message


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    Journal(tmp_path).write_manifest(manifest())
    (tmp_path / MANIFEST).rename(tmp_path / "elsewhere")
    for other in ("elsewhere", "nowhere"):
        (tmp_path / MANIFEST).symlink_to(tmp_path / other)
        assert "is a link" in refused(tmp_path).message
        (tmp_path / MANIFEST).unlink()


def test_no_part_is_read_beyond_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"0" * 100)
    assert read_part(tmp_path, "x", 100) == b"0" * 100
    with pytest.raises(UsageError, match="is larger than"):
        read_part(tmp_path, "x", 99)
    Journal(tmp_path).write_manifest(manifest())
    asked: list[int] = []

    def read_bytes(path: Path, limit: int, **more: bool) -> bytes:
        asked.append(limit)
        return path.read_bytes()

    monkeypatch.setattr(journals, "read_bytes", read_bytes)
    assert read_manifest(tmp_path) == manifest() and asked == [TEXT_BYTES]


def test_each_flipped_byte_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).write_manifest(manifest())
    sound, true = (tmp_path / MANIFEST).read_bytes(), read_manifest(tmp_path)
    for place in range(0, len(sound), 7):
        (tmp_path / MANIFEST).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        try:
            assert read_manifest(tmp_path) == true and place > sound.rindex(b'"checksum"'), place
        except UsageError:
            continue


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The manifest with a change and a checksum that agrees with it."""
    value = json.loads((folder / MANIFEST).read_text())
    value.pop("checksum")
    change(value)
    (folder / MANIFEST).write_text(sealed(json.dumps(value))[0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v["targets"].pop(), "other targets than its request"),
        (lambda v: v["request"]["targets"].pop(), "other targets than its request"),
        (lambda v: v["targets"].__setitem__(1, v["targets"][0]), "other targets than its request"),
        (lambda v: v["planned"][1].__setitem__("target", "third"), "none of its targets"),
        (lambda v: v["environment"].__setitem__("cores", float("nan")), "not finite"),
        (lambda v: v.pop("request"), "not a manifest this vlaudit can read"),
        (lambda v: v.__setitem__("more", 1), "not a manifest this vlaudit can read"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str) -> None:
    Journal(tmp_path).write_manifest(manifest())
    edited(tmp_path, lambda _: None)
    assert read_manifest(tmp_path) == manifest()
    edited(tmp_path, change)
    assert why in refused(tmp_path).message


def test_fewer_planned_targets_are_fine(tmp_path: Path) -> None:
    Journal(tmp_path).write_manifest(manifest(planned=[]))
    assert read_manifest(tmp_path).planned == []


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", '{"x": 1}'])
def test_junk_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, "latin-1")
    refused(tmp_path)


def test_only_earlier_versions_may_lack_the_checksum(tmp_path: Path) -> None:
    for version in ("1.1", "1.0"):
        Journal(tmp_path).write_manifest(manifest(schema_version=version))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_manifest(tmp_path).schema_version == version
        text = (tmp_path / MANIFEST).read_text()
        (tmp_path / MANIFEST).write_text(re.sub(r',\s*"checksum": "[0-9a-f]*"', "", text))
        if version == "1.1":
            assert "lost its checksum" in refused(tmp_path).message
        else:
            with pytest.warns(VlauditWarning, match="without checksums") as caught:
                assert read_manifest(tmp_path) == manifest(schema_version="1.0")
            assert str(tmp_path) in str(caught[0].message)


def test_trials_come_in_the_order_of_the_plan() -> None:
    units = [Unit(id=name, subject="s", probe="p", arm="target", cases=[name]) for name in "bac"]
    found = {name: UnitResult(unit=name, trials=[Trial(case=name, arm="target")]) for name in "ab"}
    assert [trial.case for trial in trials_of(found, units)] == ["b", "a"]
